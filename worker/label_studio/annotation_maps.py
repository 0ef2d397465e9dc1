"""Annotations of one image -> a class map: which of them count, which label each region has, what lies on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugin_config.label_studio.annotations import Annotation
from plugin_config.vocabulary import Vocabulary
from worker.label_studio.picture_regions import PictureRegion, picture_regions
from worker.label_studio.regions import decode_region
from worker.label_studio.seeded import is_seeded
from worker.label_studio.shapes import inscribed_ellipse, is_open, keypoint_mask, polygon_line, refusal
from worker.label_studio.vectors import is_outline, vector_mask
from worker.learning.corrections.class_maps import ClassMap, shrink_nearest
from worker.learning.interfaces import UNLABELLED
from worker.segmentation.metrics import VOID

_LEARNED = ("brush", "bitmask", "polygon", "rectangle", "ellipse", "vector")
"""Kinds of regions whose pixels are known exactly, vectors where they are outlines; others are VOID at most."""

_UNREAD = "Draw it with BrushLabels or PolygonLabels; background is not learned where a region may lie."


def counting_annotations(annotations: Sequence[Annotation]) -> list[Annotation]:
    """Select the annotations that describe the image, ordered by id: cancelled ones are left out, and imported ground
    truth where a person annotated the task later; if any are flagged as ground truth then, only those are taken; of
    several by one annotator, the one changed last.
    """
    made = [annotation for annotation in annotations if not annotation.cancelled]
    by_people = max((_when(annotation) for annotation in made if not annotation.imported), default=("", 0))
    made = [row for row in made if not (row.imported and row.ground_truth and _when(row) < by_people)]
    made = [annotation for annotation in made if annotation.ground_truth] or made
    last: dict[int, Annotation] = {}
    for annotation in sorted(made, key=_when):
        last[-annotation.id if annotation.annotator is None else annotation.annotator] = annotation
    return sorted(last.values(), key=lambda row: row.id)


def draw_class_map(
    regions: Sequence[Any], vocabulary: Vocabulary, size: tuple[int, int], frame: tuple[int, int]
) -> ClassMap:
    """Paint the regions of one annotation, the largest first, so that smaller ones lie on top; of two of the same area
    the later one does.

    A rectangle paints only its inscribed ellipse: the object rarely fills the box. The corners are VOID unless another
    region covers them. A region that says that something is there, but not what, is VOID, and so is a seeded wrong one;
    a line or a point is so where no other region lies. Points of a label that is predicted as points do not say how far
    a thing reaches: beside them nothing is background, all that no region covers is VOID. Nor does a click of a smart
    tool that was left behind, because nobody accepted its answer, unless a region of its label covers it.

    Args:
        regions: the result of an annotation.
        vocabulary: what its labels mean.
        size: (H, W) of the image after EXIF rotation, pixels.
        frame: (h, w) of the class map, no larger: each pixel takes the value at its centre.

    Raises:
        RegionError: an item is malformed, or a region over the picture cannot be drawn.
    """
    index = {texts: number for number, texts in enumerate(vocabulary.words)}
    beneath = np.zeros(frame, dtype=np.bool_)
    layers: list[tuple[int, NDArray[np.bool_]]] = []
    clicks: list[tuple[bool, int | None, NDArray[np.bool_]]] = []
    for region in picture_regions(regions, vocabulary):
        mask = draw_region(region, size, frame)
        if _is_line(region):
            beneath |= mask
            beneath |= region.kind == "keypoint" and region.label is not None and region.label.output == "keypoint"
            if region.kind == "keypoint" and "is_positive" in region.item:
                wanted = region.item["is_positive"] is not False
                clicks.append((wanted, None if region.label is None else index[region.label.texts], mask))
            continue
        label = region.label if _is_exact(region) and not is_seeded(region.identity) else None
        if label is not None and region.kind == "rectangle":
            inside = inscribed_ellipse(region.item, height=frame[0], width=frame[1])
            beneath |= mask & ~inside
            mask = inside
        layers.append((VOID if label is None else index[label.texts], mask))
    class_map = np.full(frame, UNLABELLED, dtype=np.int16)
    for number, mask in sorted(layers, key=lambda layer: -np.count_nonzero(layer[1])):
        class_map[mask] = number
    for wanted, clicked, mask in clicks:
        if not wanted and layers:  # outside of what is drawn, as it says
            continue
        there = class_map[mask] >= 0 if clicked is None else class_map[mask] == clicked
        beneath |= not there.any()
    class_map[beneath & (class_map == UNLABELLED)] = VOID
    return class_map


def draw_region(region: PictureRegion, size: tuple[int, int], frame: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels that the region covers, or may cover where it cannot be read exactly."""
    height, width = frame
    if region.kind == "keypoint":
        return keypoint_mask(region.item, height=height, width=width)
    if region.kind == "vector" and not is_outline(region.item):
        return vector_mask(region.item, height=height, width=width)
    if region.kind not in _LEARNED:
        raise refusal(region.item, "regions of this type are not read", _UNREAD)
    if region.kind in ("brush", "bitmask"):  # its pixels are those of the full image
        return np.asarray(shrink_nearest(decode_region(region.item, size[1], size[0]), frame))
    if _is_line(region):
        return polygon_line(region.item, height=height, width=width)
    return decode_region(region.item, width, height)


def _is_exact(region: PictureRegion) -> bool:
    return region.kind in _LEARNED and (region.kind != "vector" or is_outline(region.item))


def _is_line(region: PictureRegion) -> bool:
    """Whether a region encloses nothing: a point or a line."""
    return region.kind == "keypoint" or (region.kind in ("polygon", "vector") and is_open(region.item))


def _when(annotation: Annotation) -> tuple[str, int]:
    return annotation.updated_at, annotation.id
