"""Annotations of one image -> what is where in it, one class per pixel.

It must not know models, files or HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugin_config.label_studio.annotations import Annotation
from plugin_config.vocabulary import Label, Vocabulary
from worker.label_studio.regions import decode_region, inscribed_ellipse
from worker.learning.interfaces import UNLABELLED
from worker.segmentation.metrics import VOID

Truth = NDArray[np.int16]
"""(H, W) int16: index of a class, UNLABELLED or VOID."""


def counting_annotations(annotations: Sequence[Annotation]) -> list[Annotation]:
    """Those that say what is in the image: not cancelled ones; where some are ground truth, these alone; of each
    annotator the one changed last. In the order of their ids.
    """
    made = [annotation for annotation in annotations if not annotation.cancelled]
    made = [annotation for annotation in made if annotation.ground_truth] or made
    last: dict[int, Annotation] = {}
    for annotation in sorted(made, key=lambda row: (row.updated_at, row.id)):
        last[-annotation.id if annotation.annotator is None else annotation.annotator] = annotation
    return sorted(last.values(), key=lambda row: row.id)


def find_label(region: Mapping[str, Any], vocabulary: Vocabulary) -> Label | None:
    """The label a region was drawn for: of several, the first that the labeling config (still) has. None for what is
    no region of the vocabulary's image: other answers, other images, labels that vanished.
    """
    value = region.get("value")
    keys = value.get(str(region.get("type"))) if isinstance(value, Mapping) else None
    if not isinstance(keys, Sequence) or isinstance(keys, str) or region.get("to_name") != vocabulary.labels[0].to_name:
        return None
    offered = {label.key: label for label in vocabulary.labels if label.control == region.get("from_name")}
    return next((offered[key] for key in keys if isinstance(key, str) and key in offered), None)


def draw_truth(
    regions: Sequence[Mapping[str, Any]], vocabulary: Vocabulary, size: tuple[int, int], frame: tuple[int, int]
) -> Truth:
    """Paint the regions of one annotation, the largest first, so that the smaller lie on top; of two of the same area
    the later one does.

    Of a rectangle only the ellipse that touches its four sides is taken for the object. The corners are VOID unless
    another region lies there.

    Args:
        regions: a result of Label Studio.
        vocabulary: what its labels mean.
        size: (H, W) of the image after EXIF rotation, pixels.
        frame: (H, W) to draw at, no larger: each pixel takes what lies at its centre.

    Raises:
        RegionError: a region of the vocabulary cannot be decoded.
    """
    index = {texts: number for number, texts in enumerate(vocabulary.words)}
    corners = np.zeros(frame, dtype=np.bool_)
    painted: list[tuple[int, NDArray[np.bool_]]] = []
    for region in regions:
        label = find_label(region, vocabulary)
        if label is None:
            continue
        mask = _draw(region, size, frame)
        if str(region["type"]).startswith("rectangle"):
            inside = inscribed_ellipse(region, frame[1], frame[0])
            corners |= mask & ~inside
            mask = inside
        painted.append((index[label.texts], mask))
    truth = np.full(frame, UNLABELLED, dtype=np.int16)
    for number, mask in sorted(painted, key=lambda item: -np.count_nonzero(item[1])):
        truth[mask] = number
    truth[corners & (truth == UNLABELLED)] = VOID
    return truth


def merge_truths(truths: Sequence[Truth]) -> Truth:
    """What most annotators say of each pixel; VOID where no single answer has the most voices. VOID has no voice.

    Args:
        truths: of the same image, one or more.
    """
    if len(truths) == 1:
        return truths[0]
    stack = np.stack(truths)  # (annotators, H, W)
    merged = np.full(stack.shape[1:], VOID, dtype=np.int16)
    most = np.zeros(stack.shape[1:], dtype=np.int16)
    for answer in np.unique(stack[stack != VOID]):
        voices = np.count_nonzero(stack == answer, axis=0)
        merged[voices > most] = answer
        merged[(voices == most) & (voices > 0)] = VOID
        most = np.maximum(most, voices)
    return merged


def shrink_nearest(values: NDArray[Any], frame: tuple[int, int]) -> NDArray[Any]:
    """Sample (H, W, ...) at the pixel centres of a frame (h, w)."""
    if values.shape[:2] == frame:
        return values
    rows, columns = (
        ((np.arange(small) + 0.5) * large / small).astype(np.int64)
        for small, large in zip(frame, values.shape[:2], strict=True)
    )
    return np.asarray(values[rows[:, None], columns])


def _draw(region: Mapping[str, Any], size: tuple[int, int], frame: tuple[int, int]) -> NDArray[np.bool_]:
    if str(region.get("type")).startswith("brush"):  # its pixels are the image's
        return np.asarray(shrink_nearest(decode_region(region, size[1], size[0]), frame))
    return decode_region(region, frame[1], frame[0])
