"""Whether annotators left a predicted region as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

_POINT_MOVED = 1e-3  # percent of the image: less is rounding


def is_unchanged(item: Mapping[str, Any], predicted: Mapping[str, Any]) -> bool:
    """Whether an item of an annotation has the shape that was predicted; its label may be another one.

    The editor notes in `origin` whether a region was changed: an unchanged brush may still be stored as other bytes.
    Points of a polygon that were dragged it does not note (Label Studio 1.23), so these are compared.

    Args:
        item: of the annotation.
        predicted: of the prediction, with the same id.
    """
    value, before = item.get("value"), predicted.get("value")
    return value == before or (item.get("origin") == "prediction" and _same_points(before, value))


def _same_points(one: object, other: object) -> bool:
    """Whether two values have the same points, as far as they are drawn by points."""
    before, after = _points(one), _points(other)
    if before is None or after is None:
        return before is after
    return len(before) == len(after) and all(
        abs(x - y) <= _POINT_MOVED for x, y in zip(chain(*before), chain(*after), strict=True)
    )


def _points(value: object) -> list[tuple[float, float]] | None:
    """The corners of a polygon or vector, in percent; None for what has none, or malformed ones."""
    if not isinstance(value, Mapping):
        return None
    rows = value.get("points", value.get("vertices"))
    if not isinstance(rows, Sequence):
        return None
    try:
        return [(float(row["x"]), float(row["y"])) if isinstance(row, Mapping) else (float(row[0]), float(row[1]))
                for row in rows]  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError):
        return None
