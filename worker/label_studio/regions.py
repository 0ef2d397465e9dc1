"""Masks to Label Studio regions of every kind, and those that have an area to masks.

Coordinates in a region are percent of the image's size, 0..100, x to the right and y down; masks are in pixels of the
same image, after EXIF rotation. Source of the format: https://labelstud.io/guide/task_format and label_studio_sdk's
`LabelInterface.validate_prediction`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugin_config.control_tags import OUTPUT_KINDS, OutputKind
from plugin_config.errors import RegionError
from worker.label_studio.bitmasks import decode_bitmask
from worker.label_studio.brush_rle import MAX_PIXELS, decode_rle
from worker.label_studio.polygons import default_tolerance
from worker.label_studio.region_ids import new_region_id
from worker.label_studio.region_values import mask_values
from worker.label_studio.shapes import ellipse_mask, polygon_mask, rectangle_mask, refusal, region_value
from worker.label_studio.vectors import vector_area

KINDS: tuple[OutputKind, ...] = tuple(OUTPUT_KINDS.values())
"""The shapes written; a region's type is the kind, or the kind + "labels"."""

RAW_SCORE = "raw_score"
"""Key of a region beside "score", which Label Studio stores and its editor leaves alone."""

_SHAPES = {"polygon": polygon_mask, "rectangle": rectangle_mask, "ellipse": ellipse_mask, "vector": vector_area}
_READ = ("brush", "bitmask", *_SHAPES)
_ROUNDING = 1  # pixel by which the noted size of an image may be off
_LARGEST = 1e9  # pixels of a side that are told: JSON has whole numbers that no float holds
_NO_RLE = "Open the task in Label Studio and submit it again: the editor then stores what it shows as 'rle'."


def encode_region(
    mask: NDArray[np.bool_],
    *,
    kind: OutputKind,
    control: str,
    to_name: str,
    label: str,
    score: float,
    raw_score: float | None = None,
    region_id: str | None = None,
    tolerance: float | None = None,
    size: tuple[int, int] | None = None,
    shape: str = "",
) -> list[dict[str, Any]]:
    """Describe one mask as the regions of a Label Studio result.

    Args:
        mask: (H, W) bool, in pixels of the image after EXIF rotation; its shape is the image's size, or see `size`.
        kind: "brush" and "bitmask" keep every pixel; "polygon" and "vector" give one region per island (a hole is cut
            open to the outside); "rectangle" is the box, "ellipse" the best ellipse and "keypoint" one inner point of
            all of the mask.
        control: name of the control tag (`from_name`).
        to_name: name of the Image tag.
        label: the key the labeling config expects: a label's alias where it has one, else its value.
        score: confidence in [0, 1], the same for each region.
        raw_score: the score before it was calibrated on the project, stored beside it, for the next calibration; None =
            the same.
        region_id: of the first region; the following get new ids, as all do for None, see `new_region_id`.
        tolerance: in pixels of the mask, at least 0, for polygons and vectors: see `mask_rings`. 0 is exact; None is
            `default_tolerance`.
        size: (H, W) of the image in pixels, where the mask is of a reduced copy of it: a brush or bitmask is enlarged
            to it, and shapes are in percent.
        shape: name of the tag that draws the regions of a Labels control; "" = `control` draws them itself. With it
            each region is two items of one id, as the editor stores them: that of the shape and, with the same shape in
            it, that of the label.

    Returns:
        No items for an empty mask. `origin` is left out: the editor sets it when an annotator takes the region over.

    Raises:
        RegionError: an argument is not as described.
    """
    _check_arguments(mask, kind, label, score, tolerance or 0.0)
    if tolerance is None:
        tolerance = default_tolerance(*mask.shape)
    if not mask.any():
        return []
    height, width = size or mask.shape
    items: list[dict[str, Any]] = []
    for value in mask_values(mask, kind, tolerance=tolerance, size=size):
        common = {
            "id": new_region_id() if items or not region_id else region_id,
            "to_name": to_name,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": float(score),
        }
        if raw_score is not None:
            common[RAW_SCORE] = float(raw_score)
        labelled = "labels" if shape else f"{kind}labels"
        if shape:
            items.append(common | {"from_name": shape, "type": kind, "value": value})
        items.append(common | {"from_name": control, "type": labelled, "value": value | {labelled: [label]}})
    return items


