"""The tags that label an image: what their regions are predicted as, and which of several draws a label.

A shape has a tag with labels of its own, `BrushLabels`, and one without, `Brush`, for a `Labels` control beside it.
"""

from __future__ import annotations

from typing import Literal

OutputKind = Literal["brush", "polygon", "rectangle", "bitmask", "vector", "ellipse", "keypoint"]
OUTPUT_KINDS: dict[str, OutputKind] = {
    "BrushLabels": "brush",
    "PolygonLabels": "polygon",
    "RectangleLabels": "rectangle",
    "BitmaskLabels": "bitmask",
    "VectorLabels": "vector",
    "EllipseLabels": "ellipse",
    "KeyPointLabels": "keypoint",
}
"""The controls whose regions are predicted, by their tags; of several with the same label, the first of these does."""

SHAPE_TAGS: dict[str, OutputKind] = {tag.removesuffix("Labels"): kind for tag, kind in OUTPUT_KINDS.items()}
"""The tags that draw regions without labels of their own, beside a `Labels` control over the same image."""

OUTPUTS: dict[str, OutputKind] = {tag.lower(): kind for tag, kind in (OUTPUT_KINDS | SHAPE_TAGS).items()}
"""Region type by the kind of a tag, `Tag.kind`."""

RANKS: dict[OutputKind, int] = {kind: rank for rank, kind in enumerate(OUTPUT_KINDS.values())}
"""Of several controls with the same label, the one of the lowest rank draws."""


LABELLING_TAGS = frozenset(tag.lower() for tag in (*OUTPUT_KINDS, "Labels", "Choices"))
"""Kinds of the tags that have labels or choices in them, `Tag.kind`."""


def listed_tags() -> str:
    """The tags of OUTPUT_KINDS, for a sentence."""
    *most, last = OUTPUT_KINDS
    return f"{', '.join(most)} or {last}"
