"""An annotator who knows the truth and clicks in the middle of the largest error, as in Sofiiuk et al. (RITM, 2022)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.segmentation.clicks.prompts import Box, Point, Prompt
from worker.segmentation.metrics import mask_iou

Mask = NDArray[np.bool_]
Answer = Callable[[Prompt, Mask | None], Mask]
"""A prompt and the mask to be corrected -> a mask."""

MOST_CLICKS = 20
GOAL = 0.85
"""IoU at which the annotator stops."""


@dataclass
class Robot:
    """Clicks on things.

    Args:
        jitter: a click lies where the distance to the border of the error is at least 1 - jitter of the largest.
        seed: of the places.
        most_clicks: after which it gives up.

    Attributes:
        spent: milliseconds of every answer.
    """

    jitter: float
    seed: int
    most_clicks: int = MOST_CLICKS
    spent: list[float] = field(default_factory=list)

    def correct(self, answer: Answer, truth: Mask, start: Mask | None) -> list[float]:
        """Click until the mask is good or clicks run out.

        Args:
            answer: who is asked.
            truth: (H, W) bool, the thing.
            start: (H, W) bool, the mask to begin with; None = none.

        Returns:
            IoU before the first click and after each.
        """
        rng = np.random.default_rng((self.seed, int(np.count_nonzero(truth))))
        prompt, mask = Prompt(), start
        ious = [0.0 if mask is None else mask_iou(mask, truth)]
        while ious[-1] < GOAL and len(ious) <= self.most_clicks:
            point, inside = self.click(np.zeros_like(truth) if mask is None else mask, truth, rng)
            if inside:
                prompt = replace(prompt, positive=(*prompt.positive, point))
            else:
                prompt = replace(prompt, negative=(*prompt.negative, point))
            started = time.perf_counter()
            mask = answer(prompt, mask if mask is not None and mask.any() else None)
            self.spent.append(1000 * (time.perf_counter() - started))
            ious.append(mask_iou(mask, truth))
        return ious

    def box(self, answer: Answer, truth: Mask) -> float:
        """IoU after one box around a thing, and no click."""
        mask = answer(Prompt(boxes=(box_of(truth),)), None)
        return mask_iou(mask, truth)

    def click(self, mask: Mask, truth: Mask, rng: np.random.Generator) -> tuple[Point, bool]:
        """(x, y) in the middle of the largest error, and whether it belongs to the thing."""
        missing, extra = _depth(truth & ~mask), _depth(mask & ~truth)
        inside = bool(missing.max() >= extra.max())
        depth = missing if inside else extra
        rows, columns = np.nonzero(depth >= (1 - self.jitter) * depth.max())
        chosen = int(rng.integers(len(rows)))
        return (float(columns[chosen]) + 0.5, float(rows[chosen]) + 0.5), inside


def box_of(mask: Mask) -> Box:
    """(left, top, right, bottom) of a mask that is not empty."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return float(left), float(top), float(left + width), float(top + height)


def _depth(error: Mask) -> NDArray[np.float32]:
    padded = np.pad(error, 1).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1])
