"""What an annotator points at, and what is answered."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import PromptError

MOST_MARKS = 100
"""Clicks and boxes that one prompt may hold."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Prompt:
    """Clicks and boxes of one thing, in pixels of the image: x to the right, y down, (0, 0) the corner of the image.

    Attributes:
        positive: (x, y) of clicks inside the thing.
        negative: (x, y) of clicks outside of it.
        boxes: (left, top, right, bottom) of boxes around it.
    """

    positive: tuple[Point, ...] = ()
    negative: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()

    def check(self, size: tuple[int, int]) -> None:
        """Refuse what cannot be meant on an image of (H, W) pixels.

        Raises:
            PromptError: a click is outside of the image, a box is of no size or outside, there are too many, or one
                place is both inside and outside.
        """
        height, width = size
        marks = len(self.positive) + len(self.negative) + len(self.boxes)
        if marks > MOST_MARKS:
            raise PromptError("the prompt", f"holds {marks} clicks and boxes", f"Give at most {MOST_MARKS}.")
        for x, y in (*self.positive, *self.negative):
            if not (math.isfinite(x) and math.isfinite(y) and 0 <= x <= width and 0 <= y <= height):
                raise PromptError(f"the click at {x:g}, {y:g}", f"is outside of the image of {width} x {height} pixels",
                                  "Click inside the image.")  # fmt: skip
        for box in self.boxes:
            _check_box(box, size)
        both = {pixel_of(point, size) for point in self.positive} & {pixel_of(point, size) for point in self.negative}
        if both:
            row, column = min(both)
            raise PromptError(f"the click at {column}, {row}", "is both inside and outside of the thing",
                              "Take one of the two back.")  # fmt: skip


@dataclass(frozen=True)
class PromptedMask:
    """The answer to a prompt.

    Attributes:
        mask: (H, W) bool, pixels of the image; all False where nothing fits.
        score: estimate of its IoU with what is meant, in [0, 1].
    """

    mask: NDArray[np.bool_]
    score: float


def pixel_of(point: Point, size: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the pixel of an image of (H, W) that (x, y) lies in; the far edges belong to the last pixel."""
    return min(int(point[1]), size[0] - 1), min(int(point[0]), size[1] - 1)


def pixels_in(box: Box, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the pixels of an image of (H, W) whose centre lies in a box; at least one of each."""
    left, top, right, bottom = box
    return _between(top, bottom, size[0]), _between(left, right, size[1])


def _between(low: float, high: float, side: int) -> slice:
    first = min(max(0, math.floor(low + 0.5)), side - 1)
    return slice(first, max(first + 1, min(side, math.floor(high + 0.5))))


def _check_box(box: Box, size: tuple[int, int]) -> None:
    left, top, right, bottom = box
    subject = f"the box {left:g}, {top:g}, {right:g}, {bottom:g}"
    if not all(math.isfinite(value) for value in box) or right <= left or bottom <= top:
        raise PromptError(subject, "is of no size", "Draw it from one corner of the thing to the other.")
    if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
        raise PromptError(subject, f"is outside of the image of {size[1]} x {size[0]} pixels", "Draw it inside.")
