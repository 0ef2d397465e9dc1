"""PADing as a served head: shares of labels, things told apart, names that come later, stored and read again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from plugin_config.errors import LearningError
from tests.dense_world import builtin, tiny_segmenter
from tests.learning_world import KNOWN, corrected_scenes
from tests.pading_world import RECIPE, adapter, decoder, real, scores_of, things, tiny_config
from worker.learning.adapter_files import load_adapter_folder, save_adapter_folder
from worker.learning.generator.vectors import RealVectors
from worker.learning.interfaces import UNLABELLED, AdapterState
from worker.learning.proposals.entering import DecodedProposals, propose
from worker.learning.proposals.matching import NO_OBJECT
from worker.learning.proposals.proposals import Proposals, SegmentedImage
from worker.learning.recipes import recipe_named
from worker.learning.recipes.pading.adapter import PadingAdapter
from worker.learning.recipes.pading.posterior import label_shares, proposal_numbers, share_logits
from worker.learning.recipes.pading.recipe import PadingRecipe, known_words
from worker.learning.recipes.pading.vectors import real_vectors, segmented
from worker.segmentation.heads import ImageScores, ThingHead, head_scores, head_things
from worker.segmentation.metrics import VOID
from worker.segmentation.outlines.refinement import ADAPTIVE, FINE

pytestmark = pytest.mark.usefixtures("one_thread")

SURE = 20.0


def logits_of(*rows: list[int]) -> torch.Tensor:
    """Mask logits (Q, 1, w) of cells in and out of masks."""
    return torch.tensor(rows, dtype=torch.float32)[:, None] * 2 * SURE - SURE


def test_a_cell_is_shared_by_what_covers_it() -> None:
    masks = logits_of([1, 1, 0], [0, 1, 0])
    shares = label_shares(masks, torch.tensor([[0.6, 0.2, 0.2], [0.0, 0.5, 0.5]]))
    expected = torch.tensor([[0.6, 0.6, 0.0], [0.2, 0.7, 0.0], [0.2, 0.2 * 0.5, 1.0]])
    torch.testing.assert_close(shares[:, 0], expected, atol=1e-4, rtol=1e-4)


def test_small_shares_are_told_apart() -> None:
    logits = share_logits(torch.tensor([1e-9, 1e-8, 0.0])[:, None, None])
    assert logits.argmax(dim=0).item() == 1
    assert bool(logits.isfinite().all())


def test_things_are_told_apart_and_a_second_proposal_of_one_is_none() -> None:
    masks = logits_of([1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1])
    objects = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    assert proposal_numbers(masks, objects)[0].tolist() == [1, 1, 2, 2, 0]
    nothing = torch.tensor([[0.1, 0.9]]).expand(4, 2)
    assert not proposal_numbers(masks, nothing).any()


def served(classifier: nn.Linear, **changes: Any) -> PadingAdapter:
    return PadingAdapter("pading", 1, builtin(), decoder(), classifier, things().seen_words, **changes)


def proposals_of(image: ImageScores, masks: torch.Tensor) -> DecodedProposals:
    """Proposals whose first numbers are the labels that they show."""
    vectors = torch.eye(len(masks), decoder().config.width)
    return DecodedProposals(Proposals(masks, vectors), torch.zeros(len(masks), 2))


def halves(image: ImageScores) -> torch.Tensor:
    """(2, H, W) mask logits: the left and the right half of an image."""
    height, width = image.embedding.size
    left = torch.where(torch.arange(width) < width // 2, SURE, -SURE).expand(height, -1)
    return torch.stack([left, -left])


def test_a_label_is_read_by_its_row_and_one_that_is_not_asked_for_is_background() -> None:
    seen = [texts[0] for texts in things().seen_words]
    classifier = nn.Linear(decoder().config.width, len(seen) + 1).requires_grad_(False)
    classifier.weight.zero_()
    classifier.bias.zero_()
    classifier.weight[3, 0] = classifier.weight[5, 1] = SURE  # what the first proposal is, and the second
    head = served(classifier)
    image = scores_of(seen[5], "grass")
    found = head.read(proposals_of(image, halves(image)), image)
    best = found.logits.argmax(dim=0)
    assert bool((best[:, : best.shape[1] // 2] == 2).all())
    assert bool((best[:, best.shape[1] // 2 :] == 0).all())
    assert set(np.unique(head.numbers(proposals_of(image, halves(image)), image))) == {1, 2}
    both = scores_of(seen[3], seen[5])
    best = head.read(proposals_of(both, halves(both)), both).logits.argmax(dim=0)
    assert bool((best[:, : best.shape[1] // 2] == 0).all())
    assert head.taught(((seen[3],), ("cat",))) == ((seen[3],),)


def test_a_picture_without_proposals_keeps_the_zero_shot_scores() -> None:
    head, image = adapter(), scores_of("red circle", "grass")
    none = DecodedProposals(Proposals(torch.zeros(0, 4, 4), torch.zeros(0, decoder().config.width)), torch.zeros(0, 2))
    assert head.read(none, image) is image.zero_shot
    assert not head.numbers(none, image).any()
    assert head_scores(head.at_strength(0), image) is image.zero_shot
    assert head_scores(head, replace(image, image=None)) is image.zero_shot
    assert (head.refinement, head.at_strength(0).refinement) == (FINE, ADAPTIVE)
    assert not head_things(head.at_strength(0), image).any()  # type: ignore[union-attr]


def test_labels_without_a_row_share_what_no_proposal_covers() -> None:
    head = adapter("generator")
    image = scores_of("red circle", "orange heart", "wug")
    found = head_scores(head, image)
    assert found.scored.tolist() == [True, True, False, True]
    posterior, zero_shot = found.posterior(), image.zero_shot.resized(found.grid).without([0]).posterior()
    rest = posterior[1] + posterior[3]
    torch.testing.assert_close(posterior[1], rest * zero_shot[1], atol=1e-4, rtol=1e-3)


def test_a_name_that_comes_later_gets_a_row_and_changes_nothing_else() -> None:
    head = adapter()
    assert head.trained is not None
    weights = {name: values.clone() for name, values in head.decoder.state_dict().items()}
    rows = head.classifier.weight.clone()
    image = scores_of("red circle", "orange heart", "wug")
    found = head_scores(head, image)
    assert found.scored.tolist() == [True, True, False, True]
    classifier, places = head._rows(image)
    known = len(head.seen) + len(head.unseen)
    assert places == [things().labels.index("red circle") - _unseen_before("red circle"), known, None]
    torch.testing.assert_close(classifier.weight[:known], rows[:-1])
    torch.testing.assert_close(classifier.weight[-1], rows[-1])
    assert torch.equal(head.classifier.weight, rows)
    for name, values in head.decoder.state_dict().items():
        assert torch.equal(values, weights[name])
    # In another order, and beside other names, the row is the same.
    other = adapter()
    again, _ = other._rows(scores_of("brown heart", "orange heart"))
    torch.testing.assert_close(again.weight[known + 1], classifier.weight[known])
    # A synonym has the vector of its word, and so its row.
    assert head._rows(scores_of("scarlet circle", "red circle"))[1] == [places[0], places[0]]


def test_rows_that_were_asked_for_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.learning.recipes.pading.adapter._MOST_LATER", 2)
    head = adapter()
    first = head._rows(scores_of("orange heart"))[0].weight
    known = len(head.seen) + len(head.unseen)
    assert head._rows(scores_of("orange heart", "brown heart", "white cross"))[1] == [known, known + 1, None]
    head._rows(scores_of("white cross"))
    assert [texts[0] for texts in head.later._rows] == ["brown heart", "white cross"]
    torch.testing.assert_close(head._rows(scores_of("orange heart"))[0].weight, first)


def _unseen_before(label: str) -> int:
    return sum(k < things().labels.index(label) for k in things().unseen)


def test_the_head_tells_things_apart_at_the_pixels() -> None:
    head, image = adapter(), scores_of("red circle", "grass")
    assert isinstance(head, ThingHead)
    numbers = head_things(head, image)
    assert numbers is not None
    assert numbers.shape == image.embedding.size
    assert numbers.dtype == np.int32
    assert head_things(None, image) is None


@pytest.mark.parametrize("without", [(), ("generator",), ("primitives", "alignment", "disentangling")])
def test_what_is_stored_scores_as_before(without: tuple[str, ...], tmp_path: Path) -> None:
    before, image = adapter(*without).at_strength(0.5), scores_of("red circle", "orange heart")
    save_adapter_folder(tmp_path, before, builtin(), {})
    after = load_adapter_folder(tmp_path, builtin())
    assert isinstance(after, PadingAdapter)
    assert (after.seen, after.unseen, after.strength) == (before.seen, before.unseen, 0.5)
    torch.testing.assert_close(head_scores(after, image).logits, head_scores(before, image).logits)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    state = adapter().state()
    recipe = recipe_named("pading")
    for changed, problem in (
        ({"form": 0}, "by another release"), ({"tower": "0"}, "on another image tower"),
        ({"seen": []}, "state is incomplete"), ({"strength": 2.0}, "state is incomplete"),
    ):  # fmt: skip
        with pytest.raises(LearningError, match=problem):
            recipe.load(replace(state, about={**state.about, **changed}), builtin())
    with pytest.raises(LearningError, match="made by recipe 'lseg'"):
        recipe.load(AdapterState("lseg", {}, {}), builtin())
    with pytest.raises(LearningError, match="no part 'shape'"):
        PadingRecipe(without=("shape",))
    with pytest.raises(LearningError, match="preset 'large'"):
        PadingRecipe(preset="large")
    with pytest.raises(LearningError, match="was trained with other labels \\('wug' is new to it\\)"):
        RECIPE.classify(decoder(), real(), (("wug",),), (), builtin())
    with pytest.raises(LearningError, match="on another image tower"):
        recipe.load(state, tiny_segmenter(tmp_path))  # a ViT has no such stages


def test_nothing_is_generated_for_words_that_say_nothing_new() -> None:
    known = known_words((("red circle",), ("wug",)), (("blue star",), ("dax",), ("azure star",)), builtin())
    assert known.names == (("blue star",),)
    assert len(known.seen) == 2
    assert len(known.unseen) == 1
    assert set(known.left_out) == {("dax",), ("azure star",)}
    assert "unreadable" in known.left_out["dax",]
    assert "another label" in known.left_out["azure star",]
    plain = RECIPE.classify(decoder(), real(), things().seen_words, (("dax",),), builtin())
    assert plain.trained is None  # no unseen label is left: a classifier of the seen ones


def test_without_a_generator_the_decoders_own_classifier_is_kept() -> None:
    alone, left = (adapter("generator"), RECIPE.classify(decoder(), real(), things().seen_words, (), builtin()))
    for made in (alone, left):
        torch.testing.assert_close(made.classifier.weight, decoder().classify.weight)
        torch.testing.assert_close(made.classifier.bias, decoder().classify.bias)
        assert made.classifier is not decoder().classify
        assert (made.trained, made.unseen) == (None, ())


def test_a_broken_number_is_a_clear_error() -> None:
    vectors = real().vectors.clone()
    vectors[0, 0] = torch.nan
    broken = RealVectors(vectors, real().labels)
    with pytest.raises(LearningError, match="vector 0 is no number"):
        RECIPE.classify(decoder(), broken, things().seen_words, things().unseen_words, builtin())


def test_proposals_on_pixels_that_nobody_knows_are_no_examples() -> None:
    image = things().training[0].image
    nothing = SegmentedImage(image, np.full(image.shape[:2], VOID, dtype=np.int16), ())
    with pytest.raises(LearningError, match="no picture has any"):
        real_vectors(decoder(), [nothing], builtin())
    known = replace(nothing, segments=np.full(image.shape[:2], UNLABELLED, dtype=np.int16))
    found = real_vectors(decoder(), [nothing, known], builtin())
    assert len(found.labels) == decoder().config.queries
    assert set(found.labels.tolist()) == {NO_OBJECT}
    torch.testing.assert_close(found.vectors, propose(image, decoder(), builtin()).proposals.vectors)


def test_segments_of_a_class_map_are_its_components() -> None:
    truth = np.full((80, 120), UNLABELLED, dtype=np.int16)
    truth[:, 100:] = VOID
    truth[5:15, 5:15] = truth[5:15, 30:40] = 1
    truth[30:38, 5:30] = 0
    truth[0, 0] = 0  # a slip of the pen
    sample = segmented(np.zeros((80, 120, 3), np.uint8), truth)
    assert sample.classes == (0, 1, 1)
    assert sorted(np.unique(sample.segments).tolist()) == [VOID, UNLABELLED, 0, 1, 2]
    assert sample.segments[0, 0] == VOID


def test_corrections_are_learned_from_as_by_any_recipe() -> None:
    examples = corrected_scenes(builtin(), 2)
    recipe = replace(RECIPE, decoder=tiny_config())
    learned = recipe.fit(examples, (*KNOWN, ("purple heart",)), builtin())
    assert learned.unseen == (("purple heart",),)
    assert set(learned.taught(KNOWN)) == set(learned.seen) != set()
    found = head_scores(learned, builtin().score(examples[0].embedding, KNOWN, examples[0].image))
    assert bool(found.scored.all())
    with pytest.raises(LearningError, match="no label of the project is drawn"):
        recipe.fit([], KNOWN, builtin())
