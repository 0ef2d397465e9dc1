"""Figures of merit of a class map against the truth: mIoU, and boundary F. It must not know what made the map."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.segmentation.metrics import VOID

Classes = NDArray[np.int64]


def boundary_f(found: Classes, truth: Classes, count: int, *, radius: int) -> float:
    """F of the pixels on class borders that have a partner of the same class within a disc of `radius` pixels.

    Of two classes only the second is judged, the border being the same; what is next to void pixels is left out.
    """
    void = (truth == VOID).astype(np.uint8)
    near, far = cv2.dilate(void, _disc(3)) > 0, cv2.dilate(void, _disc(6)) > 0
    matched = np.zeros(2)
    total = np.zeros(2)
    for c in range(1 if count == 2 else 0, count):
        real, drawn = _border(truth == c) & ~near, _border(found == c)
        judged = drawn & ~far
        matched += [(judged & _within(real, radius)).sum(), (real & _within(drawn, radius)).sum()]
        total += [judged.sum(), real.sum()]
    precision, recall = matched / np.maximum(total, 1)
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return np.asarray(mask & (inner == 0))


def _within(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), _disc(radius)) > 0)


def _disc(radius: int) -> NDArray[np.uint8]:
    reach = np.arange(-radius, radius + 1)
    return np.asarray(np.hypot(reach[:, None], reach) <= radius + 0.01, dtype=np.uint8)
