"""Pictures of the report: what was predicted beside what was submitted, where most was corrected."""

from __future__ import annotations

import heapq
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import ImageUnavailable, LabelStudioError, RegionError, TaskDataError
from plugin_config.label_studio.client import LabelStudio
from plugin_config.vocabulary import Vocabulary
from worker.label_studio.annotation_maps import draw_region
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.outcomes import find_parent
from worker.label_studio.picture_regions import item_id, picture_regions
from worker.label_studio.seeded import is_seeded
from worker.label_studio.task_images import images_of
from worker.overlay import Painting, draw_sheet
from worker.report.reading import AnnotationRecord

log = logging.getLogger(__name__)

_LONGEST_SIDE, _GAP = 480, 16  # pixels of an example, and between its two sides


@dataclass(frozen=True)
class ExamplePicture:
    """A PNG of the predicted and the submitted regions of one image, side by side."""

    title: str
    png: bytes


@dataclass(frozen=True, order=True)
class _Corrected:
    """How many regions of an image were changed, deleted or added, and which image it is."""

    regions: int
    task: int
    annotation: int
    key: str


class MostCorrected:
    """Keeps which images had most regions corrected, at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[_Corrected] = []

    def add(self, record: AnnotationRecord) -> None:
        """Take in one annotation."""
        for image in record.images if record.basis == "ours" else ():
            touched = sum(row.outcome != "accepted" for row in image.regions)
            if touched and self._most:
                heapq.heappush(self._heap, _Corrected(touched, record.task, record.annotation, image.key))
            if len(self._heap) > self._most:
                heapq.heappop(self._heap)

    def chosen(self) -> list[tuple[int, int, str]]:
        """(task, annotation, key of the image), the most corrected first."""
        return [(row.task, row.annotation, row.key) for row in sorted(self._heap, reverse=True)]


def draw_examples(
    label_studio: LabelStudio, project: int, vocabulary: Vocabulary, images: ImageLoader,
    chosen: Iterable[tuple[int, int, str]],
) -> tuple[list[ExamplePicture], list[str]]:  # fmt: skip
    """Draw images with their predicted and submitted regions.

    Args:
        label_studio: the client.
        project: its id.
        vocabulary: of the project.
        images: loads them.
        chosen: as `MostCorrected.chosen` gives them.

    Returns:
        the pictures, and why others are left out.
    """
    found, left_out = [], []
    for task, annotation, key in chosen:
        try:
            found += _draw(label_studio, project, vocabulary, images, task, annotation, key)
        except (LabelStudioError, ImageUnavailable, RegionError, TaskDataError) as error:
            log.warning("task %d: no picture. %s", task, error)
            left_out.append(f"No picture of task {task}: {error}")
    return found, left_out


def _draw(
    label_studio: LabelStudio, project: int, vocabulary: Vocabulary, images: ImageLoader, number: int, annotation: int,
    key: str,
) -> list[ExamplePicture]:  # fmt: skip
    """One picture; none where the task or the annotation is deleted meanwhile."""
    predictions = label_studio.predictions(number)
    rows = [row for row in label_studio.annotations(number) if row.id == annotation]
    tasks = label_studio.tasks(project, [number]) if rows else []
    chosen = [image for task in tasks for image in images_of(task, vocabulary).images if image.key == key]
    if not chosen:
        return []
    parent, (image, *_) = find_parent(rows[0], predictions), chosen
    picture = images.load(image.address(), task=number, project=project, label_studio=label_studio, urgent=False)
    height, width = picture.pixels.shape[:2]
    scale = min(1.0, _LONGEST_SIDE / max(height, width))
    frame = (max(1, round(height * scale)), max(1, round(width * scale)))
    pixels = np.asarray(cv2.resize(picture.pixels, (frame[1], frame[0]), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    before = _masks(parent.result if parent else (), image.vocabulary, picture.size, frame)
    after = _masks(rows[0].result, image.vocabulary, picture.size, frame)
    names = list(dict.fromkeys(name for name, _ in (*before, *after)))
    sheet = draw_sheet([Painting(pixels, before), Painting(pixels, after)], names, columns=2,
                       titles=("predicted", "submitted"), gap=_GAP)  # fmt: skip
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    seeded = any(is_seeded(item_id(item)) for item in (parent.result if parent else ()) if isinstance(item, Mapping))
    title = f"Task {key}, annotation {annotation}{', with a seeded wrong mask' if seeded else ''}"
    return [ExamplePicture(title, buffer.getvalue())]


def _masks(
    result: Sequence[Any], vocabulary: Vocabulary, size: tuple[int, int], frame: tuple[int, int]
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Label keys and (h, w) bool masks of the regions of a result, at the frame's size; `size`: (H, W) of the image."""
    return [
        (region.label.key, draw_region(region, size, frame))
        for region in picture_regions(result, vocabulary)
        if region.label is not None
    ]
