"""Patch logits -> pixels -> segments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from worker.segmentation.instances.assembly import SegmentRequest, assemble
from worker.segmentation.outlines.refinement import pixel_classes


@pytest.mark.parametrize(
    ("count", "grid", "size"),
    [
        pytest.param(1, (3, 4), (31, 47), id="one class"),
        pytest.param(2, (1, 1), (5, 7), id="one patch"),
        pytest.param(3, (14, 20), (14, 20), id="same size"),
        pytest.param(5, (14, 20), (9, 11), id="smaller"),
        pytest.param(7, (5, 6), (201, 333), id="several strips of rows"),
        pytest.param(300, (6, 8), (90, 110), id="300 classes"),
    ],
)
def test_pixels_are_those_of_plain_interpolation(
    count: int, grid: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.segmentation.outlines.refinement._STRIP_VALUES", 100_000)
    coarse = 8 * torch.randn(count, *grid, generator=torch.Generator().manual_seed(count))
    whole = F.interpolate(coarse[None].double(), size=size, mode="bilinear", align_corners=False)[0].softmax(0)
    classes, confidence = pixel_classes(coarse, size)
    assert classes.shape == confidence.shape == size
    best = whole.topk(min(2, count), dim=0).values
    clear = ((best[0] - best[-1] > 1e-4) if count > 1 else torch.ones(size)).numpy().astype(bool)  # no ties
    assert clear.mean() > 0.99
    assert (classes == whole.argmax(0).numpy())[clear].all()
    assert np.abs(confidence - best[0].numpy()).max() < 1e-4


def test_segments_are_cut_by_class_and_component() -> None:
    classes = np.full((100, 100), 2, dtype=np.int16)  # 2 = background
    classes[5:25, 5:25] = classes[60:90, 60:90] = 0  # two things
    classes[5:25, 60:90] = classes[60:70, 5:15] = 1  # two pieces of one stuff
    classes[50, 50] = 0  # a speck
    confidence = np.where(classes == 0, 0.5, 0.75).astype(np.float32)
    found = assemble(classes, confidence, [SegmentRequest(0, stuff=False), SegmentRequest(1, stuff=True)])
    corners = 4  # of each piece, one pixel each: smoothing takes them
    expected = [(0, 900 - corners), (0, 400 - corners), (1, 700 - 2 * corners)]
    assert [(segment.index, int(segment.mask.sum())) for segment in found] == expected
    assert [segment.evidence.posterior for segment in found] == [0.5, 0.5, 0.75]
    assert not any(segment.mask[50, 50] for segment in found[:2])


@pytest.mark.parametrize("stuff", [True, False], ids=["stuff", "things"])
def test_specks_alone_are_nothing(stuff: bool) -> None:
    classes = np.full((200, 200), 1, dtype=np.int16)
    classes[::20, ::20] = 0
    assert assemble(classes, np.ones(classes.shape, np.float32), [SegmentRequest(0, stuff)]) == []


def test_the_hundred_largest_segments_are_kept_in_order() -> None:
    classes = np.full((240, 240), 2, dtype=np.int16)
    for place in range(144):
        row, column = divmod(place, 12)
        side = 6 + (place % 7)
        classes[row * 20 : row * 20 + side, column * 20 : column * 20 + side] = place % 2
    requests = [SegmentRequest(0, stuff=False), SegmentRequest(1, stuff=False)]
    found = assemble(classes, np.ones(classes.shape, np.float32), requests)
    areas = [int(segment.mask.sum()) for segment in found]
    everything = sorted(((6 + (place % 7)) ** 2 for place in range(144)), reverse=True)
    assert np.abs(np.array(sorted(areas, reverse=True)) - everything[:100]).max() <= 4  # smoothing takes the corners
    assert [segment.index for segment in found] == sorted(segment.index for segment in found)
