"""Where a region of a result lies, read without the product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from numpy.typing import NDArray
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 64, 48
SHAPES = ("brush", "polygon", "rectangle", "ellipse")
Area = NDArray[np.bool_]
_FARTHEST = 1e6  # percent; beyond, a region is broken


def area_of(item: Mapping[str, Any]) -> Area | None:
    """The pixels of a region over the picture; none for items that are no region, of another image, or without area;
    None where its place cannot be known.
    """
    nothing = np.zeros((HEIGHT, WIDTH), dtype=bool)
    kind, value, to_name = item.get("type"), item.get("value"), item.get("to_name")
    if to_name != "image" and isinstance(to_name, str):
        return nothing
    if not isinstance(kind, str):
        return None if _has_shape(value) else nothing
    shape = kind.removesuffix("labels")
    if shape not in SHAPES:
        return nothing
    if not isinstance(value, dict):
        return None
    return {"brush": _brush, "polygon": _polygon, "rectangle": _rectangle, "ellipse": _ellipse}[shape](item, value,
                                                                                                       nothing)


def _has_shape(value: Any) -> bool:
    return isinstance(value, dict) and bool({"points", "rle", "width", "radiusX"} & set(value))


def _numbers(value: Mapping[str, Any], *names: str) -> list[float] | None:
    found: list[Any] = [value.get(name) for name in names]
    found += [value.get("rotation") or 0]
    if all(type(each) in (int, float) and abs(each) <= _FARTHEST for each in found):
        return [float(each) for each in found]
    return None


def _brush(item: Mapping[str, Any], value: Mapping[str, Any], nothing: Area) -> Area | None:
    rle = value.get("rle")
    said = (item.get("original_width"), item.get("original_height"))
    same_size = all(type(found) is not int or found == real for found, real in zip(said, (WIDTH, HEIGHT), strict=True))
    if not isinstance(rle, list) or not all(type(each) is int and 0 <= each < 256 for each in rle) or not same_size:
        return None
    if len(rle) < 8 or int.from_bytes(bytes(rle[:4]), "big") != WIDTH * HEIGHT * 4:
        return None
    try:
        pixels = np.asarray(decode_rle(rle)).reshape(HEIGHT, WIDTH, 4)
    except (IndexError, ValueError, TypeError):
        return None
    return np.asarray(pixels[:, :, 3] > 0)


def _polygon(_: Mapping[str, Any], value: Mapping[str, Any], nothing: Area) -> Area | None:
    points = value.get("points")
    if not isinstance(points, list):
        return None
    pairs = [point for point in points if isinstance(point, list) and len(point) == 2
             and all(type(each) in (int, float) and abs(each) <= _FARTHEST for each in point)]  # fmt: skip
    if len(points) < 3:
        return nothing
    if len(pairs) < len(points):
        return None
    if value.get("closed", True) is not True:
        return nothing
    return _filled([(x * WIDTH / 100, y * HEIGHT / 100) for x, y in pairs])


def _rectangle(_: Mapping[str, Any], value: Mapping[str, Any], nothing: Area) -> Area | None:
    found = _numbers(value, "x", "y", "width", "height")
    if found is None:
        return None
    left, top, width, height, turn = found
    if width <= 0 or height <= 0:
        return nothing
    return _turned([(0, 0), (width, 0), (width, height), (0, height)], (left, top), turn)


def _ellipse(_: Mapping[str, Any], value: Mapping[str, Any], nothing: Area) -> Area | None:
    found = _numbers(value, "x", "y", "radiusX", "radiusY")
    if found is None:
        return None
    left, top, across, down, turn = found
    if across <= 0 or down <= 0:
        return nothing
    ring = [(across * np.cos(angle), down * np.sin(angle)) for angle in np.linspace(0, 2 * np.pi, 60, endpoint=False)]
    return _turned(ring, (left, top), turn)


def _turned(ring: Sequence[tuple[float, float]], origin: tuple[float, float], degrees: float) -> Area:
    """Fill a ring, percent, turned clockwise about its origin."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    points = []
    for x, y in ring:
        across, down = x * WIDTH / 100, y * HEIGHT / 100
        points.append((origin[0] * WIDTH / 100 + across * cos - down * sin,
                       origin[1] * HEIGHT / 100 + across * sin + down * cos))  # fmt: skip
    return _filled(points)


def _filled(points: Sequence[tuple[float, float]]) -> Area:
    near = [(float(np.clip(x, -500, 500)), float(np.clip(y, -500, 500))) for x, y in points]
    if near != [(float(x), float(y)) for x, y in points]:
        return np.zeros((HEIGHT, WIDTH), dtype=bool)  # far outside: clipped it would be another shape
    image = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(image).polygon(near, fill=1)
    return np.asarray(image, dtype=bool)


def eroded(area: Area) -> Area:
    """Without its outermost two pixels, about which ways of filling differ."""
    for _ in range(2):
        wide = np.pad(area, 1)
        area = wide[1:-1, 1:-1] & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return area
