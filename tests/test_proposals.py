"""Proposals and true segments: valid by construction, matched at the least cost, and the losses of what is matched."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor

from tests.dense_world import builtin
from tests.pading_world import decoder
from worker.lab.evaluation import proposal_recall as command
from worker.lab.evaluation.proposal_recall import proposal_recall
from worker.lab.results import EMPTY, StoredResult, made_part, read_result
from worker.lab.things_data import segmented_image, things_set
from worker.learning.proposals.decoder_files import save_query_decoder
from worker.learning.proposals.engine_regions import engine_proposals
from worker.learning.proposals.matching import (
    NO_OBJECT,
    LossWeights,
    TrueMasks,
    label_proposals,
    match,
    match_costs,
    query_losses,
)
from worker.learning.proposals.proposals import Proposals, SegmentedImage
from worker.learning.proposals.query_decoder import QueryPredictions
from worker.segmentation.metrics import VOID
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")


def picture() -> SegmentedImage:
    """Two segments side by side, of classes 2 and 0, and a strip of VOID below them."""
    segments = np.zeros((12, 16), dtype=np.int16)
    segments[:, 8:] = 1
    segments[8:] = VOID
    return SegmentedImage(np.zeros((12, 16, 3), dtype=np.uint8), segments, (2, 0))


def drawn(masks: Tensor) -> Tensor:
    """(Q, h, w) logits of masks in {0, 1}."""
    return (masks * 2 - 1) * 8


def predictions(masks: Tensor, logits: Tensor) -> QueryPredictions:
    """Of one image."""
    return QueryPredictions(masks[None], torch.zeros(1, len(masks), 4), logits[None])


@pytest.mark.parametrize(
    ("masks", "vectors", "problem"),
    [
        pytest.param(torch.zeros(2, 3, 4), torch.zeros(3, 5), "must be", id="another number of vectors"),
        pytest.param(torch.zeros(2, 12), torch.zeros(2, 5), "must be", id="masks without a grid"),
        pytest.param(torch.zeros(2, 3, 4, dtype=torch.bool), torch.zeros(2, 5), "float32", id="masks of truth values"),
        pytest.param(torch.zeros(2, 3, 4), torch.zeros(2, 5).half(), "float32", id="half precision"),
        pytest.param(torch.full((2, 3, 4), torch.inf), torch.zeros(2, 5), "finite", id="infinite"),
        pytest.param(torch.zeros(2, 3, 4), torch.full((2, 5), torch.nan), "finite", id="no number"),
    ],
)
def test_proposals_that_cannot_be(masks: Tensor, vectors: Tensor, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Proposals(masks, vectors)


def test_no_proposal_is_a_valid_answer() -> None:
    none = Proposals(torch.zeros(0, 3, 4), torch.zeros(0, 5))
    assert len(none) == 0
    assert none.at_pixels((30, 40)).shape == (0, 30, 40)
    assert label_proposals(none, picture()).tolist() == []


def test_shares_of_a_grid_count_pixels() -> None:
    shares, known = picture().shares((3, 2))
    assert shares[0].tolist() == [[1, 0], [1, 0], [0, 0]]
    assert shares[1].tolist() == [[0, 1], [0, 1], [0, 0]]
    assert known.tolist() == [[1, 1], [1, 1], [0, 0]]
    shares, _ = picture().shares((1, 1))
    assert shares.flatten().tolist() == pytest.approx([1 / 3, 1 / 3])


def test_the_match_is_the_cheapest_of_all() -> None:
    costs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    rows, columns = match(costs)
    found = float(costs[rows, columns].sum())
    others = [costs[list(rows), range(3)].sum() for rows in permutations(range(5), 3)]
    assert found == pytest.approx(float(min(others)))
    greedy = torch.tensor([[0.0, 1.0], [0.1, 5.0]])  # the cheapest pair first would cost 5
    assert match(greedy)[1].tolist() == [1, 0]
    rows, columns = match(costs.T)  # fewer proposals than segments: each gets one
    assert (len(rows), len(set(columns.tolist()))) == (3, 3)


def test_the_cost_of_a_pair_is_its_loss() -> None:
    truth = TrueMasks.of(SegmentedImage(picture().image, np.zeros((12, 16), dtype=np.int16), (1,)), (6, 8))
    generator = torch.Generator().manual_seed(0)
    masks, logits = torch.randn(1, 6, 8, generator=generator), torch.randn(1, 4, generator=generator)
    weights = LossWeights(classes=2.0)
    losses = query_losses([predictions(masks, logits)], [truth], weights)
    cost = match_costs(masks, logits, truth, weights)
    expected = 5 * losses["masks"] + 5 * losses["dice"] - 2 * logits.softmax(dim=1)[0, 1]
    assert float(cost) == pytest.approx(float(expected), abs=1e-5)


def test_what_is_void_is_neither_inside_nor_outside() -> None:
    truth = TrueMasks.of(picture(), (6, 8))
    masks = drawn(truth.shares)
    changed = masks.clone()
    changed[:, 4:] = 3.0
    logits = torch.zeros(2, 4)
    before, after = (query_losses([predictions(one, logits)], [truth], LossWeights()) for one in (masks, changed))
    assert float(before["total"]) == pytest.approx(float(after["total"]))
    changed[0, :4] *= -1
    assert query_losses([predictions(changed, logits)], [truth], LossWeights())["total"] > before["total"] + 1


def test_what_is_known_of_a_cell_is_all_that_counts() -> None:
    """A mask that is right wherever anything is known costs nothing, even where half of a cell is void."""
    segments = np.full((12, 16), VOID, dtype=np.int16)
    segments[:7, :8], segments[:7, 8:] = 0, 1  # the grid's fourth row is known by half
    truth = TrueMasks.of(SegmentedImage(picture().image, segments, (1, 2)), (6, 8))
    assert truth.known[:, 0].tolist() == [1, 1, 1, 0.5, 0, 0]
    masks = drawn((truth.shares > 0).float())
    losses = query_losses([predictions(masks, torch.zeros(2, 4))], [truth], LossWeights())
    assert max(float(losses["masks"]), float(losses["dice"])) < 0.01
    costs = match_costs(masks, None, truth, LossWeights())
    assert float(costs.diagonal().max()) < 0.01


def test_proposals_get_the_labels_of_the_segments_they_cover() -> None:
    truth = TrueMasks.of(picture(), (6, 8))
    masks = drawn(torch.stack([torch.zeros(6, 8), truth.shares[1], truth.shares[0]]))
    found = label_proposals(Proposals(masks, torch.zeros(3, 4)), picture())
    assert found.tolist() == [NO_OBJECT, 0, 2]
    empty = SegmentedImage(picture().image, np.full((12, 16), VOID, dtype=np.int16), ())
    assert label_proposals(Proposals(masks, torch.zeros(3, 4)), empty).tolist() == [NO_OBJECT] * 3
    # Between masks that fit alike, what the decoder says of the label decides.
    alike = Proposals(masks[[1, 1, 2]], torch.zeros(3, 4))
    logits = torch.zeros(3, 4)
    logits[1, 0] = 3.0
    assert label_proposals(alike, picture(), logits).tolist() == [NO_OBJECT, 0, 2]


def test_no_object_is_the_last_row_and_weighs_a_tenth() -> None:
    truth = TrueMasks.of(picture(), (6, 8))
    masks = drawn(torch.stack([truth.shares[0], truth.shares[1], torch.zeros(6, 8)]))
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    found = query_losses([predictions(masks, logits)], [truth], LossWeights(classes=0.0, no_object=0.1))["classes"]
    logs = F.log_softmax(logits, dim=1)
    expected = -(logs[0, 2] + logs[1, 0] + 0.1 * logs[2, 3]) / 2.1
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


def test_an_image_without_segments_teaches_no_object_alone() -> None:
    truth = TrueMasks.of(SegmentedImage(picture().image, np.full((12, 16), VOID, dtype=np.int16), ()), (6, 8))
    masks = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = torch.zeros(3, 4, requires_grad=True)
    terms = query_losses([predictions(masks, logits)], [truth], LossWeights())
    assert (terms["masks"].item(), terms["dice"].item()) == (0.0, 0.0)
    terms["total"].backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (logits.grad[:, -1] < 0).all()
    assert (logits.grad[:, :-1] > 0).all()
    assert masks.grad is None or not masks.grad.any()


def test_every_layer_has_its_loss() -> None:
    truth = TrueMasks.of(picture(), (6, 8))
    one = predictions(drawn(truth.shares), torch.zeros(2, 4))
    alone, twice = (query_losses([one] * count, [truth], LossWeights())["total"] for count in (1, 2))
    assert float(twice) == pytest.approx(2 * float(alone))


def test_the_engine_proposes_things_and_stuff_without_training() -> None:
    data = things_set(scenes=1)
    one = data.test[0]
    found = engine_proposals(one.image, builtin())
    assert len(found) >= 3
    assert found.vectors.norm(dim=1).tolist() == pytest.approx([1.0] * len(found), abs=1e-4)
    assert all(side % cells == 0 for side, cells in zip((192, 256), found.masks.shape[1:], strict=True))
    recall = proposal_recall(lambda _image: found, data, [one])
    assert recall["things"] is not None
    assert recall["things"] >= 0.5
    assert recall["proposals"] == len(found)
    no_unseen = data.training[0]
    alone = proposal_recall(lambda _image: found, data, [no_unseen])
    assert alone["unseen"] is None
    json.dumps(alone, allow_nan=False)


def test_a_picture_of_one_colour_has_no_proposals() -> None:
    found = engine_proposals(np.full((48, 64, 3), 90, dtype=np.uint8), builtin())
    assert len(found) == 0
    assert found.vectors.shape[1] == engine_proposals(things_set(scenes=1).test[0].image, builtin()).vectors.shape[1]


def test_recall_is_of_the_true_segments() -> None:
    data = things_set(scenes=3)
    one = next(one for one in data.test if {segment.index for segment in one.segments} & set(data.unseen))
    sample = segmented_image(one, range(len(data.labels)))
    shares, _ = sample.shares((one.truth.shape[0], one.truth.shape[1]))
    perfect = Proposals(drawn(shares), torch.zeros(len(shares), 4))
    assert [proposal_recall(lambda _image: perfect, data, [one])[name] for name in ("seen", "unseen")] == [1.0, 1.0]
    is_seen = torch.tensor([label in data.seen for label in sample.classes])
    half = Proposals(perfect.masks[is_seen], perfect.vectors[is_seen])
    found = proposal_recall(lambda _image: half, data, [one])
    assert (found["seen"], found["unseen"], found["stuff"]) == (1.0, 0.0, 1.0)


def test_the_command_measures_both_sources_and_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, page, stored = (tmp_path / name for name in ("decoder.safetensors", "page.md", "recall.json"))
    save_query_decoder(file, decoder(), builtin())
    page.write_text(f"# Page\n\n{made_part(command.BEGIN, command.END, 'old')}\n\nMore.\n")
    monkeypatch.setattr(Segmenter, "from_settings", lambda settings, model="": builtin())
    monkeypatch.setattr(command, "PAGE", page)
    monkeypatch.setattr(command, "STORED", stored)
    asked = ["--decoder", str(file), "--scenes", "1"]
    refused = CliRunner().invoke(command.main, [*asked, "--store"])
    assert refused.exit_code == 2
    assert "the page has the recall of the stored decoder" in refused.stderr
    assert not stored.exists()
    monkeypatch.setattr(command, "STORED_DECODER", file)
    done = CliRunner().invoke(command.main, [*asked, "--store", "--json"])
    printed = json.loads(done.stdout)
    assert (done.exit_code, printed["data"], printed["scenes"], printed["iou"]) == (0, "drawn:things", 1, 0.5)
    assert (printed["decoder"]["proposals"], printed["engine"]["proposals"] > 2) == (12.0, True)
    kept = read_result(stored)
    assert kept is not None
    assert kept.figures == printed
    assert kept.command == "python -m worker.lab.evaluation.proposal_recall --scenes 1 --store"
    assert page.read_text() == (
        f"# Page\n\n{made_part(command.BEGIN, command.END, command.recall_part(kept))}\n\nMore.\n"
    )
    shown = CliRunner().invoke(command.main, asked).stdout
    assert shown == command.table(printed)
    assert "the engine's own regions, untrained" in shown


def test_a_share_that_no_scene_has_is_a_dash() -> None:
    found = {"seen": 0.9634, "unseen": None, "things": 0.9, "stuff": 1.0, "proposals": 24.0}
    stored = StoredResult("2026-01-02", "the command", {"scenes": 7, "iou": 0.5, "decoder": found, "engine": found})
    written = command.recall_part(stored)
    assert "IoU of 0.5 or more, on 7 test scenes (2026-01-02)" in written
    assert "| the query decoder | 0.963 | - | 0.900 | 1.000 | 24.0 |" in written
    assert "the command" in written


def test_the_page_has_the_recall_that_is_stored() -> None:
    stored = read_result(command.STORED)
    part = made_part(command.BEGIN, command.END, command.recall_part(stored))
    assert part in command.PAGE.read_text(encoding="utf-8")
    assert (EMPTY in part) == (stored is None)
