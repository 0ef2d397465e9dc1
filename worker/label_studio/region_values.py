"""A mask -> the `value` of its regions, without a label, as Label Studio's editor stores each kind of shape."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin_config.control_tags import OutputKind
from worker.label_studio.bitmasks import encode_bitmask
from worker.label_studio.brush_rle import encode_rle
from worker.label_studio.polygons import Points, mask_rings

Mask = NDArray[np.bool_]

KEYPOINT_WIDTH = 0.5
"""Size of a predicted point in percent of the image's width; the editor shows no point smaller than two pixels."""

_DECIMALS = 6  # of a percent: a ten-thousandth of a pixel in an image 10,000 pixels wide
_LARGEST_RADIUS = 50.0  # percent: label_studio_sdk refuses larger ones
_ROUND = 1.02  # an ellipse of axes in no larger ratio is a circle, whose rotation would be noise
_SAMPLE = 100_000  # pixels by which ellipses are compared
_PLATEAU = 0.5  # pixels by which a point's distance to the outline may be less than the largest


def mask_values(
    mask: Mask, kind: OutputKind, *, tolerance: float, size: tuple[int, int] | None = None
) -> list[dict[str, Any]]:
    """Describe a mask as values of regions, in percent of the image's size or in its pixels.

    Args:
        mask: (H, W) bool, not empty, in pixels of the image after EXIF rotation, or of a reduced copy of it.
        kind: of the regions.
        tolerance: in pixels of the mask, for polygons and vectors.
        size: (H, W) of the image, where the mask is of a reduced copy of it.

    Returns:
        one value; of a polygon or vector one for each island.
    """
    if kind == "brush":
        return [{"format": "rle", "rle": encode_rle(mask, size=size)}]
    if kind == "bitmask":
        return [{"imageDataURL": encode_bitmask(mask, size=size)}]
    if kind == "rectangle":
        return [_box_value(mask)]
    if kind == "ellipse":
        return [_ellipse_value(mask)]
    if kind == "keypoint":
        return [_keypoint_value(mask)]
    rings = [_to_percent(ring, mask.shape) for ring in mask_rings(mask, tolerance=tolerance)]
    if kind == "vector":
        return [{"vertices": _vertices(ring), "closed": True} for ring in rings]
    return [{"points": ring, "closed": True} for ring in rings]


def _to_percent(points: Points, shape: tuple[int, ...]) -> list[list[float]]:
    height, width = shape
    percent = np.clip(points * 100 / np.array([width, height]), 0, 100)
    return [[round(x, _DECIMALS), round(y, _DECIMALS)] for x, y in percent.tolist()]


def _box(mask: Mask) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the half-open pixel box around a mask that is not empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _box_value(mask: Mask) -> dict[str, Any]:
    corners = np.array(_box(mask), dtype=np.float64).reshape(2, 2)
    (left, top), (right, bottom) = _to_percent(corners, mask.shape)
    size = {"width": round(right - left, _DECIMALS), "height": round(bottom - top, _DECIMALS)}
    return {"x": left, "y": top, **size, "rotation": 0}


def _vertices(ring: list[list[float]]) -> list[dict[str, Any]]:
    """A closed ring as vertices, each of which names the one before it, and the first the last."""
    return [
        {"id": f"v{number}", "prevPointId": f"v{(number - 1) % len(ring)}", "x": x, "y": y, "isBezier": False}
        for number, (x, y) in enumerate(ring)
    ]


def _ellipse_value(mask: Mask) -> dict[str, Any]:
    """The better of two ellipses: that of all the mask, and that of its largest island."""
    height, width = mask.shape
    left, top, right, bottom = _box(mask)
    cropped = mask[top:bottom, left:right].astype(np.uint8)
    islands, numbers, stats, _ = cv2.connectedComponentsWithStats(cropped, connectivity=8)
    parts = [cropped]
    if islands > 2:
        parts.append((numbers == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8))
    fits = [_fit_ellipse(part, (left, top), (width, height)) for part in parts]
    centre, shape = max(fits, key=lambda fit: _overlap(cropped, fit[0] - (left, top), fit[1]) if fits[1:] else 1)
    return _ellipse_of(centre, shape, width, height)


