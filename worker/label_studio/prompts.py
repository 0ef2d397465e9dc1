"""The regions of a click -> which label is meant, and where: Label Studio's smart tools as prompts.

A smart tool sends what the annotator drew with it: keypoints (with Alt: outside of the thing), rectangles, ellipses. A
control apart from its labels sends two regions of one id, the shape and the label.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from plugin_config.control_tags import listed_tags
from plugin_config.errors import PromptError, RegionError
from plugin_config.vocabulary import Label, Vocabulary
from worker.label_studio.picture_regions import shape_kind
from worker.label_studio.regions import decode_region, region_kind
from worker.label_studio.strokes import draft_mask, has_strokes, reduced
from worker.label_studio.task_images import TaskImage
from worker.segmentation.clicks.prompts import Box, Point, Prompt

Region = Mapping[str, Any]

_POINTS, _BOXES = ("keypoint",), ("rectangle", "ellipse")
_MASKS = ("brush", "bitmask", "polygon", "vector")
"""Regions that say pixel by pixel what they cover; boxes hold other things, too."""

_PAINTED = ("brush", "bitmask")
_MOST_POINTS = 2000  # of a shape: more take seconds to fill, while an annotator waits
_MOST_MASK_BYTES = 64_000_000
_CHOOSE = "Choose a label before you click."
_POINT = "Click with a smart keypoint, or draw a smart rectangle."


@dataclass(frozen=True)
class LabelPrompt:
    """What was pointed at.

    Attributes:
        label: the one that the mask is drawn as.
        prompt: in pixels of the image as it is segmented.
        ids: of the regions that point.
        corrects: whether it begins with a point outside of the thing: then the region under that point is corrected,
            and the other points say more of it.
    """

    label: Label
    prompt: Prompt
    ids: frozenset[str]
    corrects: bool = False


@dataclass(frozen=True)
class _Mark:
    id: str
    kind: str
    value: Mapping[str, Any]
    control: str
    to_name: str
    label: str
    positive: bool


def clicked_image(regions: Sequence[Region], images: Sequence[TaskImage]) -> TaskImage:
    """The image that the last region of a click is on.

    Args:
        regions: as for `read_prompt`.
        images: of the task, one or more.

    Raises:
        PromptError: it is on none of them.
    """
    last = next((region for region in reversed(regions) if region_kind(region)), {})
    name, index = last.get("to_name"), last.get("item_index") or 0
    for image in images:
        if name in (None, "", image.vocabulary.to_name) and index == (image.vocabulary.item_index or 0):
            return image
    item = f", item {index}" if index else ""
    raise PromptError("the click", f"is on image {str(name)[:60]!r}{item}, which is not segmented", _POINT)


def read_prompt(regions: Sequence[Region], vocabulary: Vocabulary, shape: tuple[int, int]) -> LabelPrompt:
    """Read the regions of a click; all are of the label that the last one carries.

    Args:
        regions: as Label Studio's editor sends them, in percent of the image.
        vocabulary: of the image.
        shape: (h, w) of the image as it is segmented, pixels.

    Raises:
        PromptError: none of them points anywhere, or the label is in no control that draws.
    """
    marks = [mark for mark in _marks(regions) if mark.kind in (*_POINTS, *_BOXES)]
    if not marks:
        kinds = ", ".join(sorted({str(region.get("type"))[:40] for region in regions})) or "nothing"
        raise PromptError("the click", f"holds no point and no box ({kinds})", _POINT)
    last = marks[-1]
    label = _label(last, vocabulary)
    meant = [mark for mark in marks if (mark.label, mark.to_name) == (last.label, last.to_name)]
    points = [(mark, _point(mark, shape)) for mark in meant if mark.kind in _POINTS]
    boxes = [_box(mark, shape) for mark in meant if mark.kind in _BOXES]
    prompt = Prompt(
        tuple(point for mark, point in points if mark.positive),
        tuple(point for mark, point in points if not mark.positive),
        tuple(boxes),
    )
    corrects = not boxes and not meant[0].positive
    return LabelPrompt(label, prompt, frozenset(mark.id for mark in meant), corrects)


def drawing_label(vocabulary: Vocabulary, key: str, control: str) -> Label:
    """The label that draws what a region of `control` with the label `key` means: that of a control which draws and is
    no smart tool itself, where there is one.

    Raises:
        PromptError: no control that draws has such a label.
    """
    word = " ".join(key.split()).casefold()
    own = [label for label in vocabulary.labels if label.key == key and label.control == control]
    named = own or [label for label in vocabulary.labels if label.key == key]
    named = named or [label for label in vocabulary.labels if word in map(str.casefold, (label.key, *label.texts))]
    if not named:
        remedy = f"Give it to {listed_tags()}, too."
        raise PromptError(f"label {key[:60]!r}", "is in no control whose regions can be drawn", remedy)
    same = [label for label in vocabulary.labels if label.texts == named[0].texts]
    return min(same, key=lambda label: (not label.draws, label.stuff, label.key != key))


class DrawnMasks:
    """Reads regions as masks, and keeps those it read last. For one thread.

    Args:
        most_bytes: of the masks that are kept, eight pixels in each byte.
    """

    def __init__(self, most_bytes: int = _MOST_MASK_BYTES) -> None:
        self._kept: LRUCache[str, NDArray[np.uint8]] = LRUCache(most_bytes, getsizeof=lambda mask: mask.nbytes)

    def mask(self, region: Region, *, size: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.bool_] | None:
        """The mask of a region; None for what covers nothing pixel by pixel, or cannot be read.

        Args:
            region: as Label Studio has it, in an annotation or a draft; its `rle` may be a text, the bytes in base64.
            size: (H, W) of the image file, pixels.
            shape: (h, w) of the image as it is segmented: the mask has this shape.
        """
        if region_kind(region) not in _MASKS or _points_in(region) > _MOST_POINTS:
            return None
        key = hashlib.blake2b(json.dumps([region, size, shape], sort_keys=True).encode(), digest_size=16).hexdigest()
        packed = self._kept.get(key)
        if packed is None:
            try:
                packed = np.packbits(_drawn(_unpacked(region), size, shape))
            except (RegionError, ValueError):  # what cannot be read takes nothing away
                return None
            if packed.nbytes <= self._kept.maxsize:
                self._kept[key] = packed
        return np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape).view(np.bool_)


def _drawn(region: Region, size: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Raises RegionError where the region cannot be read."""
    kind = region_kind(region)
    if kind == "brush" and has_strokes(region):
        return draft_mask(region, size=size, shape=shape)
    # Shapes are in percent: they are drawn as large as they are wanted. Brushes are as large as the image.
    frame = size if kind in _PAINTED else shape
    return reduced(decode_region(region, frame[1], frame[0]), shape)


