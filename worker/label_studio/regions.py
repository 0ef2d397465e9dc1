"""Masks to and from Label Studio regions: brush, polygon, rectangle.

Coordinates in a region are percent of the image's size, 0..100, x to the right and y down; masks are in pixels of the
same image, after EXIF rotation. Source of the format: https://labelstud.io/guide/task_format and label_studio_sdk's
`LabelInterface.validate_prediction`.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import RegionError
from plugin_config.vocabulary import OUTPUT_KINDS, OutputKind
from worker.label_studio.brush_rle import MAX_PIXELS, decode_rle, encode_rle
from worker.label_studio.polygons import Points, fill_ring, mask_rings

KINDS: tuple[OutputKind, ...] = tuple(OUTPUT_KINDS.values())
"""The shapes written; a region's type is the kind, or the kind + "labels"."""

TOLERANCE = 1.0
"""How far a polygon may leave the mask's outline, in pixels."""

_FARTHEST = 1e6  # percent: shapes may be drawn beyond the image, but not where float arithmetic gives way
_ELLIPSE_POINTS = 72
_DECIMALS = 6  # of a percent: a ten-thousandth of a pixel in an image 10,000 pixels wide


def encode_region(
    mask: NDArray[np.bool_],
    *,
    kind: OutputKind,
    control: str,
    to_name: str,
    label: str,
    score: float,
    region_id: str | None = None,
    tolerance: float = TOLERANCE,
    size: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Describe one mask as the regions of a Label Studio result.

    Args:
        mask: (H, W) bool, in pixels of the image after EXIF rotation; its shape is the image's size, or see `size`.
        kind: "brush" keeps every pixel, "polygon" gives one region per island (a hole is cut open to the outside),
            "rectangle" one box around all of the mask.
        control: name of the control tag (`from_name`).
        to_name: name of the Image tag.
        label: the key the labeling config expects: a label's alias where it has one, else its value.
        score: confidence in [0, 1], the same for each region.
        region_id: of the first region; the following get "-1", "-2", ... behind it. None: globally unique ids are made.
        tolerance: in pixels of the mask, at least 0, for polygons only: no pixel further from the outline changes. 0 is
            exact.
        size: (H, W) of the image in pixels, where the mask is of a reduced copy of it: a brush is enlarged to it, and
            shapes are in percent.

    Returns:
        No regions for an empty mask. `origin` is left out: the editor sets it when an annotator takes the region over.

    Raises:
        RegionError: an argument is not as described.
    """
    _check_arguments(mask, kind, label, score, tolerance)
    if not mask.any():
        return []
    height, width = size or mask.shape
    first = region_id or uuid.uuid4().hex
    return [
        {
            "id": f"{first}-{number}" if number else first,
            "from_name": control,
            "to_name": to_name,
            "type": f"{kind}labels",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": value | {f"{kind}labels": [label]},
            "score": float(score),
        }
        for number, value in enumerate(_values(mask, kind, tolerance, size))
    ]


def _values(
    mask: NDArray[np.bool_], kind: OutputKind, tolerance: float, size: tuple[int, int] | None
) -> list[dict[str, Any]]:
    """The `value` of each region, without its label. Arguments as of `encode_region`."""
    if kind == "brush":
        return [{"format": "rle", "rle": encode_rle(mask, size=size)}]
    if kind == "rectangle":
        return [_box_value(mask)]
    rings = mask_rings(mask, tolerance=tolerance)
    return [{"points": _to_percent(ring, mask.shape), "closed": True} for ring in rings]


def decode_region(region: Mapping[str, Any], width: int, height: int) -> NDArray[np.bool_]:
    """Draw a Label Studio region as a mask, clipped to the image.

    Args:
        region: one item of a result, of type brush, polygon or rectangle, or one of these + "labels".
        width: of the image after EXIF rotation, in pixels.
        height: of the image after EXIF rotation, in pixels.

    Returns:
        (H, W) bool: for a brush the pixels painted at all, else those whose centre lies in the shape.

    Raises:
        RegionError: the type is not read here, the value lacks something, or a brush belongs to another image size.
    """
    kind = str(region.get("type")).lower().removesuffix("labels")
    value = region.get("value")
    if kind not in KINDS:
        raise _refusal(region, f"type {region.get('type')!r} is not read")
    if not isinstance(value, Mapping):
        raise _refusal(region, "it has no value")
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise _refusal(region, f"the image must have 1 to {MAX_PIXELS} pixels, got {width} x {height}")
    if kind == "brush":
        return _decode_brush(region, value, width, height)
    scale = np.array([width, height]) / 100  # pixels of a percent
    ring = _polygon_ring(region, value) * scale if kind == "polygon" else _rectangle_ring(region, value, scale)
    return fill_ring(ring, height=height, width=width)


def inscribed_ellipse(region: Mapping[str, Any], width: int, height: int) -> NDArray[np.bool_]:
    """Draw the ellipse that touches all four sides of a rectangle region, clipped to the image; as `decode_region`.

    Raises:
        RegionError: the region is no rectangle, or its value lacks something.
    """
    value = region.get("value")
    if str(region.get("type")).lower().removesuffix("labels") != "rectangle" or not isinstance(value, Mapping):
        raise _refusal(region, "it is no rectangle")
    corners = _rectangle_ring(region, value, np.array([width, height]) / 100)
    across, down = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    turn = np.linspace(0, 2 * np.pi, _ELLIPSE_POINTS, endpoint=False)[:, None]
    ring = (corners[0] + corners[2]) / 2 + np.cos(turn) * across + np.sin(turn) * down
    return fill_ring(ring, height=height, width=width)


def region_label(region: Mapping[str, Any]) -> str:
    """The first label of a region: the alias or value under which the labeling config knows it.

    Raises:
        RegionError: the region carries no label.
    """
    value = region.get("value")
    labels = value.get(str(region.get("type"))) if isinstance(value, Mapping) else None
    if not isinstance(labels, Sequence) or isinstance(labels, str) or not labels or not isinstance(labels[0], str):
        raise _refusal(region, "it has no label")
    return labels[0]


def _check_arguments(mask: NDArray[np.bool_], kind: str, label: str, score: float, tolerance: float) -> None:
    problem = ""
    if mask.ndim != 2 or mask.dtype != np.bool_ or not mask.size:
        problem = f"its mask must be (H, W) bool with at least one pixel, got shape {mask.shape} of {mask.dtype}"
    elif kind not in KINDS:
        problem = f"its kind must be one of {', '.join(KINDS)}, got {kind!r}"
    elif not label:
        problem = "its label must not be empty"
    elif not 0 <= score <= 1:
        problem = f"its score must be in [0, 1], got {score!r}"
    elif not 0 <= tolerance < math.inf:
        problem = f"its tolerance must be a number of pixels, at least 0, got {tolerance!r}"
    if problem:
        raise RegionError(f"a new region for label {label!r}", problem, "Correct the call that makes the region.")


def _refusal(region: Mapping[str, Any], problem: str) -> RegionError:
    remedy = f"Regions of type {', '.join(KINDS)}, each also with 'labels' behind it, are read; leave others out."
    return RegionError(f"region {region.get('id')!r} of type {region.get('type')!r}", problem, remedy)


def _to_percent(ring: Points, shape: tuple[int, ...]) -> list[list[float]]:
    height, width = shape
    percent = np.clip(ring * 100 / np.array([width, height]), 0, 100)
    return [[round(x, _DECIMALS), round(y, _DECIMALS)] for x, y in percent.tolist()]


def _box_value(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Percent of the half-open pixel box around a mask that is not empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    box = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]], dtype=np.float64)
    (left, top), (right, bottom) = _to_percent(box, mask.shape)
    size = {"width": round(right - left, _DECIMALS), "height": round(bottom - top, _DECIMALS)}
    return {"x": left, "y": top, **size, "rotation": 0}


def _decode_brush(region: Mapping[str, Any], value: Mapping[str, Any], width: int, height: int) -> NDArray[np.bool_]:
    if "rle" not in value:
        raise _refusal(region, "its value has no 'rle'")
    try:
        return decode_rle(value["rle"], height=height, width=width)
    except RegionError as error:
        raise RegionError(
            f"region {region.get('id')!r} of type {region.get('type')!r}", error.problem, error.remedy
        ) from error


def _polygon_ring(region: Mapping[str, Any], value: Mapping[str, Any]) -> Points:
    """The points of a polygon, in percent."""
    points = value.get("points")
    if not isinstance(points, Sequence) or len(points) < 3:
        raise _refusal(region, "its value has no 'points', three or more")
    try:
        ring = np.array(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _refusal(region, f"its points are not pairs of numbers ({error})") from error
    if ring.shape != (len(points), 2) or not (np.abs(ring) <= _FARTHEST).all():
        raise _refusal(region, f"its points are not pairs of numbers within {_FARTHEST:g} percent")
    return ring


def _rectangle_ring(region: Mapping[str, Any], value: Mapping[str, Any], scale: NDArray[np.float64]) -> Points:
    """The corners of a rectangle, in pixels. It is turned clockwise about its top-left corner."""
    numbers = [value.get(key) for key in ("x", "y", "width", "height")] + [value.get("rotation") or 0]
    sane = [float(number) for number in numbers if isinstance(number, int | float) and abs(number) <= _FARTHEST]
    if len(sane) < len(numbers):
        raise _refusal(region, f"its value must have x, y, width and height as numbers within {_FARTHEST:g} percent")
    origin, size, turn = np.array(sane[:2]) * scale, np.array(sane[2:4]) * scale, math.radians(sane[4])
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size
    clockwise = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])  # y points down
    return np.asarray(origin + corners @ clockwise)