def region_kind(region: Mapping[str, Any]) -> str:
    """What a region is by its type, without "labels" behind it, in lower case; "" where that is all of it."""
    return str(region.get("type")).lower().removesuffix("labels")


def decode_region(region: Mapping[str, Any], width: int, height: int) -> NDArray[np.bool_]:
    """Draw a Label Studio region as a mask, clipped to the image.

    Args:
        region: one item of a result, of type brush, bitmask, polygon, vector, rectangle or ellipse, or one of these +
            "labels".
        width: of the image after EXIF rotation, in pixels.
        height: of the image after EXIF rotation, in pixels.

    Returns:
        (H, W) bool: for a brush or bitmask the pixels painted at all, else those whose centre lies in the shape. None
        for what has no area: a brush without paint, a polygon or vector that is open or of fewer than three points.

    Raises:
        RegionError: the type is not read here, the value lacks something, or what is painted belongs to another image
            size.
    """
    kind = region_kind(region)
    if kind not in _READ:
        remedy = f"Regions of type {', '.join(_READ)}, each also with 'labels' behind it, are read; leave others out."
        raise refusal(region, f"type {str(region.get('type'))[:60]!r} is not read", remedy)
    value = region_value(region)
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise refusal(region, f"the image must have 1 to {MAX_PIXELS} pixels, got {width} x {height}")
    if kind in ("brush", "bitmask"):
        return _decode_painted(region, value, width, height)
    return _SHAPES[kind](region, height=height, width=width)


def region_label(region: Mapping[str, Any]) -> str:
    """The first label of a region: the alias or value under which the labeling config knows it.

    Raises:
        RegionError: the region carries no label.
    """
    value = region.get("value")
    labels = value.get(str(region.get("type"))) if isinstance(value, Mapping) else None
    if not isinstance(labels, Sequence) or isinstance(labels, str) or not labels or not isinstance(labels[0], str):
        raise refusal(region, "it has no label")
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


def _decode_painted(region: Mapping[str, Any], value: Mapping[str, Any], width: int, height: int) -> NDArray[np.bool_]:
    is_brush = region_kind(region) == "brush"
    rle = value.get("rle")
    if is_brush and rle is None:
        raise refusal(region, "its value has no 'rle'", _NO_RLE)
    _check_painted_size(region, width, height)
    if is_brush and rle in ([], ()):
        return np.zeros((height, width), dtype=np.bool_)
    try:
        if is_brush:
            return decode_rle(rle, height=height, width=width)  # type: ignore[arg-type]
        return decode_bitmask(value.get("imageDataURL"), height=height, width=width)
    except RegionError as error:
        raise refusal(region, f"its {'rle' if is_brush else 'bitmask'} cannot be read: {error.problem}") from error


def _check_painted_size(region: Mapping[str, Any], width: int, height: int) -> None:
    """Refuse what was painted on an image of another size: its pixels lie elsewhere, even where there are as many.
    Where the size is not noted, the number of pixels alone decides.
    """
    noted = [region.get(key) for key in ("original_width", "original_height")]
    sizes = [min(size, _LARGEST) for size in noted
             if isinstance(size, int | float) and not isinstance(size, bool) and size >= 1]  # fmt: skip
    if len(sizes) < 2 or not _differs(sizes, (width, height)):
        return
    was = "{:g} x {:g}".format(*sizes)
    problem = f"it was painted on an image of {was} pixels, which has {width} x {height} now"
    if not _differs(sizes, (height, width)):
        problem += ": it was turned since"
    raise refusal(region, problem, "Put the image back as it was, or paint the region again.")


def _differs(sizes: Sequence[float], others: Sequence[float]) -> bool:
    return any(abs(size - other) > _ROUNDING for size, other in zip(sizes, others, strict=True))
