"""Metrics of class maps and masks: confusion matrix and IoU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

VOID = -2
"""Value of pixels in a class map that are neither judged nor learned from; classes have indices >= 0."""

Confusion = NDArray[np.int64]
"""(C, C) pixel counts: rows are true classes, columns predicted ones."""


def confusion(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> Confusion:
    """Count pixels by true and predicted class.

    Args:
        truth: integers of any shape, indices of classes; pixels below 0, such as VOID, are left out.
        predicted: integers of the same shape, indices of classes wherever the truth is one.
        classes: C, the number of classes.
    """
    judged = truth >= 0
    codes = truth[judged].astype(np.int64) * classes + predicted[judged]
    return np.bincount(codes, minlength=classes * classes).reshape(classes, classes)


def class_ious(confusions: Confusion) -> NDArray[np.float64]:
    """Compute the IoU of each class, NaN where the truth does not show it: (..., C, C) -> (..., C)."""
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    return iou_of_counts(hits, confusions.sum(axis=-1), confusions.sum(axis=-2))


def mean_iou(confusions: Confusion) -> float:
    """Average the IoU of a (C, C) confusion over the classes that the truth shows."""
    return float(np.nanmean(class_ious(confusions)))


def iou_of_counts(hits: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.float64]:
    """Compute IoU elementwise from pixels in common, true pixels and predicted ones; NaN where no pixel is true."""
    union = np.maximum(truth + predicted - hits, 1e-12)
    return np.where(truth > 0, hits / union, np.nan)


def mask_iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Compute the IoU of two masks of one shape, in [0, 1]; 0 when both are empty."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 0.0
