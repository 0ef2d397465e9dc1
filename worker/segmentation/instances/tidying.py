"""Tidying the mask of one thing: short frayed arms and islands much smaller than the thing go, long thin parts stay."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.segmentation.instances.class_map import Crop

Mask = NDArray[np.bool_]

_RADIUS = 0.02  # of a disc that fits into all that is no arm, as a share of the root of the thing's area
_LEAST_PART, _LEAST_LENGTH = 0.02, 0.15  # an arm of this share of the area, or this long by its root, is a part: a tail
_CORNER = 3.0  # radii up to which it is no arm but a pointed corner
_LEAST_ISLAND = 0.02  # of the largest island's area


def tidy_thing(mask: Mask, crop: Crop, size: tuple[int, ...]) -> Mask:
    """Take frayed arms and small islands off a thing, by an opening relative to its size that spares its thin parts.

    Args:
        mask: (h, w) bool, one thing; cropped for speed.
        crop: rows and columns of the image that it covers. At the image's border a thing goes on beyond.
        size: (H, W) of the image.

    Returns:
        (h, w) bool: some of the pixels of the mask, and never none of them.
    """
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    rows, columns = slice(top, top + height), slice(left, left + width)
    own = mask[rows, columns].view(np.uint8)
    area = int(np.count_nonzero(own))
    if not area:
        return mask
    root = float(np.sqrt(area))
    radius = max(1.0, round(_RADIUS * root))
    margin = int(radius) + 1
    padded = cv2.copyMakeBorder(own, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)
    _continue_beyond(padded, margin, (crop[0].start + top, crop[1].start + left), (height, width), size)
    kept = _opened(padded, radius)[margin:-margin, margin:-margin]
    count, arms, stats, _ = cv2.connectedComponentsWithStats(own & (kept == 0), connectivity=8)
    length = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    is_part = (stats[:, cv2.CC_STAT_AREA] > _LEAST_PART * area) | (length > _LEAST_LENGTH * root)
    is_part |= length <= _CORNER * radius
    is_part[0] = False
    if count > 1:
        kept = (own & (kept | is_part.astype(np.uint8)[arms])).astype(np.uint8)
    count, islands, stats, _ = cv2.connectedComponentsWithStats(kept, connectivity=8)
    if count < 2:
        return mask
    is_island = stats[:, cv2.CC_STAT_AREA] >= _LEAST_ISLAND * stats[1:, cv2.CC_STAT_AREA].max()
    is_island[0] = False
    tidy = np.zeros_like(mask)
    tidy[rows, columns] = is_island[islands]
    return tidy


def _continue_beyond(
    padded: NDArray[np.uint8], margin: int, corner: tuple[int, int], shape: tuple[int, int], size: tuple[int, ...]
) -> None:
    """Repeat the outermost pixels of a padded mask where it touches the image's border."""
    for turned, start, length, whole in (
        (padded, corner[0], shape[0], size[0]),
        (padded.T, corner[1], shape[1], size[1]),
    ):
        if start == 0:
            turned[:margin] = turned[margin]
        if start + length == whole:
            turned[-margin:] = turned[-margin - 1]


def _opened(mask: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """Pixels of all discs of this radius that the mask holds; by distances, which takes no longer for large discs."""
    centres = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > radius
    away = cv2.distanceTransform((~centres).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray((away <= radius) & (mask > 0)).view(np.uint8)
