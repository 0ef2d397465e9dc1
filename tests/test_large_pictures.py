"""What is found in a reduced copy of a picture is told at the picture's own size, within a pixel of the copy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from plugin_config.vocabulary import parse_vocabulary
from worker.label_studio.regions import decode_region
from worker.label_studio.results import encode_segments
from worker.segmentation.segmenter import LabelSegment

CONFIG = (
    '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="disc"/></BrushLabels></View>'
)
SIZE, REDUCED = (900, 1500), (300, 500)


def disc(size: tuple[int, int], grown: float = 0.0) -> NDArray[np.bool_]:
    """A disc at the same place of a picture of any size, its radius changed by so many pixels of the reduced copy."""
    scale = size[0] / REDUCED[0]
    rows, columns = (np.arange(side) + 0.5 for side in size)
    away = np.hypot(rows[:, None] - 140 * scale, columns - 230 * scale)
    return np.asarray(away < (80 + grown) * scale)


@pytest.mark.parametrize("kind", ["brush", "polygon", "rectangle"])
def test_outlines_are_right_at_the_pictures_own_size(kind: Any) -> None:
    label = replace(parse_vocabulary(CONFIG).labels[0], output=kind)
    (region,) = encode_segments([LabelSegment(label, disc(REDUCED), 0.9)], size=SIZE).regions
    assert (region["original_height"], region["original_width"]) == SIZE
    found = decode_region(region, SIZE[1], SIZE[0])
    if kind == "rectangle":
        rows, columns = (np.flatnonzero(disc(SIZE).any(axis=axis)) for axis in (1, 0))
        got = [np.flatnonzero(found.any(axis=axis)) for axis in (1, 0)]
        for side, want in zip(got, (rows, columns), strict=True):
            assert abs(side[0] - want[0]) <= 3
            assert abs(side[-1] - want[-1]) <= 3
        return
    assert not (found & ~disc(SIZE, 1.5)).any()
    assert not (disc(SIZE, -1.5) & ~found).any()


def test_pictures_that_were_not_reduced_are_told_as_before() -> None:
    label = parse_vocabulary(CONFIG).labels[0]
    segments = [LabelSegment(label, disc(REDUCED), 0.9)]
    one, other = (encode_segments(segments, size=size).regions[0] for size in (None, REDUCED))
    assert {**one, "id": ""} == {**other, "id": ""}
