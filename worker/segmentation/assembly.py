"""Pixel classes -> segments: things one by one, stuff as one, specks dropped, each with a score.

It must not know about text or region formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_SMALLEST_SHARE = 0.0005  # of the image: below this a component is noise of a few patches
_MOST_SEGMENTS = 100  # browsers choke on more brush regions than this


@dataclass(frozen=True)
class Segment:
    """One connected thing, or all of one kind of stuff.

    Attributes:
        index: class the pixels belong to.
        mask: (H, W) bool, pixels of the image.
        score: mean posterior of the class inside the mask, in [0, 1].
    """

    index: int
    mask: NDArray[np.bool_]
    score: float


def assemble(
    classes: NDArray[np.int16], confidence: NDArray[np.float32], stuff: Sequence[bool]
) -> list[Segment]:
    """Cut the class map into segments.

    Args:
        classes: (H, W) class of each pixel; indices beyond `stuff` are background.
        confidence: (H, W) posterior of that class.
        stuff: for each class whether it is uncountable, hence one segment.

    Returns:
        At most 100 segments, the largest ones, ordered by class and then by size.
    """
    smallest = max(1, round(_SMALLEST_SHARE * classes.size))
    segments: list[Segment] = []
    for index, is_stuff in enumerate(stuff):
        mask = classes == index
        if not mask.any():
            continue
        parts = _components(mask, smallest)
        if is_stuff and parts:
            parts = [np.logical_or.reduce(parts)]
        segments += [Segment(index, part, float(confidence[part].mean())) for part in parts]
    if len(segments) > _MOST_SEGMENTS:
        kept = {id(segment) for segment in sorted(segments, key=lambda s: -int(s.mask.sum()))[:_MOST_SEGMENTS]}
        segments = [segment for segment in segments if id(segment) in kept]
    return segments


def _components(mask: NDArray[np.bool_], smallest: int) -> list[NDArray[np.bool_]]:
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = sorted((part for part in range(1, count) if areas[part] >= smallest), key=lambda part: -int(areas[part]))
    return [parts == part for part in kept[:_MOST_SEGMENTS]]
