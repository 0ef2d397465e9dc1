"""Regions that are shapes, in percent of the image's size, -> masks: what lies inside, or near a line or point.

Source of the forms: https://labelstud.io/guide/task_format and the editor of Label Studio 1.23, which turns a rectangle
about its top-left corner and an ellipse about its centre, both clockwise, and shows an open polygon as a line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import RegionError
from worker.label_studio.polygons import Points, fill_ring

Mask = NDArray[np.bool_]
"""(H, W) bool, in pixels of the image or of a reduced copy of it."""

LINE_PIXELS = 3
"""Width of what is unknown along a line, in pixels of the mask."""

_FARTHEST = 1e6  # percent: shapes may be drawn beyond the image, but not where float arithmetic gives way
_ELLIPSE_POINTS = 72
_SHOWN = 60  # characters of what a broken region holds
_REMEDY = "Open the task in Label Studio and delete the region or draw it again; then its annotation can be used."


def refusal(region: Mapping[str, Any], problem: str, remedy: str = _REMEDY) -> RegionError:
    """The error for a region that cannot be drawn."""
    name, kind = (_shown(region.get(key)) for key in ("id", "type"))
    return RegionError(f"region {name} of type {kind}", problem, remedy)


def region_value(region: Mapping[str, Any]) -> Mapping[str, Any]:
    """The value of a region.

    Raises:
        RegionError: it has none.
    """
    value = region.get("value")
    if not isinstance(value, Mapping):
        raise refusal(region, "it has no value")
    return value


def is_open(region: Mapping[str, Any]) -> bool:
    """Whether a polygon or vector was not closed, so that the editor shows a line and no area."""
    return region_value(region).get("closed") is False


def polygon_mask(region: Mapping[str, Any], *, height: int, width: int) -> Mask:
    """Pixels whose centre lies in a polygon region; none for one that is open or has fewer than three points.

    Raises:
        RegionError: its points are not pairs of numbers.
    """
    ring = _polygon_points(region) * percent_scale(height, width)
    if is_open(region) or len(ring) < 3:
        return np.zeros((height, width), dtype=np.bool_)
    return fill_ring(ring, height=height, width=width)


def rectangle_mask(region: Mapping[str, Any], *, height: int, width: int) -> Mask:
    """Pixels whose centre lies in a rectangle region.

    Raises:
        RegionError: its value lacks a number.
    """
    return fill_ring(_rectangle_ring(region, percent_scale(height, width)), height=height, width=width)


def inscribed_ellipse(region: Mapping[str, Any], *, height: int, width: int) -> Mask:
    """Pixels of the ellipse that touches all four sides of a rectangle region.

    Raises:
        RegionError: its value lacks a number.
    """
    corners = _rectangle_ring(region, percent_scale(height, width))
    across, down = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    return fill_ring(_ellipse_ring((corners[0] + corners[2]) / 2, across, down), height=height, width=width)


def ellipse_mask(region: Mapping[str, Any], *, height: int, width: int) -> Mask:
    """Pixels whose centre lies in an ellipse region. It is turned clockwise about its centre.

    Raises:
        RegionError: its value lacks a number.
    """
    x, y, radius_x, radius_y, rotation = _numbers(region, "x", "y", "radiusX", "radiusY")
    scale = percent_scale(height, width)
    across, down = np.diag(np.array([radius_x, radius_y]) * scale) @ _clockwise(rotation)
    return fill_ring(_ellipse_ring(np.array([x, y]) * scale, across, down), height=height, width=width)


def line_mask(points: Points, *, height: int, width: int) -> Mask:
    """Pixels within LINE_PIXELS / 2 of a line.

    Args:
        points: (N, 2) of the line, pixels; nothing is drawn for fewer than two.
        height: in pixels.
        width: in pixels.
    """
    drawn = np.zeros((height, width), dtype=np.uint8)
    if len(points) > 1:
        # OpenCV's pixel centres are at whole numbers.
        cv2.polylines(drawn, [np.rint(points - 0.5).astype(np.int32)], isClosed=False, color=1, thickness=LINE_PIXELS)
    return drawn.astype(np.bool_)


def polygon_line(region: Mapping[str, Any], *, height: int, width: int) -> Mask:
    """Pixels along the line of a polygon that is not closed.

    Raises:
        RegionError: its points are not pairs of numbers.
    """
    return line_mask(_polygon_points(region) * percent_scale(height, width), height=height, width=width)


def keypoint_mask(region: Mapping[str, Any], *, height: int, width: int) -> Mask:
    """Pixels of the disc that the editor shows for a point: its width is the radius, in percent of the image's width.

    Raises:
        RegionError: its value lacks a number.
    """
    x, y, _ = _numbers(region, "x", "y")
    size = region_value(region).get("width")
    radius = abs(float(size)) * width / 100 if _is_number(size) else 0.0
    radius = max(radius, LINE_PIXELS / 2)
    centre = np.array([x, y]) * percent_scale(height, width)
    ring = _ellipse_ring(centre, np.array([radius, 0.0]), np.array([0.0, radius]))
    return fill_ring(ring, height=height, width=width)


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN] if value is None or isinstance(value, str | int | float) else type(value).__name__


def percent_scale(height: int, width: int) -> NDArray[np.float64]:
    """Pixels of a percent: (2,), across and down."""
    return np.array([width, height]) / 100


def _polygon_points(region: Mapping[str, Any]) -> Points:
    """The points of a polygon, in percent."""
    points = region_value(region).get("points")
    if not is_list(points):
        raise refusal(region, "its value has no 'points'")
    return checked_points(region, points, "its points")


def checked_points(region: Mapping[str, Any], rows: Sequence[Any], subject: str) -> Points:
    """Check the points of a region.

    Args:
        region: whose they are.
        rows: pairs of percents.
        subject: how the refusal calls them.

    Returns:
        (N, 2), in percent.

    Raises:
        RegionError: they are not pairs of numbers within reason.
    """
    if not all(is_list(row) and len(row) == 2 and all(map(_is_number, row)) for row in rows):
        raise refusal(region, f"{subject} are not pairs of numbers within {_FARTHEST:g} percent")
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def _rectangle_ring(region: Mapping[str, Any], scale: NDArray[np.float64]) -> Points:
    """The corners of a rectangle, in pixels. It is turned clockwise about its top-left corner."""
    x, y, width, height, rotation = _numbers(region, "x", "y", "width", "height")
    origin, size = np.array([x, y]) * scale, np.array([width, height]) * scale
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size
    return np.asarray(origin + corners @ _clockwise(rotation))


def _ellipse_ring(centre: Points, across: Points, down: Points) -> Points:
    """The outline of an ellipse with two half axes, in pixels."""
    turn = np.linspace(0, 2 * np.pi, _ELLIPSE_POINTS, endpoint=False)[:, None]
    return np.asarray(centre + np.cos(turn) * across + np.sin(turn) * down)


def _clockwise(degrees: float) -> NDArray[np.float64]:
    """The matrix that turns rows of points, y pointing down."""
    turn = math.radians(degrees)
    return np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])


def _numbers(region: Mapping[str, Any], *names: str) -> list[float]:
    """Numbers of a region's value by name, and its rotation behind them, 0 where it has none."""
    value = region_value(region)
    numbers = [value.get(name) for name in names] + [value.get("rotation") or 0]
    if not all(map(_is_number, numbers)):
        wanted = f"{', '.join(names[:-1])} and {names[-1]}"
        raise refusal(region, f"its value must have {wanted} as numbers within {_FARTHEST:g} percent")
    return [float(number) for number in numbers]


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value of a region can be calculated with; NaN cannot."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _FARTHEST


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
