"""Figures of merit of class maps and masks: one confusion and one IoU for the gate, the recipes and the laboratory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

VOID = -2
"""Stands in a class map where nothing is judged and nothing is learned. Index of no class: all of those are >= 0."""

Confusion = NDArray[np.int64]
"""(C, C) pixels: rows are the truth, columns what was predicted."""


def confusion(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> Confusion:
    """Count pixels by what they are and what they were taken for.

    Args:
        truth: integers of any shape, indices of classes; pixels below 0, VOID among them, are left out.
        predicted: integers of the same shape, indices of classes where the truth is judged.
        classes: how many there are, C.
    """
    judged = truth >= 0
    codes = truth[judged].astype(np.int64) * classes + predicted[judged]
    return np.bincount(codes, minlength=classes * classes).reshape(classes, classes)


def class_ious(confusions: Confusion) -> NDArray[np.float64]:
    """IoU of each class, NaN for those the truth does not show. (..., C, C) -> (..., C)."""
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    return iou_of_counts(hits, confusions.sum(axis=-1), confusions.sum(axis=-2))


def mean_iou(confusions: Confusion) -> float:
    """Mean over the classes that the truth of a (C, C) confusion shows."""
    return float(np.nanmean(class_ious(confusions)))


def iou_of_counts(hits: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.float64]:
    """IoU from pixels in common, of the truth and predicted, elementwise; NaN where the truth has none."""
    union = np.maximum(truth + predicted - hits, 1e-12)
    return np.where(truth > 0, hits / union, np.nan)


def mask_iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """IoU of two masks of one shape, 0 to 1; 0 when both are empty."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 0.0
