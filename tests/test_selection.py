"""Which image is corrected next: coverage, rarity, the share at random, and input that says little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worker.learning.gate.splits import is_held_out
from worker.learning.selection.candidates import Candidate, Vector
from worker.learning.selection.choosing import (
    AT_RANDOM,
    FEWEST_DIVERSE,
    RANDOM_SHARE,
    TYPICAL,
    UNLIKE,
    next_images,
)
from worker.learning.selection.coverage import Coverage
from worker.learning.selection.vectors import VECTOR_SIZE, image_vector
from worker.learning.selection.worth import NOT_PREDICTED, UNCERTAIN
from worker.segmentation.encoders.encoder import ImageEmbedding

HELD_OUT = [key for key in map(str, range(4000)) if is_held_out(key)]
OTHERS = [key for key in map(str, range(4000)) if not is_held_out(key)]
MANY = [None] * FEWEST_DIVERSE
"""Corrected images enough that diversity does not decide alone, nothing known of what they look like."""


def unit(*numbers: float) -> Vector:
    values = np.array(numbers, dtype=np.float32)
    return np.asarray(values / np.linalg.norm(values), dtype=np.float32)


def chosen(
    candidates: Sequence[Candidate], corrected: Sequence[Vector | None] = (), counts: Mapping[str, int] | None = None
) -> list[tuple[str, str]]:
    """Key and reason of all that have content to be chosen by."""
    found = next_images(candidates, corrected, counts or {}, count=99, random_share=0, seed=0)
    assert [choice.rank for choice in found] == list(range(len(found)))
    return [(choice.key, choice.reason) for choice in found]


def test_the_first_is_typical_and_each_further_one_stands_for_most_of_the_rest() -> None:
    vectors = np.stack([unit(*row) for row in np.random.default_rng(0).standard_normal((12, 3))])
    place = {key: number for number, key in enumerate(OTHERS[:12])}
    found = chosen([Candidate(key, vectors[number]) for key, number in place.items()])[:FEWEST_DIVERSE]
    taken = [place[key] for key, _ in found]
    assert [reason for _, reason in found] == [TYPICAL, UNLIKE, UNLIKE, UNLIKE]
    centred = np.stack([unit(*row) for row in vectors - vectors.mean(axis=0)])
    likeness = centred @ centred.T
    for count in range(len(taken)):
        totals = [likeness[[*taken[:count], k]].max(axis=0).sum() for k in range(12)]
        assert totals[taken[count]] == pytest.approx(max(totals))
        assert taken[count] not in taken[:count]


def test_an_outlier_is_the_farthest_and_stands_for_nothing() -> None:
    crowd = [unit(1, 0.1 * k, 0) for k in range(-4, 5)] + [unit(0, 0.1 * k, 1) for k in range(-4, 5)]
    outlier = unit(-1, -1, -1)
    coverage = Coverage([*crowd, outlier])
    coverage.cover(crowd[:1])
    everywhere = np.ones(len(crowd) + 1, dtype=np.bool_)
    assert coverage.farthest(everywhere) == len(crowd)
    assert 9 <= coverage.representative(everywhere) < 18


def test_what_is_corrected_already_is_covered() -> None:
    north, east = Candidate(OTHERS[0], unit(0, 1)), Candidate(OTHERS[1], unit(1, 0))
    assert chosen([north, east], [unit(0.1, 1)])[0] == (east.key, UNLIKE)
    assert chosen([north, east], [unit(1, 0.1), None])[0] == (north.key, UNLIKE)


def test_after_diversity_the_uncertain_and_rare_come_first() -> None:
    candidates = [
        Candidate(OTHERS[0], None, 0.2, {"dog": 0.9}),  # .8 x 1/4
        Candidate(OTHERS[1], None, 0.7, {"dog": 0.9, "cat": 0.8}),  # .3 x .8
        Candidate(OTHERS[2], None, 0.9, {"cat": 1.0}),  # .1 x 1
        Candidate(OTHERS[3], None, 0.4, {}),  # .6 x 1/4, as the commonest label
    ]
    found = chosen(candidates, MANY, {"dog": 15, "cat": 0})
    assert found == [(OTHERS[1], "rare label 'cat', uncertain"), (OTHERS[0], UNCERTAIN), (OTHERS[3], UNCERTAIN),
                     (OTHERS[2], "rare label 'cat', uncertain")]  # fmt: skip
    assert [key for key, _ in chosen(candidates, MANY, {"dog": 15, "cat": 99})] == [
        OTHERS[0], OTHERS[1], OTHERS[3], OTHERS[2]
    ]  # fmt: skip


def test_the_uncertain_that_are_much_alike_wait_for_others() -> None:
    alike = [Candidate(key, unit(1, 0.01 * number), 0.1) for number, key in enumerate(OTHERS[:4])]
    other = [Candidate(key, unit(0.1 * number, 1), 0.8) for number, key in enumerate(OTHERS[4:8])]
    found = [key for key, _ in chosen([*alike, *other], [*MANY, unit(1, 0)])]
    assert found[0] in OTHERS[4:8]
    assert sum(key in OTHERS[4:8] for key in found[:4]) >= 2
    blind = [Candidate(one.key, None, one.margin) for one in (*alike, *other)]
    assert set([key for key, _ in chosen(blind, MANY)][:4]) == {one.key for one in alike}


def test_the_share_at_random_goes_to_held_out_images_whatever_they_show() -> None:
    rng = np.random.default_rng(1)
    pool = [*HELD_OUT[:60], *OTHERS[:240]]
    margins = dict(zip(pool, rng.random(len(pool)), strict=True))

    def held_out(margin_of: Mapping[str, float], count: int, done: int, seed: int = 0) -> list[str]:
        candidates = [Candidate(key, unit(*rng.standard_normal(4)), margin_of[key]) for key in pool]
        found = next_images(candidates, [None] * done, {}, count=count, seed=seed)
        assert all((choice.reason == AT_RANDOM) == (choice.key in HELD_OUT) for choice in found)
        return [choice.key for choice in found if choice.reason == AT_RANDOM]

    first = held_out(margins, 200, done=0)
    assert len(first) == 200 * RANDOM_SHARE
    assert first == held_out({key: 1 - margin for key, margin in margins.items()}, 200, done=0)
    assert first != held_out(margins, 200, done=0, seed=1)
    # The share holds over all that is ever corrected, although the choice is made anew after every few.
    assert sum(len(held_out(margins, 1, done=done)) for done in range(100)) == 100 * RANDOM_SHARE
    mean = np.mean([margins[key] for seed in range(20) for key in held_out(margins, 100, done=0, seed=seed)])
    assert mean == pytest.approx(np.mean([margins[key] for key in HELD_OUT[:60]]), abs=0.05)


def test_what_is_left_is_chosen_when_either_kind_runs_out() -> None:
    held_out, others = [Candidate(key) for key in HELD_OUT[:3]], [Candidate(key) for key in OTHERS[:12]]
    assert len(chosen([*held_out, *others])) == 15
    assert [reason for _, reason in chosen(held_out)] == 3 * [AT_RANDOM]
    assert len(next_images(others, [], {}, count=99, random_share=1, seed=0)) == 12
    assert chosen([Candidate("7", unit(1, 0), 0.5)]) == [("7", AT_RANDOM if is_held_out("7") else TYPICAL)]
    assert chosen([]) == []
    assert next_images(others, [], {}, count=0) == []


def test_the_choice_is_the_same_for_any_order_of_the_candidates() -> None:
    rng = np.random.default_rng(2)
    vectors = [unit(*row) for row in rng.standard_normal((5, 3))]
    candidates = [Candidate(str(n), vectors[n % 5], float(n % 3) / 2, {"ab"[n % 2]: 0.5}) for n in range(60)]
    shuffled = [candidates[int(number)] for number in rng.permutation(60)]
    both = [next_images(some, vectors[:1], {"a": 3}, count=30, seed=5) for some in (candidates, shuffled)]
    assert both[0] == both[1]
    assert len({choice.key for choice in both[0]}) == 30


@pytest.mark.parametrize(
    "vector",
    [
        pytest.param(None, id="none"),
        pytest.param(np.zeros(3, dtype=np.float32), id="zero"),
        pytest.param(np.array([1, np.nan, 0], dtype=np.float32), id="NaN"),
        pytest.param(np.array([np.inf, 0, 0], dtype=np.float32), id="infinite"),
        pytest.param(np.ones(2, dtype=np.float32), id="of another length"),
        pytest.param(np.ones((3, 3), dtype=np.float32), id="a matrix"),
    ],
)
def test_a_vector_that_says_nothing_is_not_known(vector: Vector | None) -> None:
    known = [Candidate(key, unit(1, number, 0), 0.5) for number, key in enumerate(OTHERS[:5])]
    strange = Candidate(OTHERS[5], vector, 0.0)
    found = chosen([*known, strange], [vector, unit(1, 0, 0)])
    assert found[0][0] != strange.key
    assert found[0][1] == UNLIKE
    assert len(found) == 6
    # It is no reason to wait either: where uncertainty decides, it comes first.
    assert chosen([*known, strange], [*MANY, vector, unit(1, 0, 0)])[0] == (strange.key, UNCERTAIN)


def test_margins_and_scores_that_are_not_known_are_neutral() -> None:
    nan = float("nan")
    margins = {OTHERS[0]: 0.1, OTHERS[1]: nan, OTHERS[2]: 0.9, OTHERS[3]: 0.5}
    found = chosen([Candidate(key, None, margin, {"cat": nan}) for key, margin in margins.items()], MANY, {"cat": 3})
    assert (found[0][0], found[3][0]) == (OTHERS[0], OTHERS[2])
    assert (OTHERS[1], NOT_PREDICTED) in found
    assert len(chosen([Candidate(key) for key in OTHERS[:9]])) == 9
    assert {reason for _, reason in chosen([Candidate(key) for key in OTHERS[:9]])} == {NOT_PREDICTED}
    wild = [Candidate(OTHERS[0], None, -3.0, {"cat": 7.0}), Candidate(OTHERS[1], None, 99.0, {"cat": -1.0})]
    assert [key for key, _ in chosen(wild, MANY)] == OTHERS[:2]


def test_images_that_look_all_alike_are_all_chosen() -> None:
    candidates = [Candidate(key, unit(1, 2), number / 9) for number, key in enumerate(OTHERS[:9])]
    assert {key for key, _ in chosen(candidates)} == set(OTHERS[:9])
    assert [key for key, _ in chosen(candidates, MANY)] == OTHERS[:9]


def test_a_hundred_thousand_candidates_are_gone_through_once_for_each_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes time is counted, not timed: one product with one vector for each choice, and tables of bounded size
    for all that is corrected.
    """
    count, corrected = 100_000, 700
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((count + corrected, 8)).astype(np.float32)
    candidates = [Candidate(str(n), vectors[n], 0.5, {"cat": 0.5}) for n in range(count)]
    largest: list[int] = []
    cosines = Coverage.cosines

    def counted(self: Coverage, to: NDArray[np.float32]) -> NDArray[np.float32]:
        largest.append(len(to))
        return cosines(self, to)

    monkeypatch.setattr(Coverage, "cosines", counted)
    found = next_images(candidates, list(vectors[count:]), {"cat": 700}, count=20, seed=0)
    assert len({choice.key for choice in found}) == 20
    assert max(largest) * count <= 1 << 23
    assert sum(largest) == corrected + 20


