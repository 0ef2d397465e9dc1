"""The tags that label an image: what their regions are predicted as, and which of several draws a label.

A shape has a tag with labels of its own, `BrushLabels`, and one without, `Brush`, for a `Labels` control beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class ControlRow:
    """What is done with a control tag over an image, for people: a row of docs/reference/controls.md.

    Attributes:
        tags: the control.
        predicted: what its predictions are.
        read: what annotators' answers by it teach.
        notes: what else matters.
    """

    tags: str
    predicted: str
    read: str
    notes: str = ""


CONTROL_ROWS: tuple[ControlRow, ...] = (
    ControlRow("`BrushLabels`", "brush, every pixel of the mask", "the pixels painted at all"),
    ControlRow(
        "`PolygonLabels`", "a closed polygon per island, within a pixel of the mask's outline; a hole is cut open",
        "the area; an open polygon is unknown along its line",
    ),
    ControlRow(
        "`RectangleLabels`", "the box around the mask, not turned",
        "the ellipse that touches the four sides, turned as the box is; the corners are unknown",
    ),
    ControlRow(
        "`BitmaskLabels`", "bitmask, every pixel of the mask: a PNG of the image's size, black on transparent",
        "the pixels that are not transparent", '`smoothing="false"` on the Image shows single pixels',
    ),
    ControlRow(
        "`VectorLabels`", "as polygons, where the control is `closable=\"true\"` and no `skeleton`; else nothing",
        "the area of a closed path, curves as they are drawn; lines and branches are unknown where they lie",
    ),
    ControlRow(
        "`EllipseLabels`", "the ellipse of the mask's area, centre and direction, within the image",
        "the area, turned as it is", "radii are at most half of the image's sides, which label_studio_sdk demands",
    ),
    ControlRow(
        "`KeyPointLabels`", "the point of the mask furthest from its outline, where no other control has the label",
        "nothing: a point tells no area. What no region covers is unknown in such an image",
        "with `smart=\"true\"` its points are prompts, and never predicted",
    ),
    ControlRow(
        "`Labels` with `Brush`, `Polygon`, `Rectangle`, `Bitmask`, `Vector`, `Ellipse` or `KeyPoint`",
        "as the control of that shape, in two items of one id: the shape by its tag, the label by `Labels`",
        "as of that control", "of several shape tags one draws, in the order below",
    ),
    ControlRow("`MagicWand`", "nothing", "as a brush"),
    ControlRow(
        "`Choices`", "the choices that the image shows; without `choice=\"multiple\"` the surest of them. None where "
        "none is shown", "nothing",
        "answered about each image as a whole: with `perRegion`, `visibleWhen`, `allowNested`, or for a list of images "
        "without `perItem`, they are not",
    ),
)  # fmt: skip
"""Every control that is predicted or read, in the order of the documentation."""


def controls_table() -> str:
    """The Markdown table of all controls."""
    rows = ["| control | predicted as | corrections read | notes |", "|---|---|---|---|"]
    return "\n".join([*rows, *(f"| {row.tags} | {row.predicted} | {row.read} | {row.notes} |" for row in CONTROL_ROWS)])