def _fit_ellipse(
    part: NDArray[np.uint8], corner: tuple[int, int], image: tuple[int, int]
) -> tuple[Points, NDArray[np.float64]]:
    """The ellipse of the area, centre and second moments of some pixels, which of pixels that are an ellipse is that
    ellipse; squeezed into the image where it would reach beyond.

    Args:
        part: (h, w) 1 inside, a crop of the image.
        corner: x and y of its first pixel in the image.
        image: width and height.

    Returns:
        its centre (2,) in the image, and the matrix (2, 2) whose eigenvalues are the squares of its half axes.
    """
    moments = cv2.moments(part, binaryImage=True)
    area = moments["m00"]
    centre = np.array([moments["m10"], moments["m01"]]) / area + corner + 0.5
    spread = np.array([[moments["mu20"], moments["mu11"]], [moments["mu11"], moments["mu02"]]]) / area
    spread += np.eye(2) / 12  # of squares, not of their centres
    shape = spread * (area / (math.pi * math.sqrt(float(np.linalg.det(spread)))))
    reach = np.sqrt(np.diag(shape))
    low, high = np.maximum(centre - reach, 0), np.minimum(centre + reach, image)
    squeeze = np.diag((high - low) / 2 / reach)
    return (low + high) / 2, squeeze @ shape @ squeeze


def _overlap(part: NDArray[np.uint8], centre: Points, shape: NDArray[np.float64]) -> float:
    """Intersection over union of pixels and an ellipse within the image, both in the frame of the crop; of a large one
    by a sample.
    """
    step = math.ceil(math.sqrt(part.size / _SAMPLE))
    rows, columns = np.nonzero(part[::step, ::step])
    away = np.stack((columns, rows), axis=1) * step + 0.5 - centre
    inside = step**2 * int((((away @ np.linalg.inv(shape)) * away).sum(axis=1) <= 1).sum())
    return inside / (step**2 * len(away) + math.pi * math.sqrt(float(np.linalg.det(shape))) - inside)


def _ellipse_of(centre: Points, shape: NDArray[np.float64], width: int, height: int) -> dict[str, Any]:
    """The value of an ellipse. Either axis may be called the first, at a quarter turn more: it is the one that leaves
    the radii, percents of different sides, within the SDK's limit, and of two such the one that is turned less.
    """
    (shorter, longer), axes = np.linalg.eigh(shape)
    minor, major = math.sqrt(shorter), math.sqrt(longer)
    turn = math.degrees(math.atan2(axes[1, 1], axes[0, 1])) if major > _ROUND * minor else 0.0
    found = []
    for radius_x, radius_y, rotation in ((major, minor, turn), (minor, major, turn + 90)):
        rotation = (rotation + 90) % 180 - 90  # half a turn changes nothing
        radii = radius_x * 100 / width, radius_y * 100 / height
        found.append((max(*radii, _LARGEST_RADIUS), abs(rotation), radii, rotation))
    *_, radii, rotation = min(found)
    x, y = _to_percent(centre[None], (height, width))[0]
    radius_x, radius_y = (round(min(radius, _LARGEST_RADIUS), _DECIMALS) for radius in radii)
    return {"x": x, "y": y, "radiusX": radius_x, "radiusY": radius_y, "rotation": round(rotation, _DECIMALS) % 360}


def _keypoint_value(mask: Mask) -> dict[str, Any]:
    """The point of the mask that is furthest from its outline; of several the one nearest to their middle."""
    left, top, right, bottom = _box(mask)
    inside = np.pad(mask[top:bottom, left:right], 1).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    y, x = np.nonzero(depth >= max(float(depth.max()) - _PLATEAU, 1))
    points = np.stack((x, y), axis=1).astype(np.float64)
    point = points[((points - points.mean(axis=0)) ** 2).sum(axis=1).argmin()] + (left - 0.5, top - 0.5)
    ((percent_x, percent_y),) = _to_percent(point[None], mask.shape)
    return {"x": percent_x, "y": percent_y, "width": KEYPOINT_WIDTH}
