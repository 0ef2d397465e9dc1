"""The quick recipe on drawn pictures: what is corrected gets better, what is not keeps the model's words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from plugin_config.errors import LearningError
from worker.lab.drawn_world.annotation_set import annotation_scene, index_truth
from worker.learning.interfaces import UNLABELLED, AdapterState, Example, Words
from worker.learning.recipes import recipe_named
from worker.learning.recipes.generated import generate_examples
from worker.learning.recipes.quick import classifier
from worker.learning.recipes.quick.augmentation import Augmentation
from worker.learning.recipes.quick.classifier import ClassifierConfig
from worker.learning.recipes.quick.ensemble import EnsembleConfig
from worker.learning.recipes.quick.features import TOWER_COMPONENTS, FeatureExtractor, cell_grid, match_classes
from worker.learning.recipes.quick.recipe import QuickAdapter, QuickRecipe, _LastImage
from worker.learning.recipes.quick.retrieval import MemoryBank
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.heads import Head, ImageScores
from worker.segmentation.metrics import VOID
from worker.segmentation.outlines.refinement import ADAPTIVE, FINE
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

DRAWN = ("red shape", "blue shape", "green shape", "yellow shape")
HALF: Words = (("wug",), ("dax",), ("green shape",), ("yellow shape",))
"""The first two are corrected; the model knows the words of the others only."""
READ: Words = (("red shape",), ("blue shape",), *HALF[2:])
"""The same in words that the model knows."""
KNOWN: Words = (("star",), ("heart",), ("red shape",), ("blue shape",))
Truth = NDArray[np.int16]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Encoder("builtin", device="cpu"))


def pictures(
    segmenter: Segmenter, labels: Sequence[str], words: Words, numbers: range, *, drawn: Sequence[int]
) -> list[tuple[Example, Truth]]:
    """Examples in which only some labels have been drawn, and the truth about all of them."""
    found = []
    for number in numbers:
        scene = annotation_scene(np.random.default_rng((5, number)), labels, number=number, size=(150, 200), unit=100)
        truth = index_truth(scene, labels).astype(np.int16) - 1
        shown = np.where(np.isin(truth, drawn), truth, UNLABELLED).astype(np.int16)
        example = Example(f"{number}", scene.image, segmenter.embed([scene.image])[0], words, shown)
        found.append((example, truth))
    return found


@pytest.fixture(scope="module")
def corrected(segmenter: Segmenter) -> list[Example]:
    return [example for example, _ in pictures(segmenter, DRAWN, HALF, range(5), drawn=(0, 1))]


@pytest.fixture(scope="module")
def unseen(segmenter: Segmenter) -> list[tuple[Example, Truth]]:
    return pictures(segmenter, DRAWN, HALF, range(100, 110), drawn=())


@pytest.fixture(scope="module")
def learned(corrected: list[Example], segmenter: Segmenter) -> QuickAdapter:
    return QuickRecipe().fit(corrected, HALF, segmenter)


@pytest.fixture(scope="module")
def early(corrected: list[Example], segmenter: Segmenter) -> QuickAdapter:
    """Learned from so few that all is seen."""
    return QuickRecipe(views=4).fit(corrected[:3], HALF, segmenter)


def score(example: Example, segmenter: Segmenter, words: Words = HALF) -> ImageScores:
    return segmenter.score(example.embedding, words, example.image)


def ious(
    segmenter: Segmenter, head: Head | None, judged: Sequence[tuple[Example, Truth]], words: Words
) -> NDArray[np.float64]:
    """IoU of each label over all pictures."""
    counts = np.zeros((2, len(words)))
    for example, truth in judged:
        found, _ = segmenter.pixel_classes(score(example, segmenter, words), head)
        for label in range(len(words)):
            mine, real = found == label, truth == label
            counts += np.outer([(mine & real).sum(), (mine | real).sum()], np.eye(len(words))[label])
    return np.asarray(counts[0] / counts[1])


def test_half_of_the_labels_corrected_gain_and_the_others_lose_nothing(
    learned: QuickAdapter, unseen: list[tuple[Example, Truth]], segmenter: Segmenter
) -> None:
    before, after = (ious(segmenter, head, unseen, HALF) for head in (None, learned))
    assert (after - before)[:2].mean() >= 0.10
    assert after[:2].mean() > 0.6
    assert (after - before)[2:].mean() >= -0.01


def test_words_that_prove_right_are_not_unlearned(segmenter: Segmenter) -> None:
    shown = [example for example, _ in pictures(segmenter, KNOWN_LABELS, KNOWN, range(6), drawn=(0, 1))]
    judged = pictures(segmenter, KNOWN_LABELS, KNOWN, range(100, 108), drawn=())
    adapter = QuickRecipe().fit(shown, KNOWN, segmenter)
    before, after = (ious(segmenter, head, judged, KNOWN) for head in (None, adapter))
    assert adapter.extractor.trust > 0.5
    assert (after - before)[:2].mean() >= -0.02
    assert (after - before)[2:].mean() >= -0.01


KNOWN_LABELS = [texts[0] for texts in KNOWN]


def test_without_strength_it_is_the_zero_shot_model(
    learned: QuickAdapter, corrected: list[Example], segmenter: Segmenter
) -> None:
    image = score(corrected[0], segmenter)
    assert torch.equal(learned.at_strength(0).scores(image).logits, image.zero_shot.logits)
    assert learned.at_strength(0).taught(HALF) == ()
    half, whole = (learned.at_strength(s).scores(image).posterior() for s in (0.5, 1.0))
    assert not torch.equal(half, whole)


def test_strengths_share_what_was_learned_of_an_image(
    learned: QuickAdapter, unseen: list[tuple[Example, Truth]], segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    original = classifier.Classifier.logits

    def logits(self: classifier.Classifier, cells: classifier.CellInputs) -> torch.Tensor:
        asked.append(len(cells.offset.T))
        return original(self, cells)

    images = [score(example, segmenter) for example, _ in unseen[:2]]
    alone = [
        [replace(learned, strength=strength, _last=_LastImage()).scores(image).logits for strength in (0.5, 1.0)]
        for image in images
    ]
    monkeypatch.setattr(classifier.Classifier, "logits", logits)
    for image, expected in zip(images, alone, strict=True):
        for strength, one in zip((0.5, 1.0), expected, strict=True):
            assert torch.equal(learned.at_strength(strength).scores(image).logits, one)
    assert len(asked) == len(images)


def test_labels_without_text_are_learned_alike_at_any_strength(
    learned: QuickAdapter, corrected: list[Example], segmenter: Segmenter
) -> None:
    images = [score(corrected[0], segmenter, words) for words in (HALF[:2], HALF)]
    few, whole, half = (
        [learned.at_strength(strength).scores(image).posterior() for image in images] for strength in (0.01, 1.0, 0.5)
    )
    for other in (few, half):
        torch.testing.assert_close(other[0], whole[0])  # with nothing else there is no way to go
        torch.testing.assert_close(other[1][:2], whole[1][:2])
        assert not torch.allclose(other[1][2:], whole[1][2:])
        torch.testing.assert_close(other[1].sum(dim=0), torch.ones_like(other[1][0]))


def test_a_label_with_some_unknown_words_is_learned_alike_too(corrected: list[Example], segmenter: Segmenter) -> None:
    words: Words = (("red wug",), *HALF[1:])
    adapter = QuickRecipe(views=4).fit([replace(e, words=words) for e in corrected[:3]], words, segmenter)
    image = score(corrected[0], segmenter, words)
    assert not image.zero_shot.logits[0].isneginf().any(), "it is red, whatever a wug is"
    whole, weak = (head.scores(image).posterior() for head in (adapter, adapter.at_strength(0.25)))
    torch.testing.assert_close(weak[:2], whole[:2])


def test_a_label_that_lost_its_known_words_is_scored_by_what_was_learned(segmenter: Segmenter) -> None:
    words: Words = (("wug", "star"), *KNOWN[1:])
    shown = [example for example, _ in pictures(segmenter, KNOWN_LABELS, words, range(3), drawn=(0, 1))]
    adapter = QuickRecipe(views=4).fit(shown, words, segmenter)
    logits = adapter.scores(score(shown[0], segmenter, (("wug",), *KNOWN[1:]))).logits
    assert not logits.isnan().any()
    assert (logits.argmax(dim=0) == 0).any(), "by what was learned"


def test_where_all_is_labelled_nothing_is_left(learned: QuickAdapter, corrected: list[Example]) -> None:
    size = (427, 640)  # whose cells are no whole pixels
    labelled = replace(corrected[0], truth=np.zeros(size, np.int16))
    shares = learned.extractor.class_shares(labelled, Augmentation.identity((1, 1)), (1, 1))
    assert (shares[-1] == 0).all(), "not even by rounding"
    assert shares.min() >= 0
    torch.testing.assert_close(shares[0], torch.ones(cell_grid(size)))


def test_a_scene_without_its_image_keeps_its_logits(
    learned: QuickAdapter, corrected: list[Example], segmenter: Segmenter
) -> None:
    image = replace(score(corrected[0], segmenter), image=None)
    assert torch.equal(learned.scores(image).logits, image.zero_shot.logits)


def test_logits_come_on_a_finer_grid_and_are_finite(
    learned: QuickAdapter, corrected: list[Example], segmenter: Segmenter
) -> None:
    image = score(corrected[0], segmenter)
    logits = learned.scores(image).logits
    assert logits.shape == (len(HALF) + 1, *cell_grid((150, 200)))
    assert logits.shape[1] > image.zero_shot.logits.shape[1]
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_a_label_added_later_works_at_once(
    learned: QuickAdapter, unseen: list[tuple[Example, Truth]], segmenter: Segmenter
) -> None:
    later: Words = (("yellow shape",), ("wug",), ("purple shape",), ("dax", "sep"), ("green shape",))
    place = np.array([1, 3, 4, 0, UNLABELLED], dtype=np.int16)
    judged = [(example, place[truth]) for example, truth in unseen[:5]]
    found = ious(segmenter, learned, [(e, np.where(t == 2, UNLABELLED, t)) for e, t in judged], later)
    frozen = ious(segmenter, None, judged, later)
    assert set(learned.taught(later)) == {("wug",), ("dax", "sep")}
    assert found[[1, 3]].min() > 0.5  # found again by their texts, though another was added to one
    assert (found - frozen)[[0, 4]].mean() >= -0.02


def test_untaught_labels_keep_their_distances(
    learned: QuickAdapter, corrected: list[Example], segmenter: Segmenter
) -> None:
    image = score(corrected[0], segmenter)
    logits = learned.scores(image).logits
    said = learned.extractor.extract(image, corrected[0].image).zero_shot.logits
    torch.testing.assert_close(logits[2] - logits[3], said[2] - said[3])


def test_an_untaught_label_without_text_gets_no_pixel_and_takes_none(
    learned: QuickAdapter, corrected: list[Example], segmenter: Segmenter
) -> None:
    without, image = (score(corrected[0], segmenter, words) for words in (HALF, (*HALF[:3], ("fep", "zog"), HALF[3])))
    for strength in (1.0, 0.5):
        logits = learned.at_strength(strength).scores(image).logits
        assert logits[3].isneginf().all()
        others = logits[[0, 1, 2, 4, 5]]
        torch.testing.assert_close(others.softmax(0), learned.at_strength(strength).scores(without).posterior())


def test_a_taught_label_that_is_gone_becomes_background(
    learned: QuickAdapter, unseen: list[tuple[Example, Truth]], segmenter: Segmenter
) -> None:
    fewer: Words = (("dax",),)
    for example, truth in unseen[:3]:
        found, _ = segmenter.pixel_classes(score(example, segmenter, fewer), learned)
        assert (found[truth == 0] == len(fewer)).mean() > 0.8


def test_what_was_stored_is_what_comes_back(
    early: QuickAdapter, corrected: list[Example], segmenter: Segmenter
) -> None:
    state = early.at_strength(0.75).state()
    stored = AdapterState(state.recipe, state.tensors, json.loads(json.dumps(dict(state.about))))
    again = recipe_named(state.recipe).load(stored, segmenter)
    image = score(corrected[0], segmenter)
    assert torch.equal(again.scores(image).logits, early.at_strength(0.75).scores(image).logits)
    for lost in ("known", "encoder.middle", "tower1.directions", "weight0"):
        with pytest.raises(LearningError, match="incomplete"):
            QuickRecipe().load(replace(state, tensors={k: t for k, t in state.tensors.items() if k != lost}), segmenter)
    with pytest.raises(LearningError, match="made by recipe 'other'"):
        QuickRecipe().load(replace(state, recipe="other"), segmenter)


def test_tensors_that_do_not_fit_each_other_are_not_loaded(early: QuickAdapter, segmenter: Segmenter) -> None:
    state = early.state()
    fewer = ("known", "encoder.middle", "weight0", "bias1", "mean", "spread", "bank.keys")
    damaged = {name: state.tensors[name][..., :-1] for name in fewer}
    damaged |= {f"{name}2": state.tensors[name][None] for name in (*fewer, "tower1.directions")}
    damaged |= {"weight03": state.tensors["weight0"].double(), "spread3": -state.tensors["spread"]}
    for name, tensor in damaged.items():
        with pytest.raises(LearningError, match="incomplete"):
            QuickRecipe().load(replace(state, tensors={**state.tensors, name.rstrip("23"): tensor}), segmenter)
    odd = {"trust": float("nan"), "strength": 2.0, "retrieval": -1.0, "axes": 5, "words": [[1]] * 9}
    for name, value in odd.items():
        with pytest.raises(LearningError, match="incomplete"):
            QuickRecipe().load(replace(state, about={**state.about, name: value}), segmenter)


def test_its_scores_are_fine_unless_they_are_the_zero_shot_ones(early: QuickAdapter) -> None:
    assert [early.at_strength(strength).refinement for strength in (0.0, 0.25, 1.0)] == [ADAPTIVE, FINE, FINE]


def test_nothing_to_learn_from_is_said(corrected: list[Example], segmenter: Segmenter) -> None:
    blank = replace(corrected[0], truth=np.full_like(corrected[0].truth, UNLABELLED))
    with pytest.raises(LearningError, match="no label of the project is drawn"):
        QuickRecipe().fit([blank], HALF, segmenter)
    with pytest.raises(LearningError, match="no label of the project is drawn"):
        QuickRecipe().fit([], HALF, segmenter)
    with pytest.raises(LearningError, match="is not known"):
        recipe_named("slow")


def test_void_is_in_no_share(learned: QuickAdapter, corrected: list[Example]) -> None:
    right = np.arange(corrected[0].truth.shape[1]) >= 100
    example = replace(corrected[0], truth=np.where(right, VOID, corrected[0].truth).astype(np.int16))
    total = learned.extractor.class_shares(example, Augmentation.identity((1, 1)), (1, 1)).sum(dim=0)
    middle = total.shape[1] // 2
    torch.testing.assert_close(total[:, : middle - 1], torch.ones(len(total), middle - 1))
    torch.testing.assert_close(total[:, middle + 1 :], torch.zeros(len(total), total.shape[1] - middle - 1))


def test_one_photograph_is_enough_and_chance_is_seeded(corrected: list[Example], segmenter: Segmenter) -> None:
    one, same = (QuickRecipe(views=4).fit(corrected[:1], HALF, segmenter) for _ in range(2))
    image = score(corrected[1], segmenter)
    assert torch.equal(one.scores(image).logits, same.scores(image).logits)


def test_a_photograph_that_is_void_all_over_teaches_nothing(corrected: list[Example], segmenter: Segmenter) -> None:
    blank = replace(corrected[1], truth=np.full_like(corrected[1].truth, VOID))
    adapter = QuickRecipe(views=4).fit([corrected[0], blank], HALF, segmenter)
    assert adapter.scores(score(corrected[1], segmenter)).logits.argmax(dim=0).float().std() > 0


def test_features_of_a_photograph_network_tell_shapes_apart(
    monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter
) -> None:
    """Stars and hearts of any colour, in words the model does not know."""
    monkeypatch.setattr(classifier, "_optional_columns_help", lambda *_: True)  # from so few it is a near thing
    labels, words = ("star", "heart"), (("wug",), ("dax",))
    shown = [example for example, _ in pictures(segmenter, labels, words, range(4), drawn=(0, 1))]
    judged = pictures(segmenter, labels, words, range(100, 106), drawn=())
    heads = (QuickRecipe(views=8, without=without).fit(shown, words, segmenter) for without in ((), ("tower",)))
    with_it, without_it = (ious(segmenter, head, judged, words).mean() for head in heads)
    assert with_it > max(0.45, without_it + 0.15)


def test_the_photograph_tower_has_to_prove_right(early: QuickAdapter, learned: QuickAdapter) -> None:
    """Labels that are colours need none; from fewer than four pictures nobody can tell."""
    assert early.extractor.tower_columns == sum(TOWER_COMPONENTS)
    assert learned.extractor.tower == ()


def test_many_images_get_larger_networks_and_more_steps(
    corrected: list[Example], monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter
) -> None:
    views: list[Augmentation] = []
    plain = FeatureExtractor.class_shares

    def counted(
        extractor: FeatureExtractor, example: Example, augmentation: Augmentation, patches: tuple[int, int]
    ) -> torch.Tensor:
        views.append(augmentation)
        return plain(extractor, example, augmentation, patches)

    monkeypatch.setattr(FeatureExtractor, "class_shares", counted)
    recipe = QuickRecipe(views=2, config=ClassifierConfig(training=EnsembleConfig(hidden=4, steps=8, batch=8)))
    learned_from, units = [], []
    for count in (5, 15):
        views.clear()
        many = [replace(corrected[k % 5], key=f"{k}") for k in range(count)]
        units.append(recipe.fit(many, HALF, segmenter).classifier.networks.biases[0].shape[2])
        learned_from.append(len(views) - count)  # the words are compared with each picture once
    assert units == [4, 8]
    assert learned_from == [5, 30]


def only(example: Example, label: int | None, key: str) -> Example:
    """The example with a square of one label, or without any."""
    truth = np.full_like(example.truth, UNLABELLED)
    if label is not None:
        truth[40:80, 40:80] = label
    return replace(example, key=key, truth=truth)


@pytest.mark.parametrize("order", ["label by label", "in turn"])
def test_of_more_images_than_are_learned_from_each_label_keeps_as_many_as_it_can(
    corrected: list[Example], monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter, order: str
) -> None:
    labels = [0] * 30 + [1] * 60 + [None] * 40 + [2] * 4
    if order == "in turn":
        labels = [labels[place] for place in np.random.default_rng(0).permutation(len(labels))]
    many = [only(corrected[0], label, f"{number}") for number, label in enumerate(labels)]
    learned_from: set[str] = set()
    plain = FeatureExtractor.class_shares

    def noted(extractor: FeatureExtractor, example: Example, *more: Any) -> torch.Tensor:
        learned_from.add(example.key)
        return plain(extractor, example, *more)

    monkeypatch.setattr(FeatureExtractor, "class_shares", noted)
    recipe = QuickRecipe(views=2, config=ClassifierConfig(training=EnsembleConfig(hidden=4, steps=2, batch=8)))
    words = (*HALF[:2], ("a wug",), ("a fep",))
    adapter = recipe.fit([replace(example, words=words) for example in many], words, segmenter)
    shown = Counter(labels[int(key)] for key in learned_from)
    assert shown[2] == 4, "all of the rarest"
    assert sorted(shown[label] for label in (0, 1, None)) == [18, 19, 19], "and of the others as many of each"
    assert adapter.extractor.words == words[:3]
    of_the_second = [int(key) for key in learned_from if labels[int(key)] == 1]
    assert max(of_the_second) > labels.index(1) + 40, "not those that were corrected first"


def test_examples_of_other_words_are_understood(corrected: list[Example], segmenter: Segmenter) -> None:
    """An example made under an older config: other labels, another order."""
    older: Words = (("gone",), ("dax", "old"), ("wug",))
    place = np.array([2, 1, VOID, UNLABELLED], dtype=np.int16)  # by 0, 1, then -2, -1 from the end
    examples = [replace(e, words=older, truth=place[e.truth]) for e in corrected]
    adapter = QuickRecipe(views=6).fit(examples, HALF, segmenter)
    assert adapter.extractor.words == HALF[:2]
    image = score(corrected[0], segmenter)
    found = adapter.scores(image).logits.argmax(dim=0)
    expected = QuickRecipe(views=6).fit(corrected, HALF, segmenter).scores(image).logits.argmax(dim=0)
    assert (found == expected).float().mean() > 0.95


@pytest.mark.parametrize(
    ("mine", "words", "places"),
    [
        ((("car", "vehicle"), ("truck", "vehicle")), (("car", "vehicle"), ("truck", "vehicle")), [0, 1]),
        ((("car", "vehicle"), ("truck", "vehicle")), (("truck", "vehicle"), ("bus", "vehicle")), [1, 0]),
        ((("car",), ("truck",)), (("car", "truck"),), [0, 0]),
        ((("car", "auto"),), (("tree",), ("auto",)), [1]),
        ((("car",),), (("tree",),), [None]),
    ],
)
def test_classes_are_found_again_by_their_texts(mine: Words, words: Words, places: list[int | None]) -> None:
    assert match_classes(mine, words) == places


def test_labels_that_share_a_text_are_kept_apart(
    corrected: list[Example], unseen: list[tuple[Example, Truth]], segmenter: Segmenter
) -> None:
    shared: Words = (("wug", "thing"), ("dax", "thing"), *HALF[2:])
    adapter = QuickRecipe(views=6).fit([replace(e, words=shared) for e in corrected], shared, segmenter)
    shares = adapter.extractor.class_shares(replace(corrected[0], words=shared), Augmentation.identity((1, 1)), (1, 1))
    assert shares.min() >= 0
    apart = QuickRecipe(views=6).fit(corrected, HALF, segmenter)
    for head, words in ((adapter, shared), (apart, HALF)):
        assert ious(segmenter, head, unseen, words)[:2].min() > 0.65  # of two that were taken for one, one gets nothing


def test_labels_made_one_since_are_found_as_one(
    learned: QuickAdapter, unseen: list[tuple[Example, Truth]], segmenter: Segmenter
) -> None:
    merged: Words = (("wug", "dax"), *HALF[2:])
    place = np.array([0, 0, 1, 2, UNLABELLED], dtype=np.int16)
    judged = [(example, place[truth]) for example, truth in unseen]
    assert ious(segmenter, learned, judged, merged)[0] > 0.6


def test_a_label_of_which_one_text_can_be_read_is_known(corrected: list[Example], segmenter: Segmenter) -> None:
    hinted: Words = (("red shape", "red shape, draw tightly"), ("dax", "blue shape"), *HALF[2:])
    adapter = QuickRecipe(views=5).fit([replace(e, words=hinted) for e in corrected], hinted, segmenter)
    assert adapter.extractor.known.tolist() == [1.0, 1.0]


def test_a_bank_is_bounded_in_all_and_recalls_in_parts() -> None:
    chance = torch.Generator().manual_seed(0)
    inputs, shares = torch.randn(9000, 6, generator=chance), torch.eye(60)[torch.arange(9000) % 60]
    bank = MemoryBank.sample(inputs, shares, chance)
    assert len(bank.keys) <= 4000
    assert bank.shares.sum(dim=0).min() >= 60
    assert len(MemoryBank.sample(inputs, torch.eye(3)[torch.arange(9000) % 3], chance).keys) == 600
    asked = torch.randn(5000, 6, generator=chance)
    torch.testing.assert_close(bank.retrieve(asked)[2040:2060], bank.retrieve(asked[2040:2060]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (97, 64)], ids=str)
def test_augmentations_fit_images_of_any_size(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows, columns = Augmentation.random((6, 9), rng).window(size, (6, 9))
        assert 0 <= rows.start < rows.stop <= size[0]
        assert 0 <= columns.start < columns.stop <= size[1]


def test_examples_of_labels_nobody_corrected_make_a_second_adapter(
    corrected: list[Example], segmenter: Segmenter
) -> None:
    shown = [replace(corrected[0], words=READ)]  # of one, the networks are always used
    fitted = QuickRecipe(views=4).fit_both(shown, READ, segmenter)
    assert fitted.reason == ""
    plain, supplied = fitted.plain, fitted.supplied
    assert isinstance(plain, QuickAdapter)
    assert isinstance(supplied, QuickAdapter)
    assert not torch.equal(plain.classifier.networks.weights[0], supplied.classifier.networks.weights[0])
    alone = QuickRecipe(views=4).fit(shown, READ, segmenter)
    assert torch.equal(plain.classifier.networks.weights[0], alone.classifier.networks.weights[0])
    image = score(corrected[0], segmenter, READ)
    again = QuickRecipe().load(supplied.state(), segmenter)
    assert torch.equal(again.scores(image).logits, supplied.scores(image).logits)
    assert supplied.state().about.keys() == plain.state().about.keys(), "stored alike"



def test_generated_cells_are_learned_as_none_of_the_taught_classes(
    corrected: list[Example], segmenter: Segmenter
) -> None:
    shown = [replace(corrected[0], words=READ)]  # of one, the networks are always used
    fitted = QuickRecipe(views=4).fit_both(shown, READ, segmenter)
    made = generate_examples(shown, READ, segmenter)
    assert isinstance(fitted.plain, QuickAdapter)
    assert isinstance(fitted.supplied, QuickAdapter)
    zero_shot = segmenter.score_vectors(made.vectors, READ)
    cells = fitted.plain.extractor.generated_cells(made.vectors, READ, zero_shot)
    assert cells is not None
    rest = []
    for adapter in (fitted.plain, fitted.supplied):
        classifier = adapter.classifier
        known = len(cells.values)
        rows = torch.zeros(len(made), len(classifier.mean))
        rows[:, :known] = (cells.values.T - classifier.mean[:known]) / classifier.spread[:known]
        posterior = classifier.networks.posterior(rows, cells.offset.T, 1.0, classifier.has_text)
        rest.append(float(posterior[:, -1].mean()))
    assert rest[1] > 0.8
    assert rest[1] >= rest[0]


@pytest.mark.parametrize(
    ("without", "words", "reason"),
    [
        (("generator",), READ, "left out"),
        (("encoder",), READ, "encoder"),
        ((), HALF, "cannot read the words of a corrected label"),
        ((), READ[:2], "every label is corrected"),
    ],
)
def test_where_no_example_is_generated_there_is_one_adapter(
    without: tuple[str, ...], words: Words, reason: str, corrected: list[Example], segmenter: Segmenter
) -> None:
    shown = [replace(corrected[0], words=words)]
    fitted = QuickRecipe(without=without, views=2).fit_both(shown, words, segmenter)
    assert fitted.supplied is None
    assert reason in fitted.reason
