"""Chords: straight cuts between two places of a component's outline that are short for the area they cut off."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]

_POINTS = 96  # at equal distances along the outline
_LEAST_OUTLINE = 16  # pixels; a shorter outline has no chords worth a look
_KERNEL = np.array([0.06, 0.24, 0.4, 0.24, 0.06])  # smooths the outline, whose steps are whole pixels
_APART = 6  # points: chords whose ends are both nearer than this are one chord
_SAMPLES = 12  # places along a chord; at most one may lie outside of the component
_MOST_TRIED = 60


def narrow_chords(mask: Mask, *, most: int, least_share: float) -> Iterator[Mask]:
    """Yield one side of each of the best chords: those shortest for the root of the area that they cut off.

    Args:
        mask: (h, w) bool, one connected component.
        most: how many chords.
        least_share: of the area within the outline; a chord cuts off no less.

    Yields:
        (h, w) bool, the pixels of the component on one side.
    """
    outline = _outline(mask)
    if outline is None:
        return
    relative = _relative_lengths(outline, least_share)
    found = 0
    for _ in range(_MOST_TRIED):
        one, other = (int(k) for k in np.unravel_index(int(relative.argmin()), relative.shape))
        if found == most or not np.isfinite(relative[one, other]):
            return
        lies_inside = _lies_inside(mask, outline[one], outline[other])
        reach = _APART if lies_inside else 1
        near_one, near_other = (np.arange(end - reach + 1, end + reach) % _POINTS for end in (one, other))
        relative[np.ix_(near_one, near_other)] = relative[np.ix_(near_other, near_one)] = np.inf
        if lies_inside:
            found += 1
            yield _side(mask, outline, one, other)


def _outline(mask: Mask) -> Points | None:
    """The outer outline, (_POINTS, 2) float64 x and y in pixels; None if it is too short."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = max(contours, key=len)[:, 0].astype(np.float64)
    if len(contour) < _LEAST_OUTLINE:
        return None
    closed = np.concatenate([contour, contour[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    at = np.linspace(0, along[-1], _POINTS, endpoint=False)
    points = np.stack([np.interp(at, along, closed[:, k]) for k in (0, 1)], axis=1)
    padded = np.concatenate([points[-2:], points, points[:2]])
    return np.stack([np.convolve(padded[:, k], _KERNEL, mode="valid") for k in (0, 1)], axis=1)


def _relative_lengths(outline: Points, least_share: float) -> NDArray[np.float64]:
    """Length of the chord between every two points over the root of the smaller area, (P, P); infinite where that area
    is too small a share, and below the diagonal."""
    x, y = outline.T
    doubled = np.concatenate([[0.0], np.cumsum(x * np.roll(y, -1) - np.roll(x, -1) * y)])
    total = max(abs(float(doubled[-1])) / 2, 1.0)
    between = np.abs(doubled[None, :-1] - doubled[:-1, None] + x[None] * y[:, None] - x[:, None] * y[None]) / 2
    smaller = np.minimum(between, total - between)
    possible = (smaller >= least_share * total) & np.triu(np.ones(smaller.shape, dtype=np.bool_), 1)
    lengths = np.hypot(x[:, None] - x, y[:, None] - y)
    return np.where(possible, lengths / np.sqrt(np.maximum(smaller, 1.0)), np.inf)


def _lies_inside(mask: Mask, start: Points, stop: Points) -> bool:
    at = np.linspace(0, 1, _SAMPLES + 2)[1:-1, None]
    columns, rows = np.rint(start + at * (stop - start)).astype(np.int64).T
    return bool(np.count_nonzero(mask[rows, columns]) >= _SAMPLES - 1)


def _side(mask: Mask, outline: Points, one: int, other: int) -> Mask:
    """The pixels nearer to what lies between two points of the outline than to the rest of it."""
    runs = outline[one : other + 1], np.concatenate([outline[other:], outline[: one + 1]])
    away = []
    for run in runs:
        outside = np.ones(mask.shape, dtype=np.uint8)
        cv2.fillPoly(outside, [np.rint(run).astype(np.int32)], 0)
        away.append(cv2.distanceTransform(outside, cv2.DIST_L2, 3))
    return np.asarray(mask & (away[0] < away[1]))