def _points_in(region: Region) -> int:
    value = region.get("value")
    rows = value.get("points", value.get("vertices")) if isinstance(value, Mapping) else None
    return len(rows) if isinstance(rows, list) else 0


def _unpacked(region: Region) -> Region:
    """Raises ValueError where the text is no base64."""
    value = region.get("value")
    if not isinstance(value, Mapping) or not isinstance(value.get("rle"), str):
        return region
    return {**region, "value": {**value, "rle": base64.b64decode(value["rle"], validate=True)}}


def _marks(regions: Sequence[Region]) -> list[_Mark]:
    """The regions by id, each with its label, which may stand in another region of the same id."""
    labels: dict[str, tuple[str, str]] = {}
    for region in regions:
        found = _label_in(region)
        if found:
            labels.setdefault(str(region.get("id")), (found, str(region.get("from_name", ""))))
    marks = {}
    for region in regions:
        if region_kind(region) in ("", "labels"):
            continue
        name = str(region.get("id"))
        if name in marks and shape_kind(region) != region_kind(region):
            continue  # the label of another control that is active too, on the mark that is read already
        label, control = labels.get(name, ("", str(region.get("from_name", ""))))
        value = region["value"] if isinstance(region.get("value"), Mapping) else {}
        marks[name] = _Mark(
            name, region_kind(region), value, control, str(region.get("to_name", "")), label,
            region.get("is_positive") is not False,
        )  # fmt: skip
    return list(marks.values())


def _label_in(region: Region) -> str:
    value = region.get("value")
    if not isinstance(value, Mapping):
        return ""
    for name in (str(region.get("type")), "labels"):
        found = value.get(name)
        if isinstance(found, list) and found and isinstance(found[0], str):
            return found[0]
    return ""


def _label(mark: _Mark, vocabulary: Vocabulary) -> Label:
    if mark.label:
        return drawing_label(vocabulary, mark.label, mark.control)
    if len(vocabulary.drawn) == 1:
        return vocabulary.drawn[0]
    raise PromptError("the click", "carries no label", _CHOOSE)


def _number(mark: _Mark, name: str) -> float:
    value = mark.value.get(name, 0.0 if name == "rotation" else None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PromptError(f"the {mark.kind}", f"has no {name}", _POINT)
    return float(value)


def _point(mark: _Mark, shape: tuple[int, int]) -> Point:
    return _number(mark, "x") * shape[1] / 100, _number(mark, "y") * shape[0] / 100


def _box(mark: _Mark, shape: tuple[int, int]) -> Box:
    """The box around a rectangle or an ellipse, which may be turned."""
    if not mark.positive:
        raise PromptError("the box", "is marked as outside of the thing", "Draw it without Alt.")
    left, top = _point(mark, shape)
    angle = math.radians(_number(mark, "rotation"))
    cos, sin = math.cos(angle), math.sin(angle)
    if mark.kind == "ellipse":
        across, down = _number(mark, "radiusX") * shape[1] / 100, _number(mark, "radiusY") * shape[0] / 100
        half_width, half_height = math.hypot(across * cos, down * sin), math.hypot(across * sin, down * cos)
        if across <= 0 or down <= 0:
            half_width = half_height = 0.0
        return left - half_width, top - half_height, left + half_width, top + half_height
    width, height = _number(mark, "width") * shape[1] / 100, _number(mark, "height") * shape[0] / 100
    if width <= 0 or height <= 0:
        return left, top, left, top
    corners = [(left + x * cos - y * sin, top + x * sin + y * cos) for x in (0, width) for y in (0, height)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)
