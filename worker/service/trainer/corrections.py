"""Annotated tasks of a project, read from Label Studio -> corrections.

Label Studio is the only truth: everything is read again each time, so no edit, deletion or lost webhook is missed.
docs/reference/learning_rules.md states the rules.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import (
    AnswerMalformed,
    AnswerTooLarge,
    ImageHostTrouble,
    ImageUnavailable,
    LabelStudioError,
    RegionError,
    TaskDataError,
)
from plugin_config.label_studio.annotations import Annotation
from plugin_config.label_studio.client import LabelStudio, Task
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.vocabulary import Vocabulary
from worker.label_studio.annotation_maps import counting_annotations
from worker.label_studio.image_cache import OFF, ImageCache
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import ImageLimits
from worker.label_studio.outcomes import (
    EmptyRecord,
    RegionOutcomes,
    RegionRecord,
    count_records,
    empty_record,
    region_records,
)
from worker.label_studio.picture_regions import picture_regions
from worker.label_studio.task_images import TaskImage, images_of
from worker.learning.corrections.examples import LONGEST_SIDE
from worker.learning.interfaces import Example
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.service.batching import free_memory
from worker.service.trainer.annotated_example import annotated_example, require_lists

log = logging.getLogger(__name__)

T = TypeVar("T")

Embed = Callable[[Sequence[NDArray[np.uint8]]], list[ImageEmbedding]]

_TASKS_AT_ONCE = 50


@dataclass(frozen=True)
class Correction:
    """One annotated image of a task.

    Attributes:
        task: its id.
        annotations: ids of the annotations that count.
        ground_truth: whether they are flagged as ground truth.
        outcomes: what annotators did with the predicted regions, by label key.
        example: to learn from.
        vocabulary: the labels that the image may have.
        records: what became of each region.
        empty: what became of predictions without regions; () where the task has several images.
    """

    task: int
    annotations: tuple[int, ...]
    ground_truth: bool
    outcomes: Mapping[str, RegionOutcomes]
    example: Example
    vocabulary: Vocabulary
    records: tuple[RegionRecord, ...] = ()
    empty: tuple[EmptyRecord, ...] = ()


@dataclass(frozen=True)
class SurveyedImage:
    """One annotated image of a task, as far as it is known without its pixels.

    Attributes:
        task: its id.
        key: of the image, see `TaskImage.key`.
        labels: keys of the labels of its regions.
        outcomes, records, empty: as of `Correction`.
    """

    task: int
    key: str
    labels: frozenset[str]
    outcomes: Mapping[str, RegionOutcomes]
    records: tuple[RegionRecord, ...] = ()
    empty: tuple[EmptyRecord, ...] = ()


@dataclass(frozen=True)
class UnreadTask:
    """An annotated task, or one of its images, that cannot be read now, and the reason, which may pass: a server in
    trouble, a Label Studio that fails on this task, too little memory.

    Attributes:
        task: its id.
        reason: for people; it names the task.
        key: of the image, see `TaskImage.key`; the task's id where it is about the whole task.
        records: what became of each region of the image: that needs no pixels. () where it is about the whole task.
        empty: as of `Correction`, likewise.
    """

    task: int
    reason: str
    key: str
    records: tuple[RegionRecord, ...] = ()
    empty: tuple[EmptyRecord, ...] = ()


@dataclass(frozen=True)
class LeftOutTask:
    """An annotated task, or one of its images, that cannot be learned from until somebody changes it, and the reason,
    which names the task.
    """

    task: int
    reason: str


def read_corrections(
    label_studio: LabelStudio,
    project: int,
    vocabulary: Vocabulary,
    *,
    embed: Embed,
    limits: ImageLimits,
    cache: ImageCache = OFF,
    ours: Collection[str] = (),
    longest_side: int = LONGEST_SIDE,
    only: Collection[int] | None = None,
) -> Iterator[Correction | UnreadTask | LeftOutTask]:
    """Read every annotated task of a project, one image at a time: a task with several gives one correction for each.

    An image that cannot be read is left out: it is gone, or an item of its annotations is broken, so that its class map
    would be wrong. A `LeftOutTask` takes its place, or an `UnreadTask` where the reason may pass.

    Args:
        label_studio: the client.
        project: its id.
        vocabulary: of the project now.
        embed: makes embeddings of images as `worker.label_studio.images.Picture` has them, (H, W, 3) uint8 RGB each; an
            `EmbeddingCache` has most of them.
        limits: for images.
        cache: of image files.
        ours: versions of our predictions, see `region_records`.
        longest_side: pixels; larger images and their class maps are reduced to it once they are embedded.
        only: ids of the tasks to read; None = all.

    Raises:
        LabelStudioError: Label Studio does not answer, or refuses the project.
    """
    reader = _Reader(label_studio, project, vocabulary, ours)
    to_example = _ExampleMaker(label_studio, project, embed, ImageLoader(limits, cache), longest_side)
    for task in _annotated(label_studio, project, only):
        yield from reader.read(task, to_example)


def survey_corrections(
    label_studio: LabelStudio, project: int, vocabulary: Vocabulary, *, ours: Collection[str] = ()
) -> Iterator[SurveyedImage | UnreadTask | LeftOutTask]:
    """Go through every annotated task of a project without its images: which labels each image shows, and what became
    of the predictions. Arguments, and what is left out, as of `read_corrections`; so few bytes of each image are held
    that a project may have a hundred thousand.

    Raises:
        LabelStudioError: as `read_corrections`.
    """
    reader = _Reader(label_studio, project, vocabulary, ours)
    for task in _annotated(label_studio, project):
        yield from reader.survey(task)


def _annotated(label_studio: LabelStudio, project: int, only: Collection[int] | None = None) -> Iterator[Task]:
    ids = [row.id for row in label_studio.annotated_tasks(project) if only is None or row.id in only]
    for start in range(0, len(ids), _TASKS_AT_ONCE):
        yield from label_studio.tasks(project, ids[start : start + _TASKS_AT_ONCE])


def corrections_digest(label_studio: LabelStudio, project: int) -> str:
    """16 hex digits that change whenever the annotations do, for one request per 500 annotated tasks.

    They also change when a prediction is stored or deleted for an annotated task, which costs a needless reading;
    `content_digest` then shows that nothing changed. They do not depend on the labeling config; compare the hash of its
    vocabulary too.

    Raises:
        LabelStudioError: Label Studio does not answer, or refuses the project.
    """
    digest = hashlib.sha256()
    for task in label_studio.annotated_tasks(project):
        digest.update(f"{task.id} {task.annotations} {task.updated_at}\n".encode())
    return digest.hexdigest()[:16]


class _Reader:
    """Reads one task after another of one project; see `read_corrections` and `survey_corrections`."""

    def __init__(
        self, label_studio: LabelStudio, project: int, vocabulary: Vocabulary, ours: Collection[str]
    ) -> None:
        self._label_studio, self._project = label_studio, project
        self._vocabulary, self._ours = vocabulary, ours

    def read(
        self, task: Task, to_example: Callable[[_OpenedTask, TaskImage], Example]
    ) -> Iterator[Correction | UnreadTask | LeftOutTask]:
        """Nothing when the task has no annotation that counts, or was deleted meanwhile."""
        return self._each(task, partial(self._read, to_example))

    def survey(self, task: Task) -> Iterator[SurveyedImage | UnreadTask | LeftOutTask]:
        """Likewise."""
        return self._each(task, self._survey)

    def _each(
        self, task: Task, read: Callable[[_OpenedTask, TaskImage], T]
    ) -> Iterator[T | UnreadTask | LeftOutTask]:
        """What `read` makes of each image of a task, or why it cannot."""
        opened = self._tried(task, str(task.id), lambda: self._open(task))
        if not isinstance(opened, _OpenedTask):
            yield from [opened] if opened is not None else []
            return
        told: set[str] = set()  # an annotation that cannot be read is the same trouble for every image
        for image in opened.images:
            found = self._tried(task, image.key, partial(read, opened, image))
            if isinstance(found, UnreadTask):
                yield self._with_records(found, opened, image)
            elif not isinstance(found, LeftOutTask):
                yield from [found] if found is not None else []
            elif found.reason not in told:
                told.add(found.reason)
                yield found

    def _tried(self, task: Task, key: str, read: Callable[[], T]) -> T | UnreadTask | LeftOutTask | None:
        """What `read` returns, or why it cannot; None when the task was deleted meanwhile. `key`: of what is read."""
        try:
            return read()
        except LabelStudioError as error:
            if error.status == 404:
                log.warning("task %d is not learned from: %s", task.id, error)
                return None
            if not (error.status == 500 or isinstance(error, AnswerTooLarge | AnswerMalformed)):
                raise  # not about this one task
            return self._left_out(task, key, f"task {task.id}: {error}", passes=error.status == 500)
        except (ImageUnavailable, TaskDataError) as error:
            return self._left_out(task, key, str(error), passes=isinstance(error, ImageHostTrouble))
        except RegionError as error:
            return self._left_out(task, key, f"task {task.id}: {error}", passes=False)
        except (MemoryError, RuntimeError) as error:  # torch's out-of-memory is a RuntimeError
            free_memory()
            reason = f"task {task.id}: its image does not go through the model ({error!r})"
            return self._left_out(task, key, reason, passes=True)

    def _left_out(self, task: Task, key: str, reason: str, *, passes: bool) -> UnreadTask | LeftOutTask:
        log.warning("task %d is not learned from: %s", task.id, reason)
        return UnreadTask(task.id, reason, key) if passes else LeftOutTask(task.id, reason)

    def _open(self, task: Task) -> _OpenedTask | None:
        """None when no annotation of the task counts (any more)."""
        annotations = counting_annotations(self._label_studio.annotations(task.id))
        if not annotations:
            return None
        images = images_of(task, self._vocabulary).images
        return _OpenedTask(task, annotations, self._label_studio.predictions(task.id), images)

    def _with_records(self, unread: UnreadTask, opened: _OpenedTask, image: TaskImage) -> UnreadTask:
        try:
            with _malformed_is_typed():
                return replace(unread, records=self._records(opened, image), empty=self._empty(opened, image))
        except RegionError:  # told once the image can be read
            return unread

    def _records(self, opened: _OpenedTask, image: TaskImage) -> tuple[RegionRecord, ...]:
        return tuple(
            record
            for row in opened.annotations
            for record in region_records(row, opened.predictions, image.vocabulary, self._ours)
        )

    def _empty(self, opened: _OpenedTask, image: TaskImage) -> tuple[EmptyRecord, ...]:
        if len(opened.images) > 1:  # a prediction notes the chance for all of them together
            return ()
        found = (
            empty_record(row, opened.predictions, image.vocabulary, self._ours) for row in opened.annotations
        )
        return tuple(record for record in found if record is not None)

    def _read(
        self, to_example: Callable[[_OpenedTask, TaskImage], Example], opened: _OpenedTask, image: TaskImage
    ) -> Correction:
        example, found = to_example(opened, image), self._survey(opened, image)
        ids = tuple(annotation.id for annotation in opened.annotations)
        return Correction(
            found.task, ids, opened.annotations[0].ground_truth, found.outcomes, example, image.vocabulary,
            found.records, found.empty,
        )  # fmt: skip

    def _survey(self, opened: _OpenedTask, image: TaskImage) -> SurveyedImage:
        require_lists(opened.annotations)
        with _malformed_is_typed():
            regions = [region for row in opened.annotations for region in picture_regions(row.result, image.vocabulary)]
            labels = frozenset(region.label.key for region in regions if region.label is not None)
            records, empty = self._records(opened, image), self._empty(opened, image)
        return SurveyedImage(opened.task.id, image.key, labels, count_records(records), records, empty)


@dataclass(frozen=True)
class _ExampleMaker:
    """Makes examples of annotated images; `read_corrections` has the attributes."""

    label_studio: LabelStudio
    project: int
    embed: Embed
    images: ImageLoader
    longest_side: int

    def __call__(self, opened: _OpenedTask, image: TaskImage) -> Example:
        picture = self.images.load(
            image.address(), task=opened.task.id, project=self.project, label_studio=self.label_studio, urgent=False
        )
        (embedding,) = self.embed([picture.pixels])
        with _malformed_is_typed():
            return annotated_example(
                image.key, opened.annotations, image.vocabulary, picture.pixels, embedding,
                longest_side=self.longest_side, size=picture.size,
            )  # fmt: skip


@dataclass(frozen=True)
class _OpenedTask:
    """An annotated task with its annotations that count, its predictions and its images."""

    task: Task
    annotations: Sequence[Annotation]
    predictions: Sequence[StoredPrediction]
    images: Sequence[TaskImage]


@contextmanager
def _malformed_is_typed() -> Iterator[None]:
    """Make a RegionError of what Python raises on annotations of a form that nobody thought of: they may hold any JSON,
    and must cost no more than their task.
    """
    try:
        yield
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        log.warning("unexpected", exc_info=True)
        problem = f"cannot be read ({type(error).__name__}: {error!s:.100})"
        raise RegionError("its annotations", problem, "Submit them again in Label Studio, or delete them.") from error
