"""A ragged class map -> one without specks, pinholes and teeth along its borders, thin parts kept.

It works on the map of classes, not on masks: every pixel keeps exactly one class, so no two masks can come to overlap.
It must not know what the classes mean.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Classes = NDArray[np.int16]
Window = tuple[slice, slice]
"""Rows and columns of the image."""

_SIDE_OF_A_PIXEL = 250  # short sides of this length are smoothed by one pixel either way, twice it by two, and so on
_MOST_RADIUS = 8
_NOTHING = -1


def tidy(classes: Classes, *, smallest: int) -> Classes:
    """Smooth the borders between classes, then give what is too small to the class around it.

    Args:
        classes: (H, W) class of each pixel.
        smallest: pixels; a connected part below that is a speck, or a pinhole in what surrounds it. Larger holes stay.

    Returns:
        (H, W), a new map. Where all parts are specks it is not changed.
    """
    return _without_specks(_smooth(classes), smallest)


def _smooth(classes: Classes) -> Classes:
    """A pixel whose window is mostly of another class goes over to it, unless that would eat a thin part.

    What a class loses in one connected piece longer than two windows is no tooth of a border but a pole, a wire, a leg.
    """
    radius = min(_MOST_RADIUS, max(1, round(min(classes.shape) / _SIDE_OF_A_PIXEL)))
    side = 2 * radius + 1
    smooth = classes.copy()
    for index in present_classes(classes):
        around = cv2.blur((classes == index).view(np.uint8) * 255, (side, side), borderType=cv2.BORDER_REPLICATE)
        smooth[around >= 128] = index
    lost = np.where(smooth != classes, classes, _NOTHING)
    for index in present_classes(classes):
        eaten, window = class_window(lost, index)
        if eaten.size:
            _, pieces, stats, _ = cv2.connectedComponentsWithStats(eaten, connectivity=8)
            thin = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) > 2 * side
            thin[0] = False
            smooth[window][thin[pieces]] = index
    return smooth


def _without_specks(classes: Classes, smallest: int) -> Classes:
    specks = np.zeros(classes.shape, dtype=np.uint8)
    for index in present_classes(classes):
        mask, window = class_window(classes, index)
        _, numbered, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        small = (stats[:, cv2.CC_STAT_AREA] < smallest).astype(np.uint8)
        small[0] = 0
        if small.any():
            specks[window] |= small[numbered]
    if not specks.any() or specks.all():
        return classes
    # To OpenCV a distance is one to the nearest 0: those are the pixels that stay, each with a number of its own.
    _, nearest = cv2.distanceTransformWithLabels(specks, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    stays = specks == 0
    by_number = np.zeros(int(nearest.max()) + 1, dtype=classes.dtype)
    by_number[nearest[stays]] = classes[stays]
    return np.asarray(by_number[nearest])


def class_window(classes: Classes, index: int) -> tuple[NDArray[np.uint8], Window]:
    """The pixels of a class as (h, w) uint8 0 or 1 in the smallest window that holds them all, and that window."""
    mask = (classes == index).view(np.uint8)
    left, top, width, height = cv2.boundingRect(mask)
    window = (slice(top, top + height), slice(left, left + width))
    return mask[window], window


def class_parts(classes: Classes, index: int, *, smallest: int) -> list[tuple[NDArray[np.bool_], Window, int]]:
    """The connected parts of a class with `smallest` pixels or more: (h, w) bool mask, its window, its pixels."""
    mask, (rows, columns) = class_window(classes, index)
    if not mask.size:
        return []
    count, numbered, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    found = []
    for part in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[part])
        if area >= smallest:
            alone = numbered[top : top + height, left : left + width] == part
            top, left = rows.start + top, columns.start + left
            found.append((alone, (slice(top, top + height), slice(left, left + width)), area))
    return found


def present_classes(classes: Classes) -> list[int]:
    """The classes that have pixels, in rising order."""
    return [int(index) for index in np.flatnonzero(np.bincount(classes.ravel()))]
