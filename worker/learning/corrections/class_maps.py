"""Class maps: one class per pixel of an annotated image, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.learning.interfaces import UNLABELLED
from worker.segmentation.metrics import VOID

ClassMap = NDArray[np.int16]
"""(H, W) int16: index of a class, UNLABELLED or VOID."""


def merge_class_maps(maps: Sequence[ClassMap]) -> ClassMap:
    """Merge the class maps of several annotators by majority vote per pixel; VOID where two classes tie for the most
    votes. UNLABELLED is a vote like any class, VOID is none.

    Args:
        maps: of the same image, one or more.
    """
    if len(maps) == 1:
        return maps[0]
    stack = np.stack(maps)  # (annotators, H, W)
    merged = np.full(stack.shape[1:], VOID, dtype=np.int16)
    most = np.zeros(stack.shape[1:], dtype=np.int16)
    for value in np.unique(stack[stack != VOID]):
        votes = np.count_nonzero(stack == value, axis=0)
        merged[votes > most] = value
        merged[(votes == most) & (votes > 0)] = VOID
        most = np.maximum(most, votes)
    return merged


def shrink_nearest(values: NDArray[Any], frame: tuple[int, int]) -> NDArray[Any]:
    """Sample (H, W, ...) values at the pixel centres of a smaller frame (h, w)."""
    if values.shape[:2] == frame:
        return values
    rows, columns = (
        ((np.arange(small) + 0.5) * large / small).astype(np.int64)
        for small, large in zip(frame, values.shape[:2], strict=True)
    )
    return np.asarray(values[rows[:, None], columns])


def renumber(class_map: ClassMap, indices: Sequence[int]) -> ClassMap:
    """Replace each class k of a class map by `indices[k]`; UNLABELLED and VOID stay."""
    lookup = np.array([*indices, VOID, UNLABELLED], dtype=np.int16)
    return lookup[class_map]  # -1 and -2 count from the end


def with_background(class_map: ClassMap, background: int) -> ClassMap:
    """Give UNLABELLED pixels the class index of the background; VOID stays VOID."""
    return np.where(class_map == UNLABELLED, np.int16(background), class_map)


def drawn_classes(class_map: ClassMap) -> set[int]:
    """Classes that at least one pixel of a class map has."""
    return {int(index) for index in np.unique(class_map) if index >= 0}
