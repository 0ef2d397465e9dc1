"""Clicks go through a model of the SAM family where one is installed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.segmentation.clicks.prompts import Box, Point, Prompt, pixel_of
from worker.segmentation.clicks.superpixels import Floats
from worker.segmentation.instances import refiner
from worker.segmentation.instances.refiner import REFINER_THRESHOLDS, RefinerSession

Mask = NDArray[np.bool_]


def redraw(
    session: RefinerSession, prompt: Prompt, mask: Mask, probability: Floats, forbidden: Mask
) -> tuple[Mask, float] | None:
    """Prompt a refiner with the clicks, the box and the mask that was found without it.

    Args:
        session: the image.
        prompt: the clicks and boxes.
        mask: (H, W) bool, drawn without the refiner, not empty.
        probability: (H, W) float32 of each pixel to belong to the thing.
        forbidden: (H, W) bool, pixels that may not be drawn.

    Returns:
        (H, W) bool mask and predicted IoU; None if it finds nothing, is unsure, or does not do as the clicks say.
    """
    found = session.redraw(_prompt(prompt, mask, probability))
    if found is None or found.iou < REFINER_THRESHOLDS.min_predicted_iou or found.mask.shape != mask.shape:
        return None
    free = found.mask & ~forbidden
    size = (mask.shape[0], mask.shape[1])
    obeys = all(free[pixel_of(p, size)] for p in prompt.positive) and not any(
        free[pixel_of(p, size)] for p in prompt.negative
    )
    return (free, min(1.0, float(found.iou))) if obeys and free.any() else None


def _prompt(prompt: Prompt, mask: Mask, probability: Floats) -> refiner.Prompt:
    """The refiner's prompt: without a click inside, points deep inside the mask stand in; without a box, its extent."""
    certain = np.where(mask, np.maximum(probability, 0.51), np.minimum(1 - probability, 0.99))
    built = refiner.build_prompt(mask, np.maximum(certain, 0.51).astype(np.float32))
    points = _points(prompt.positive) if prompt.positive else built.points
    box = _around(prompt.boxes) if prompt.boxes else built.box
    return refiner.Prompt(built.logits, box, points, _points(prompt.negative))


def _points(points: tuple[Point, ...]) -> Floats:
    return np.array(points, dtype=np.float32).reshape(-1, 2)


def _around(boxes: tuple[Box, ...]) -> Box:
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)
