"""Hold-out and cross-validation splits, the paired bootstrap, swapped labels: what the gate does without a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from worker.learning.corrections.class_maps import drawn_classes
from worker.learning.corrections.examples import with_words
from worker.learning.gate.comparison import Comparison
from worker.learning.gate.splits import (
    HOLD_OUT_FROM,
    MOST_EVALUATED,
    evaluation_split,
    halve,
    hold_out_split,
    is_held_out,
    keys_now,
)
from worker.learning.gate.swaps import find_swaps
from worker.learning.interfaces import UNLABELLED, Example
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.metrics import VOID, class_ious, confusion

WORDS = (("a",), ("b",), ("c",))
_EMBEDDING = ImageEmbedding(torch.zeros(1, 1, 1), (8, 8))


def example(key: str, *labels: int) -> Example:
    """An image with a strip for each label from left to right, and an empty last column."""
    truth = np.full((8, 8), UNLABELLED, dtype=np.int16)
    for place, label in enumerate(labels):
        truth[:, 2 * place : 2 * place + 2] = label
    return Example(key, np.zeros((8, 8, 3), dtype=np.uint8), _EMBEDDING, WORDS, truth)


def examples(count: int, *labels: int) -> list[Example]:
    return [example(str(number), *labels) for number in range(count)]


def keys(found: Sequence[Example]) -> list[str]:
    return [e.key for e in found]


def test_an_image_that_gets_a_second_one_beside_it_was_learned_from_all_the_same() -> None:
    before = [str(number) for number in range(1, 11)]
    now = [example(f"{task}/{image}/0", 0) for task in range(1, 13) for image in ("image", "other")]
    seen = keys_now(before, now)
    assert seen == {f"{task}/{image}/0" for task in before for image in ("image", "other")}, "which one is not known"
    crossed = [image.example.key for image in evaluation_split(now, [], seen).images]
    assert {key.partition("/")[0] for key in crossed} == {"11", "12"}
    alone = examples(13, 0)
    assert keys_now(seen, alone) == set(before), "and back again"
    assert keys_now([*before, "99"], alone) == {*before, "99"}, "what is gone is not forgotten"
    assert keys_now(["1/image/0"], now) == {"1/image/0"}


def test_nothing_is_held_out_before_the_stated_number() -> None:
    few = examples(HOLD_OUT_FROM - 1, 0)
    assert hold_out_split(few) == (few, [])
    learn, hold_out = hold_out_split(examples(HOLD_OUT_FROM, 0))
    assert len(learn) + len(hold_out) == HOLD_OUT_FROM
    assert hold_out


def test_a_key_never_changes_sides_as_others_are_added_or_removed() -> None:
    many = examples(300, 0)
    sides = {e.key: held for held, part in enumerate(hold_out_split(many)) for e in part}
    assert 0.14 < sum(sides.values()) / 300 < 0.26
    rng = np.random.default_rng(0)
    for count in (20, 50, 299):
        some = [many[k] for k in rng.permutation(300)[:count]]
        learn, hold_out = hold_out_split(some)
        assert all(sides[e.key] == 0 for e in learn)
        assert all(sides[e.key] == 1 for e in hold_out)
    relabelled = hold_out_split([example(e.key, 1, 2) for e in many])
    assert keys(relabelled[1]) == [key for key, held in sides.items() if held]


def test_what_the_served_adapter_was_trained_on_is_not_held_out() -> None:
    many = examples(HOLD_OUT_FROM + 20, 0)
    seen = keys(many[:15])
    assert any(map(is_held_out, seen))
    learn, hold_out = hold_out_split(many, seen)
    assert keys(hold_out) == [e.key for e in many[15:] if is_held_out(e.key)]
    assert keys(learn) == [e.key for e in many if e.key in seen or not is_held_out(e.key)]


def test_what_is_served_next_never_learned_from_what_is_held_out_by_then() -> None:
    many, seen = examples(60, 0), list[str]()
    held_out_before = set[str]()
    for count in range(1, len(many) + 1):
        learn, hold_out = hold_out_split(many[:count], seen)
        assert set(keys(learn)) >= set(seen), "what is served knows nothing that its successor does not"
        assert held_out_before <= set(keys(hold_out))
        assert len(hold_out) >= sum(is_held_out(e.key) for e in many[19:count])
        held_out_before = set(keys(hold_out))
        if count % 3 == 0:
            seen = keys(learn)
    assert len(held_out_before) >= 5


def test_all_images_of_a_task_are_on_one_side() -> None:
    number = next(k for k in range(99) if is_held_out(f"{k}"))
    many = [*examples(30, 0), *(example(f"{number}/{page}", 0) for page in range(3))]
    _, hold_out = hold_out_split(many)
    assert set(keys(hold_out)) >= {f"{number}/{page}" for page in range(3)}
    _, hold_out = hold_out_split(many, [f"{number}/0"])
    assert not {f"{number}/{page}" for page in range(3)} & set(keys(hold_out))


def test_a_new_image_of_a_known_task_is_evaluated_by_what_was_learned_from_other_tasks() -> None:
    learn = [*examples(5, 0), example("page/0", 0), example("page/1", 0)]
    planned = evaluation_split(learn, [], seen=[*keys(learn[:6])])
    assert [image.example.key for image in planned.images] == ["page/1"]
    assert [keys(learned) for learned in planned.training_sets] == [keys(learn[:5])]


def test_which_keys_are_held_out_is_the_same_for_ever() -> None:
    assert [key for key in range(40) if is_held_out(str(key))] == [6, 16, 20, 26, 30, 31, 37, 39]


def test_every_image_is_evaluated_by_what_was_learned_from_others() -> None:
    learn = examples(9, 0, 1)
    planned = evaluation_split(learn, [])
    assert sorted(t.example.key for t in planned.images) == sorted(keys(learn))
    assert len(planned.training_sets) == 3
    for image in planned.images:
        assert image.fold is not None
        assert image.example.key not in keys(planned.training_sets[image.fold])


def test_images_of_one_task_are_evaluated_by_what_was_learned_from_other_tasks() -> None:
    pages = [example(f"{task}/page/{number}", 0) for task in range(4) for number in range(3)]
    split = evaluation_split(pages, [])
    assert len(split.images) == 12
    for image in split.images:
        assert image.fold is not None
        learned = {key.partition("/")[0] for key in keys(split.training_sets[image.fold])}
        assert image.example.key.partition("/")[0] not in learned
    assert len(evaluation_split(pages[:3], []).images) == 3, "the images of a single task evaluate each other"
    assert {is_held_out(page.key) for page in pages[:3]} == {is_held_out("0")}


def test_labels_that_one_image_alone_shows_are_evaluated_within_it() -> None:
    planned = evaluation_split([example("x", 0, 1), example("y", 0), example("z", 0)], [])
    images = [(t, planned.training_sets[t.fold]) for t in planned.images if t.fold is not None and t.example.key == "x"]
    (between,) = [image for image, training in images if "x" not in keys(training)]
    assert drawn_classes(between.example.truth) == {0}, "label 1 is VOID there"
    within = [image for image, training in images if "x" in keys(training)]
    assert len(within) == 2
    judged = np.zeros((8, 8), dtype=int)
    for image in within:
        assert image.fold is not None
        (half,) = [e for e in planned.training_sets[image.fold] if e.key == "x"]
        assert ((half.truth == VOID) != (image.example.truth == VOID)).all(), "what is evaluated was not learned"
        judged += image.example.truth != VOID
    assert (judged == 1).all()


def test_a_single_image_is_cut_so_that_labels_lie_on_both_sides() -> None:
    side_by_side = example("x", 0, 1).truth
    for cut, truth in ((halve(side_by_side), side_by_side), (halve(side_by_side.T), side_by_side.T)):
        for label in (0, 1):
            assert 0.3 < cut[truth == label].mean() < 0.7
    planned = evaluation_split([example("x", 0, 1)], [])
    assert len(planned.images) == len(planned.training_sets) == 2


def test_held_out_images_evaluate_alone_when_they_are_enough_and_show_all_labels() -> None:
    learn, hold_out = examples(12, 0, 1), [example(f"h{k}", 0, 1) for k in range(3)]
    planned = evaluation_split(learn, hold_out)
    assert [t.fold for t in planned.images] == [None] * 3
    assert planned.training_sets == ()


def test_labels_not_held_out_are_cross_validated() -> None:
    learn = [*examples(8, 0), example("p", 0, 2), example("q", 2), example("r", 2)]
    planned = evaluation_split(learn, [example(f"h{k}", 0) for k in range(3)])
    assert {t.example.key for t in planned.images if t.fold is not None} == {"p", "q", "r"}


def test_held_out_images_that_the_served_adapter_was_trained_on_do_not_evaluate() -> None:
    hold_out = [example(f"h{k}", 0) for k in range(4)]
    planned = evaluation_split(examples(6, 0), hold_out, seen={"h0", "h1"})
    assert {t.example.key for t in planned.images if t.fold is None} == {"h2", "h3"}
    assert len([t for t in planned.images if t.fold is not None]) == 6, "two are too few to evaluate alone"


def test_only_images_that_the_served_adapter_was_not_trained_on_are_cross_validated() -> None:
    learn = [*examples(16, 0, 1), example("rare", 2)]
    fresh = set(keys(learn[12:16]))
    planned = evaluation_split(learn, [], seen={*keys(learn)} - fresh)
    assert {image.example.key for image in planned.images} == fresh
    assert [len(learned) for learned in planned.training_sets] == [15, 16, 16], "no fold knows less than what is served"
    many = examples(90, 0)
    late = evaluation_split(many, [], seen=keys(many[:85]))
    assert {image.example.key for image in late.images} == set(keys(many[85:])), "before the number is bounded"


@pytest.mark.parametrize("fresh", [[], [example("empty")], [example("lone", 2)]])
def test_all_are_cross_validated_where_no_new_image_shows_a_label(fresh: list[Example]) -> None:
    learn = examples(6, 0, 1)
    for one in fresh:
        one.truth[1:] = VOID  # so that no half of it can teach the other
        one.truth[:, 1:] = VOID
    planned = evaluation_split([*learn, *fresh], [], seen=keys(learn))
    assert {image.example.key for image in planned.images} >= set(keys(learn))


def test_the_number_of_evaluated_images_is_bounded() -> None:
    learn, hold_out = examples(90, 0), [example(f"h{k}", 1) for k in range(90)]
    planned = evaluation_split(learn, hold_out)
    assert [t.fold is None for t in planned.images] == [True] * MOST_EVALUATED + [False] * MOST_EVALUATED
    assert len(planned.training_sets) == 3
    longer = evaluation_split([*learn, example("late", 0)], hold_out)
    assert len({t.example.key for t in planned.images} - {t.example.key for t in longer.images}) <= 1


def test_confusions_and_ious() -> None:
    truth = np.array([[0, 0, 1, 2], [0, VOID, 1, 2]], dtype=np.int16)
    found = np.array([[0, 1, 1, 2], [0, 2, 1, 0]], dtype=np.int16)
    counted = confusion(truth, found, 4)
    assert counted.sum() == 7
    assert counted[0].tolist() == [2, 1, 0, 0]
    ious = class_ious(counted)
    assert ious[:3] == pytest.approx([2 / 4, 2 / 3, 1 / 2])
    assert np.isnan(ious[3])


def compare(gains: Sequence[int], *, label: int = 0) -> Comparison:
    """Units of 100 pixels of two classes; in unit k, `gains[k]` more pixels of a label are right."""
    before, after = [], []
    for gain in gains:
        pair = np.array([[50, 50], [50, 50]]), np.array([[50, 50], [50, 50]])
        pair[1][label, label] += gain
        pair[1][label, 1 - label] -= gain
        before.append(pair[0])
        after.append(pair[1])
    return Comparison.of(before, after)


def test_a_gain_in_all_units_is_certain_and_one_in_a_single_unit_is_not() -> None:
    steady, lucky = compare([10] * 6), compare([45, -4, -4, -4, -4, -4])
    assert steady.lower_bound(0.05) > 0
    assert steady.mean_ious[1] > steady.mean_ious[0]
    assert lucky.mean_ious[1] > lucky.mean_ious[0]
    assert lucky.lower_bound(0.05) < 0


def test_differences_are_paired_so_the_difficulty_of_a_unit_does_not_count() -> None:
    """Units of very different difficulty, each a little better: unpaired it would drown in their spread."""
    before = [np.array([[hits, 100 - hits], [0, 100]]) for hits in (5, 30, 60, 90)]
    after = [unit + np.array([[3, -3], [0, 0]]) for unit in before]
    assert Comparison.of(before, after).lower_bound(0.05) > 0


def test_harm_to_one_class_is_seen_though_the_mean_gains() -> None:
    before, after = [], []
    for _ in range(5):
        unit = np.diag([60, 60, 60]) + 20
        better = unit.copy()
        better[1] += (-20, 40, -20)
        better[2] += (-20, 40, -20)
        better[2, 2] += 0
        before.append(unit)
        after.append(better)
    comparison = Comparison.of(before, after)
    assert comparison.harmed(drop=0.03, share=0.9) == [2]
    assert comparison.harmed(drop=0.9, share=0.9) == []


def test_units_without_pixels_are_left_out() -> None:
    nothing = np.zeros((2, 2), dtype=np.int64)
    comparison = Comparison.of([np.eye(2, dtype=np.int64), nothing], [np.eye(2, dtype=np.int64), nothing])
    assert comparison.baseline.shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("counts", "cycles"),
    [
        pytest.param([[10, 90, 0], [80, 10, 10], [0, 0, 100]], [(0, 1)], id="two swapped"),
        pytest.param([[0, 100, 0], [0, 0, 100], [100, 0, 0]], [(0, 1, 2)], id="a cycle of three"),
        pytest.param([[90, 10, 0], [10, 90, 0], [0, 0, 100]], [], id="honest"),
        pytest.param([[100, 0, 0], [100, 0, 0], [100, 0, 0]], [], id="all predicted as one"),
        pytest.param([[0, 100, 0], [0, 100, 0], [0, 100, 0]], [], id="all predicted as another"),
        pytest.param([[30, 40, 30], [40, 30, 30], [30, 30, 40]], [], id="random"),
        pytest.param([[45, 55, 0], [60, 40, 0], [0, 0, 100]], [], id="often confused is not swapped"),
        pytest.param([[0, 9, 0], [9, 0, 0], [0, 0, 9]], [], id="too few pixels"),
        pytest.param([[0, 100, 0], [0, 0, 100], [0, 100, 0]], [(1, 2)], id="one leads into a cycle"),
        pytest.param([[0, 0], [0, 0]], [], id="nothing"),
    ],
)
def test_swaps_are_cycles_of_labels_clearly_predicted_as_one_another(
    counts: list[list[int]], cycles: list[tuple[int, ...]]
) -> None:
    assert find_swaps(np.array(counts, dtype=np.float64)) == cycles


def test_examples_are_renumbered_for_other_words() -> None:
    old = example("x", 0, 1, 2)
    old.truth[0, 0] = VOID
    new = with_words(old, (("c",), ("a",)))
    assert new.truth[1].tolist() == [1, 1, VOID, VOID, 0, 0, UNLABELLED, UNLABELLED]
    assert new.truth[0, 0] == VOID
    assert with_words(old, WORDS) is old
