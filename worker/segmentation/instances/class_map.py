"""Class maps: removing specks, pinholes and ragged borders, and cutting out the components of a class.

Cleaning works on the map and not on masks: every pixel keeps exactly one class, so masks can never come to overlap.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

ClassMap = NDArray[np.int16]
"""(H, W) class of each pixel, 0 and up."""

Crop = tuple[slice, slice]
"""Rows and columns of the image."""

_SIDE_PER_RADIUS = 250  # pixels of the short side for each pixel of the smoothing radius
_MAX_RADIUS = 8
_NO_CLASS = -1


def clean(classes: ClassMap, *, min_area: int) -> ClassMap:
    """Smooth the borders between classes, then give small components to the class around them.

    Args:
        classes: (H, W) class of each pixel.
        min_area: pixels; a smaller component is a speck, or a pinhole in what surrounds it. Larger holes stay.

    Returns:
        (H, W), a new map. Where all components are specks, nothing but the smoothing is applied.
    """
    radius = min(_MAX_RADIUS, max(1, round(min(classes.shape) / _SIDE_PER_RADIUS)))
    # Smoothing moves no class further than this, so that each is looked for in its part of the image only.
    parts = {index: _grown(class_crop(classes, index)[1], radius, classes.shape) for index in present_classes(classes)}
    return _without_specks(_smooth(classes, parts, 2 * radius + 1), parts, min_area)


def _grown(crop: Crop, margin: int, size: tuple[int, ...]) -> Crop:
    rows, columns = (
        slice(max(0, part.start - margin), min(side, part.stop + margin))
        for part, side in zip(crop, size, strict=True)
    )
    return rows, columns


def _smooth(classes: ClassMap, parts: Mapping[int, Crop], side: int) -> ClassMap:
    """Give each pixel the class of the majority of its window, except where that would erase a thin part.

    What a class loses in one connected piece longer than two windows is not a ragged border but a pole, a wire, a leg.

    Args:
        parts: where each class may have pixels before and after.
        side: of the window, pixels.
    """
    smooth = classes.copy()
    for index, part in parts.items():
        mask = (classes[part] == index).view(np.uint8) * 255
        smooth[part][cv2.blur(mask, (side, side), borderType=cv2.BORDER_REPLICATE) >= 128] = index
    lost = np.where(smooth != classes, classes, _NO_CLASS)
    for index, part in parts.items():
        lost_mask, crop = class_crop(lost[part], index)
        if lost_mask.size:
            _, numbered, stats, _ = cv2.connectedComponentsWithStats(lost_mask, connectivity=8)
            is_thin_part = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) > 2 * side
            is_thin_part[0] = False
            if is_thin_part.any():
                smooth[part][crop][is_thin_part[numbered]] = index
    return smooth


def _without_specks(classes: ClassMap, parts: Mapping[int, Crop], min_area: int) -> ClassMap:
    """Give every component below `min_area` pixels the class of the nearest pixel of a larger one.

    Args:
        parts: where each class may have pixels.
    """
    specks = np.zeros(classes.shape, dtype=np.uint8)
    for index, part in parts.items():
        mask, crop = class_crop(classes[part], index)
        if not mask.size:
            continue
        _, numbered, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        small = (stats[:, cv2.CC_STAT_AREA] < min_area).astype(np.uint8)
        small[0] = 0
        if small.any():
            specks[part][crop] |= small[numbered]
    if not specks.any() or specks.all():
        return classes
    # OpenCV labels each pixel with the nearest pixel of value 0: these are the pixels outside all specks.
    _, nearest = cv2.distanceTransformWithLabels(specks, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    kept = specks == 0
    class_of_label = np.zeros(int(nearest.max()) + 1, dtype=classes.dtype)
    class_of_label[nearest[kept]] = classes[kept]
    return np.asarray(class_of_label[nearest])


def class_crop(classes: ClassMap, index: int) -> tuple[NDArray[np.uint8], Crop]:
    """Cut out a class: (h, w) uint8 mask of 0 and 1 in the smallest crop that holds all its pixels, and that crop."""
    mask = (classes == index).view(np.uint8)
    left, top, width, height = cv2.boundingRect(mask)
    crop = (slice(top, top + height), slice(left, left + width))
    return mask[crop], crop


def class_components(classes: ClassMap, index: int, *, min_area: int) -> list[tuple[NDArray[np.bool_], Crop, int]]:
    """Find the 8-connected components of a class with `min_area` pixels or more.

    Returns:
        For each, its (h, w) bool mask, the crop of that mask, and its pixels.
    """
    mask, (rows, columns) = class_crop(classes, index)
    if not mask.size:
        return []
    count, numbered, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    components = []
    for number in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[number])
        if area >= min_area:
            component = numbered[top : top + height, left : left + width] == number
            top, left = rows.start + top, columns.start + left
            components.append((component, (slice(top, top + height), slice(left, left + width)), area))
    return components


def present_classes(classes: ClassMap) -> list[int]:
    """List the classes that have pixels, in ascending order."""
    return [int(index) for index in np.flatnonzero(np.bincount(classes.ravel()))]
