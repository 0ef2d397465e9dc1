"""Pixel classes -> segments: things one by one, stuff as one, specks dropped, each with a score.

It must not know about text or region formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

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


@dataclass(frozen=True)
class _Component:
    """Parts of one class that make a segment, as numbered by OpenCV, and their area in pixels."""

    index: int
    parts: tuple[int, ...]
    area: int


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
    found: list[_Component] = []
    for index, is_stuff in enumerate(stuff):
        parts, areas = _components(classes == index, smallest)
        if is_stuff and parts:
            found.append(_Component(index, tuple(parts), sum(areas)))
        elif not is_stuff:
            found += [_Component(index, (part,), area) for part, area in zip(parts, areas, strict=True)]
    # Only the masks that are kept are ever made: a noisy image has thousands of components.
    kept = sorted(sorted(found, key=lambda part: -part.area)[:_MOST_SEGMENTS], key=lambda part: part.index)
    return list(_cut_out(kept, classes, confidence))


def _cut_out(
    kept: Sequence[_Component], classes: NDArray[np.int16], confidence: NDArray[np.float32]
) -> Iterator[Segment]:
    for index, components in groupby(kept, key=lambda part: part.index):
        _, numbered = cv2.connectedComponents((classes == index).astype(np.uint8), connectivity=8)
        for component in components:
            mask = np.isin(numbered, component.parts) if len(component.parts) > 1 else numbered == component.parts[0]
            yield Segment(index, mask, float(confidence[mask].mean()))


def _components(mask: NDArray[np.bool_], smallest: int) -> tuple[list[int], list[int]]:
    """Numbers and areas of the connected parts that are large enough, the largest first."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = sorted((part for part in range(1, count) if areas[part] >= smallest), key=lambda part: -int(areas[part]))
    return kept, [int(areas[part]) for part in kept]
