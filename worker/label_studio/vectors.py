"""Vector regions -> masks: the area of a closed outline, or what a line may cover.

The editor (KonvaVector of its sources, Label Studio 1.23) joins each vertex to the one that it names as `prevPointId`,
by a Bezier curve where one of both has a control point on that side, and fills the path where `closed` is true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.label_studio.polygons import Points, fill_ring
from worker.label_studio.shapes import (
    Mask,
    checked_points,
    is_list,
    is_open,
    line_mask,
    percent_scale,
    refusal,
    region_value,
)

_CURVE_POINTS = 20
_PULL = 0.3  # of the way: where the editor puts the control point that a half curved segment lacks

Vertex = Mapping[str, Any]


def is_outline(region: Mapping[str, Any]) -> bool:
    """Whether a vector is one closed path without branches, so that its area is known.

    Raises:
        RegionError: its vertices are not what the editor writes.
    """
    vertices = _vertices(region)
    if region_value(region).get("closed") is not True or len(vertices) < 3:
        return False
    before = [vertices[-1], *vertices[:-1]]
    return all(
        not vertex.get("prevPointId") or vertex["prevPointId"] == previous.get("id")
        for vertex, previous in zip(vertices, before, strict=True)
    )


def vector_area(region: Mapping[str, Any], *, height: int, width: int) -> Mask:
    """Pixels whose centre lies in a vector region; none for one that is no closed outline.

    Raises:
        RegionError: its vertices are not what the editor writes.
    """
    if not is_outline(region):
        return np.zeros((height, width), dtype=np.bool_)
    vertices = _vertices(region)
    corners = _points(region, vertices)
    after = [*vertices[1:], vertices[0]]
    segments = [
        _segment(region, here, there, corners[number], corners[(number + 1) % len(vertices)])
        for number, (here, there) in enumerate(zip(vertices, after, strict=True))
    ]
    return fill_ring(np.concatenate(segments) * percent_scale(height, width), height=height, width=width)


def vector_mask(region: Mapping[str, Any], *, height: int, width: int) -> Mask:
    """Pixels that a vector region may cover: its inside or its line, and where it is curved all that its vertices and
    control points enclose, in which a Bezier curve lies.

    Raises:
        RegionError: its vertices are not what the editor writes.
    """
    vertices = _vertices(region)
    controls = [vertex[key] for vertex in vertices for key in ("controlPoint1", "controlPoint2") if vertex.get(key)]
    points = _points(region, [*vertices, *controls]) * percent_scale(height, width)
    if len(points) < 2:
        return np.zeros((height, width), dtype=np.bool_)
    if controls:
        points = cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)
    elif is_open(region):
        return line_mask(points, height=height, width=width)
    return fill_ring(points, height=height, width=width)


def _vertices(region: Mapping[str, Any]) -> Sequence[Vertex]:
    vertices = region_value(region).get("vertices")
    if not is_list(vertices) or not all(isinstance(vertex, Mapping) for vertex in vertices):
        raise refusal(region, "its value has no 'vertices'")
    return vertices


def _points(region: Mapping[str, Any], rows: Sequence[Any]) -> Points:
    pairs = [(row.get("x"), row.get("y")) if isinstance(row, Mapping) else () for row in rows]
    return checked_points(region, pairs, "its vertices")


def _segment(region: Mapping[str, Any], here: Vertex, there: Vertex, start: Points, stop: Points) -> Points:
    """Points from one vertex up to the next, without it, in percent."""
    leaving = here.get("controlPoint2") if here.get("isBezier") else None
    coming = there.get("controlPoint1") if there.get("isBezier") else None
    if not leaving and not coming:
        return start[None]
    first = _points(region, [leaving])[0] if leaving else start + _PULL * (stop - start)
    second = _points(region, [coming])[0] if coming else stop - _PULL * (stop - start)
    t: NDArray[np.float64] = np.arange(_CURVE_POINTS)[:, None] / _CURVE_POINTS
    return np.asarray(
        (1 - t) ** 3 * start + 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3 * stop
    )
