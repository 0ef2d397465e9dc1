"""A brush region as a draft holds it -> a mask: what was encoded, what the magic wand found, and the strokes since.

Read in the editor of Label Studio 1.23.2 (BrushRegion.jsx, Erase.jsx, canvas.js and Annotation.js of its sources): a
draft is saved with `serializeAnnotation({fast: true})`, which encodes nothing. `rle` is then what the region held
before it was touched here, a prediction or an earlier annotation, and missing where it was begun by hand. The magic
wand's PNG, of the image's size, is `maskDataURL`. Each stroke since is one of `touches`, in the order in which they
were drawn:

    {"type": "add" or "eraser", "relativePoints": [x, y, x, y, ...], "relativeStrokeWidth": 4.2, ...}

`relativePoints` are percent of the image's width and height by turns; `relativeStrokeWidth` is in percent of its width.
`points`, `strokeWidth` and `eraserSize` count in pixels of a window that is not told. A stroke is a line that is not
closed, with round caps and joins; a click is a line of one point twice. "eraser" is drawn as "destination-out": it
takes away what was there before, and later strokes paint over it. On submitting, the editor draws `rle`, the wand's
PNG over it and the strokes over both, and stores that as `rle` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from worker.label_studio.bitmasks import decode_bitmask
from worker.label_studio.polygons import Points
from worker.label_studio.regions import decode_region
from worker.label_studio.shapes import Mask, checked_points, is_list, percent_scale, refusal, region_value

MOST_POINTS = 10_000
"""Points of the strokes of a region that are drawn: minutes with the mouse button down."""

_MOST_PAINTED = 2_000_000_000  # pixels, each as often as it is drawn: half a second; heavy painting takes a fifth
_WIDTH = 25.0  # percent, what the editor takes where a stroke tells none
_THICKEST = 32_766  # pixels that OpenCV draws
_NEAR = (-100.0, 200.0)  # percent: what is drawn further out would cost rows that nobody sees
_SHIFT = 4  # bits of a fraction of a pixel
_COLOURS = {"add": 1, "eraser": 0}


class _Stroke(NamedTuple):
    colour: int
    points: Points  # (N, 2) pixels of the mask
    thickness: int  # pixels of the mask


def has_strokes(region: Mapping[str, Any]) -> bool:
    """Whether a brush region holds more than what is encoded."""
    value = region.get("value")
    return isinstance(value, Mapping) and bool(value.get("touches") or value.get("maskDataURL"))


def draft_mask(region: Mapping[str, Any], *, size: tuple[int, int], shape: tuple[int, int]) -> Mask:
    """Draw a brush region of a draft.

    Args:
        region: its `rle` may be missing, or be bytes.
        size: (H, W) of the image file, pixels: the frame of `rle`.
        shape: (h, w) of the image as it is segmented.

    Returns:
        (h, w) bool.

    Raises:
        RegionError: a stroke is none; there are more than MOST_POINTS points, or points and widths that take seconds to
            draw; `rle` or `maskDataURL` cannot be read.
    """
    value = region_value(region)
    strokes = _strokes(region, value.get("touches") or (), shape)
    mask = np.zeros(shape, dtype=np.bool_)
    if value.get("rle") not in (None, [], ()):
        mask |= reduced(decode_region(region, size[1], size[0]), shape)
    if value.get("maskDataURL"):
        mask |= reduced(decode_bitmask(value["maskDataURL"], height=size[0], width=size[1]), shape)
    painted = mask.astype(np.uint8)
    for stroke in strokes:
        pixels = np.rint((stroke.points - 0.5) * (1 << _SHIFT)).astype(np.int32)  # OpenCV's centres are whole numbers
        cv2.polylines(painted, [pixels], False, stroke.colour, stroke.thickness, shift=_SHIFT)
    return painted.astype(np.bool_)


def reduced(mask: Mask, shape: tuple[int, int]) -> Mask:
    """A mask of the image file's pixels in those of the image as it is segmented, (h, w)."""
    if mask.shape == shape:
        return mask
    return np.asarray(cv2.resize(mask.view(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST), dtype=np.bool_)


def _strokes(region: Mapping[str, Any], rows: object, shape: tuple[int, int]) -> list[_Stroke]:
    """The strokes of a region that have points, checked before any is drawn."""
    if not is_list(rows) or not all(isinstance(row, Mapping) and is_list(row.get("relativePoints")) for row in rows):
        raise refusal(region, "its 'touches' are no strokes")
    if sum(1 + len(row["relativePoints"]) // 2 for row in rows) > MOST_POINTS:
        raise refusal(region, f"its strokes have more than {MOST_POINTS} points")
    strokes = [_stroke(region, row, shape) for row in rows if row["relativePoints"]]
    if sum(_work(stroke, shape) for stroke in strokes) > _MOST_PAINTED:
        raise refusal(region, "its strokes paint the same pixels over and over")
    return strokes


def _stroke(region: Mapping[str, Any], row: Mapping[str, Any], shape: tuple[int, int]) -> _Stroke:
    numbers, colour = row["relativePoints"], _COLOURS.get(str(row.get("type", "add")))
    if colour is None or len(numbers) % 2:
        raise refusal(region, "a stroke neither paints nor erases, or its last point is half a point")
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    ((percent, _),) = checked_points(region, [(row.get("relativeStrokeWidth", _WIDTH), 0)], "widths of its strokes")
    if percent < 0:
        raise refusal(region, "a stroke has a width below 0")
    points = np.clip(checked_points(region, pairs, "points of its strokes"), *_NEAR) * percent_scale(*shape)
    # OpenCV draws an even thickness one pixel wider and an odd one two; its rims are to be where any paint is.
    thickness = min(max(2 * int(percent * shape[1] / 200), 1), _THICKEST)
    return _Stroke(colour, points if len(points) > 1 else points.repeat(2, axis=0), thickness)


def _work(stroke: _Stroke, shape: tuple[int, int]) -> float:
    """Pixels that are painted for a stroke: of each of its lines, and of the discs at their ends."""
    lengths = np.hypot(*np.diff(stroke.points, axis=0).T)
    lines = np.minimum((lengths + stroke.thickness) * stroke.thickness, shape[0] * shape[1]).sum()
    return float(lines) + len(stroke.points) * min(stroke.thickness**2, shape[0] * shape[1])
