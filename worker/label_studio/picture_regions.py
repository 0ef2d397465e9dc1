"""The items of a result -> the regions over the project's picture, each with the label it is read as.

A result holds more than regions: choices, texts and ratings, also of single regions, whose id and shape they repeat,
and relations. The editor makes one region of all items with one id; so does this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plugin_config.errors import RegionError
from plugin_config.json_records import json_name
from plugin_config.vocabulary import Label, Vocabulary
from worker.label_studio.regions import region_kind

_PICTURE_KINDS = frozenset(("brush", "magicwand", "polygon", "rectangle", "ellipse", "keypoint", "vector", "bitmask"))
_SHAPE_KEYS = {
    "rle": "brush", "maskDataURL": "brush", "points": "polygon", "radiusX": "ellipse", "vertices": "vector",
    "imageDataURL": "bitmask", "height": "rectangle", "x": "keypoint",
}  # fmt: skip
"""A key of a region's value -> the kind of region that has it, the most telling first."""

_MOST_OF_ONE_ID = 20
"""Items of one id that are asked for its label; the editor writes one for each control that says something of it."""

_REMEDY = "Open the task in Label Studio and submit its annotation again, or import it anew."


@dataclass(frozen=True)
class PictureRegion:
    """A region over the picture.

    Attributes:
        item: of the result, with its shape.
        kind: of its shape, such as "brush"; one that is not known here where Label Studio has more of them.
        label: what is there; None = something, but nothing that the vocabulary has.
    """

    item: Mapping[str, Any]
    kind: str
    label: Label | None

    @property
    def identity(self) -> str | None:
        """Its id in the result, as text; None where it has none."""
        return item_id(self.item)


def picture_regions(result: Iterable[Any], vocabulary: Vocabulary) -> list[PictureRegion]:
    """Pick the regions over the vocabulary's picture, in their order.

    Args:
        result: of an annotation or a prediction.
        vocabulary: what their labels mean.

    Raises:
        RegionError: an item is no object, or does not say what it is, so that a region may be lost.
    """
    found: list[tuple[Mapping[str, Any], str]] = []
    named: dict[str, list[Mapping[str, Any]]] = {}
    for place, item in enumerate(result):
        if not isinstance(item, Mapping):
            raise RegionError(f"item {place + 1} of a result", f"is {json_name(item)} and no region", _REMEDY)
        if _is_elsewhere(item, vocabulary):
            continue
        if not isinstance(item.get("type"), str):
            raise RegionError(f"item {place + 1} of a result", "has no type", _REMEDY)
        kind, identity = _kind(item, vocabulary), item_id(item)
        if kind is not None and not (kind == "polygon" and _is_stub(item)):
            found.append((item, kind))
        if identity is not None and _is_drawn(item) and label_names(item):
            namesakes = named.setdefault(identity, [])
            if len(namesakes) < _MOST_OF_ONE_ID:
                namesakes.append(item)
    shaped: dict[str | None, list[Mapping[str, Any]]] = {}
    for item, _ in found:
        if item_id(item) is not None and _has_own_shape(item):
            shaped.setdefault(item_id(item), []).append(item)
    return [
        PictureRegion(_as_kind(item, kind), kind, _label(item, named.get(item_id(item) or "", ()), vocabulary))
        for item, kind in found
        if not (item_id(item) in shaped and _is_label_only(item))
        and not _repeats(item, shaped.get(item_id(item), ())[:_MOST_OF_ONE_ID])
    ]


def find_label(region: Mapping[str, Any], vocabulary: Vocabulary) -> Label | None:
    """Find the label that an item was drawn for; of several, the first that the labeling config still has.

    It is looked up among those of the item's control. A control that is not in the vocabulary, such as EllipseLabels or
    Labels, means by a name what the others do: the label of that alias or value.

    Returns:
        None when the item is not a region of the vocabulary's image: another kind of answer, another image, or a label
        that the labeling config no longer has.
    """
    control = region.get("from_name")
    if region.get("to_name") != vocabulary.to_name or not isinstance(control, str) or not _is_drawn(region):
        return None
    names = label_names(region)
    own = {label.key: label for label in vocabulary.labels if label.control == control}
    found = next((own[name] for name in names if name in own), None)
    return found or _named(names, list(own.values())) or _named(names, vocabulary.labels)