def test_what_cannot_be_asked_is_refused() -> None:
    for count, share in ((-1, 0.1), (1, -0.1), (1, 1.1)):
        with pytest.raises(ValueError, match="count must not be negative and random_share in"):
            next_images([], [], {}, count=count, random_share=share)


def test_the_vector_of_an_image_is_short_and_keeps_what_is_far_apart() -> None:
    rng = np.random.default_rng(4)
    wide = [torch.from_numpy(rng.standard_normal((4, 5, 512)).astype(np.float32)) + 1 for _ in range(6)]
    vectors = [image_vector(ImageEmbedding(features, (40, 50))) for features in wide]
    assert all(v is not None and v.shape == (VECTOR_SIZE,) and np.linalg.norm(v) == pytest.approx(1) for v in vectors)
    means = torch.nn.functional.normalize(torch.stack([features.mean(dim=(0, 1)) for features in wide]), dim=1).numpy()
    short = np.stack([vector for vector in vectors if vector is not None])
    pairs = np.triu_indices(6, 1)
    true, kept = ((1 - rows @ rows.T)[pairs] for rows in (means, short))
    assert kept == pytest.approx(true, rel=0.5)
    assert kept.mean() == pytest.approx(true.mean(), rel=0.2)
    narrow = image_vector(ImageEmbedding(torch.ones(2, 2, 3), (20, 20)))
    assert narrow == pytest.approx(np.full(3, 3**-0.5))
    assert image_vector(ImageEmbedding(torch.zeros(2, 2, 3), (20, 20))) is None
    assert image_vector(ImageEmbedding(torch.full((2, 2, 200), torch.nan), (20, 20))) is None
