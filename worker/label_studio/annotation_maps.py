"""Annotations of one image -> a class map: which of them count, which label each region has, what lies on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugin_config.label_studio.annotations import Annotation
from plugin_config.vocabulary import Label, Vocabulary
from worker.label_studio.regions import decode_region, inscribed_ellipse
from worker.learning.corrections.class_maps import ClassMap, shrink_nearest
from worker.learning.interfaces import UNLABELLED
from worker.segmentation.metrics import VOID


def counting_annotations(annotations: Sequence[Annotation]) -> list[Annotation]:
    """Select the annotations that describe the image, ordered by id: cancelled ones are left out; if any are flagged as
    ground truth, only those are taken; of several by one annotator, the one changed last.
    """
    made = [annotation for annotation in annotations if not annotation.cancelled]
    made = [annotation for annotation in made if annotation.ground_truth] or made
    last: dict[int, Annotation] = {}
    for annotation in sorted(made, key=lambda row: (row.updated_at, row.id)):
        last[-annotation.id if annotation.annotator is None else annotation.annotator] = annotation
    return sorted(last.values(), key=lambda row: row.id)


def find_label(region: Mapping[str, Any], vocabulary: Vocabulary) -> Label | None:
    """Find the label a region was drawn for; of several, the first that the labeling config still has.

    Returns:
        None when the item is not a region of the vocabulary's image: another kind of answer, another image, or a label
        that the labeling config no longer has.
    """
    value = region.get("value")
    keys = value.get(str(region.get("type"))) if isinstance(value, Mapping) else None
    if not isinstance(keys, Sequence) or isinstance(keys, str) or region.get("to_name") != vocabulary.labels[0].to_name:
        return None
    offered = {label.key: label for label in vocabulary.labels if label.control == region.get("from_name")}
    return next((offered[key] for key in keys if isinstance(key, str) and key in offered), None)


def draw_class_map(
    regions: Sequence[Mapping[str, Any]], vocabulary: Vocabulary, size: tuple[int, int], frame: tuple[int, int]
) -> ClassMap:
    """Paint the regions of one annotation, the largest first, so that smaller ones lie on top; of two of the same area
    the later one does.

    A rectangle paints only its inscribed ellipse: the object rarely fills the box. The corners are VOID unless another
    region covers them.

    Args:
        regions: the result of an annotation.
        vocabulary: what its labels mean.
        size: (H, W) of the image after EXIF rotation, pixels.
        frame: (h, w) of the class map, no larger: each pixel takes the value at its centre.

    Raises:
        RegionError: a region of the vocabulary cannot be decoded.
    """
    index = {texts: number for number, texts in enumerate(vocabulary.words)}
    corners = np.zeros(frame, dtype=np.bool_)
    layers: list[tuple[int, NDArray[np.bool_]]] = []
    for region in regions:
        label = find_label(region, vocabulary)
        if label is None:
            continue
        mask = _draw_region(region, size, frame)
        if str(region["type"]).startswith("rectangle"):
            inside = inscribed_ellipse(region, frame[1], frame[0])
            corners |= mask & ~inside
            mask = inside
        layers.append((index[label.texts], mask))
    class_map = np.full(frame, UNLABELLED, dtype=np.int16)
    for number, mask in sorted(layers, key=lambda layer: -np.count_nonzero(layer[1])):
        class_map[mask] = number
    class_map[corners & (class_map == UNLABELLED)] = VOID
    return class_map


def _draw_region(region: Mapping[str, Any], size: tuple[int, int], frame: tuple[int, int]) -> NDArray[np.bool_]:
    if str(region.get("type")).startswith("brush"):  # its pixels are those of the full image
        return np.asarray(shrink_nearest(decode_region(region, size[1], size[0]), frame))
    return decode_region(region, frame[1], frame[0])