def shape_kind(item: Mapping[str, Any]) -> str | None:
    """The kind of shape that an item has in its value, whatever its type; None where it has none that is known."""
    return next((shape for key, shape in _SHAPE_KEYS.items() if key in _value(item)), None)


def item_id(item: Mapping[str, Any]) -> str | None:
    """The id of an item as text; None where it has none."""
    identity = item.get("id")
    return str(identity) if isinstance(identity, str | int) and identity != "" else None


def label_names(item: Mapping[str, Any]) -> list[str]:
    """The names of an item's labels: the aliases or values that its control knows them by."""
    kind, value = str(item.get("type")), _value(item)
    for key in (kind, f"{region_kind(item)}labels"):
        names = value.get(key)
        if isinstance(names, list | tuple):
            return [name for name in names if isinstance(name, str)]
    return []


def _is_elsewhere(item: Mapping[str, Any], vocabulary: Vocabulary) -> bool:
    """Whether an item is about another object of the labeling config than the vocabulary's picture. One about an object
    that is not in the config may be about the picture: the editor shows none of it, but somebody drew it.
    """
    to_name, index = item.get("to_name"), item.get("item_index")
    page = index if isinstance(index, int | float) else 0
    return page != (vocabulary.item_index or 0) or (isinstance(to_name, str) and vocabulary.is_elsewhere(to_name))


def _kind(item: Mapping[str, Any], vocabulary: Vocabulary) -> str | None:
    """The kind of region that an item is; None for one that is none."""
    kind = region_kind(item)
    if kind in _PICTURE_KINDS:
        return "brush" if kind == "magicwand" else kind
    if not kind:  # of a Labels control, which has no shape of its own
        return shape_kind(item)
    return kind if _is_drawn(item) and item.get("to_name") == vocabulary.to_name else None


def _is_drawn(item: Mapping[str, Any]) -> bool:
    """Whether an item is what an annotator drew or its label, and no answer to a question, which may have any name."""
    return region_kind(item) in _PICTURE_KINDS or str(item.get("type")).lower().endswith("labels")


def _is_stub(item: Mapping[str, Any]) -> bool:
    """Whether a polygon was given up before its third point."""
    points = _value(item).get("points")
    return isinstance(points, list | tuple) and len(points) < 3


def _as_kind(item: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The item with the type of its shape, where its type names another control."""
    return item if region_kind(item) == kind else {**item, "type": kind}


def _has_own_shape(item: Mapping[str, Any]) -> bool:
    """Whether an item has a shape, and is not the item of a Labels control, which repeats another's."""
    return bool(region_kind(item)) and shape_kind(item) is not None


def _repeats(item: Mapping[str, Any], shaped: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an item has the shape of another item of its id, which is of that kind: the editor writes an item of
    KeyPointLabels with the paint of a brush where a label of that control was chosen, too, when the region came.
    """
    shape = shape_kind(item)
    return region_kind(item) != shape and any(region_kind(row) == shape and _same_shape(item, row) for row in shaped)


def _value(item: Mapping[str, Any]) -> Mapping[str, Any]:
    value = item.get("value")
    return value if isinstance(value, Mapping) else {}


def _is_label_only(item: Mapping[str, Any]) -> bool:
    """Whether an item with the id of a shape is no more than its label."""
    kind = region_kind(item)
    return not _has_own_shape(item) and (not kind or (kind in _PICTURE_KINDS and bool(label_names(item))))


def _label(
    item: Mapping[str, Any], same_id: Sequence[Mapping[str, Any]], vocabulary: Vocabulary
) -> Label | None:
    """The label of a region: its own, else that of another item of its id and shape."""
    label = find_label(item, vocabulary)
    if label is not None or label_names(item):
        return label
    others = [other for other in same_id if _is_label_only(other) or _same_shape(item, other)]
    return next((found for other in others if (found := find_label(other, vocabulary)) is not None), None)


def _same_shape(item: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    value, others = _value(item), _value(other)
    return all(value.get(key) == others.get(key) for key in (*_SHAPE_KEYS, "y", "width", "radiusY", "rotation"))


def _named(names: Sequence[str], labels: Sequence[Label]) -> Label | None:
    """The first label with one of the names as its key; without one, a label that alone has it as a text."""
    for name in names:
        having = [label for label in labels if label.key == name] or [row for row in labels if name in row.texts]
        if len({label.texts for label in having}) == 1 or any(label.key == name for label in having):
            return having[0]
    return None
