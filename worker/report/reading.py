"""The annotations of a project -> records of what annotators did with its predictions, one task after the other."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from plugin_config.control_arm import in_control_arm
from plugin_config.errors import (
    AnswerMalformed,
    AnswerTooLarge,
    ImageUnavailable,
    LabelStudioError,
    RegionError,
    TaskDataError,
)
from plugin_config.label_studio.annotations import AnnotatedTask, Annotation, fetch_annotation
from plugin_config.label_studio.client import LabelStudio, Task
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.model_version import ModelVersion
from plugin_config.vocabulary import Vocabulary
from worker.label_studio.annotation_maps import counting_annotations
from worker.label_studio.outcomes import RegionRecord, find_parent, region_records
from worker.label_studio.picture_regions import picture_regions
from worker.label_studio.seeded import NONE_SEEDED, SeededOutcomes, count_seeded, holds_seeded, is_seeded
from worker.label_studio.task_images import TaskImage, images_of

log = logging.getLogger(__name__)

Basis = Literal["ours", "nothing", "theirs", "deleted"]
"""What an annotation was made from: a prediction of ours, none, somebody else's, or one that is deleted since."""

_TASKS_AT_ONCE = 50
_NOBODYS = "nobody's"  # no version: where a task has no prediction of ours, none shall count as ours


@dataclass(frozen=True)
class ImageRecord:
    """What an annotator did in one image of a task.

    Attributes:
        key: of the image, see `TaskImage.key`.
        regions: what became of each, predicted or drawn.
        present: keys of the labels that the annotation shows.
        outputs: label key -> the kind of its regions.
    """

    key: str
    regions: tuple[RegionRecord, ...]
    present: frozenset[str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class AnnotationRecord:
    """What an annotator did with a task.

    Attributes:
        task, annotation, annotator: their ids; the annotator None where not known.
        at: when it was last changed, ISO 8601 in UTC.
        basis: what it was made from.
        version: of the prediction it was made from, "<model>-<adapter>" without the labels; "" = not of ours.
        control: whether the task is of the control arm.
        lead_time_s: as `Annotation.lead_time_s`.
        skipped: the annotator skipped the task; there are no images then.
        images: of the task; seeded regions are not among theirs.
        seeded: what the annotator did with seeded regions, where their prediction is still there.
        holds_seeded: whether one was left in an annotation of the task, also in one that does not count.
        created_at: when it was first submitted, as `at`; "" = not known.
    """

    task: int
    annotation: int
    annotator: int | None
    at: str
    basis: Basis
    version: str
    control: bool
    lead_time_s: float | None
    skipped: bool = False
    images: tuple[ImageRecord, ...] = ()
    seeded: SeededOutcomes = NONE_SEEDED
    holds_seeded: bool = False
    created_at: str = ""


@dataclass(frozen=True)
class UnreadTask:
    """A task that is left out of the report, and why; the reason names it."""

    task: int
    reason: str


class HistoryReader:
    """Reads what annotators did in one project. Only one task at a time is held in memory.

    Args:
        label_studio: the client.
        project: its id.
        vocabulary: of the project.
        control_share: the ZEROMASK_CONTROL_SHARE setting.
    """

    def __init__(
        self, label_studio: LabelStudio, project: int, vocabulary: Vocabulary, *, control_share: float
    ) -> None:
        self._label_studio, self._project = label_studio, project
        self._vocabulary, self._control_share = vocabulary, control_share

    def tasks(self) -> list[AnnotatedTask]:
        """The tasks that somebody annotated or skipped.

        Raises:
            LabelStudioError: Label Studio does not answer, or refuses the project.
        """
        return list(self._label_studio.annotated_tasks(self._project, skipped=True))

    def read(self, tasks: Sequence[AnnotatedTask]) -> Iterator[Sequence[AnnotationRecord] | UnreadTask]:
        """Read tasks: the annotations that are learned from, less imported ones, and skips. What is malformed, or
        deleted meanwhile, costs its task alone.

        Raises:
            LabelStudioError: Label Studio does not answer, or refuses the project.
        """
        for start in range(0, len(tasks), _TASKS_AT_ONCE):
            part = {task.id: task.annotations for task in tasks[start : start + _TASKS_AT_ONCE]}
            for task in self._label_studio.tasks(self._project, list(part)):
                try:
                    yield self._task(task, part[task.id])
                except LabelStudioError as error:
                    if not (error.status in (404, 500) or isinstance(error, AnswerTooLarge | AnswerMalformed)):
                        raise  # not about this one task
                    yield UnreadTask(task.id, f"task {task.id}: {error}")
                except (RegionError, TaskDataError, ImageUnavailable) as error:
                    yield UnreadTask(task.id, f"task {task.id}: {error}")
                except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
                    log.warning("unexpected", exc_info=True)  # annotations may hold any JSON
                    reason = f"cannot be read ({type(error).__name__}: {error!s:.100})"
                    yield UnreadTask(task.id, f"task {task.id}: {reason}")

    def _task(self, task: Task, ids: Sequence[int]) -> list[AnnotationRecord]:
        """Records of a task; `ids` are those of its annotations, of which Label Studio lists no cancelled ones."""
        rows = self._label_studio.annotations(task.id)
        counted = [row for row in counting_annotations(rows) if not row.imported]
        others = sorted(set(ids) - {row.id for row in rows})
        fetched = [fetch_annotation(self._label_studio, one, task=task.id) for one in others]
        skips = [row for row in fetched if row.cancelled]
        predictions = self._label_studio.predictions(task.id) if counted else []
        images = images_of(task, self._vocabulary).images if counted else ()
        held = any(holds_seeded(row, find_parent(row, predictions)) for row in rows if not row.cancelled)
        records = [replace(self._record(row, predictions, images), holds_seeded=held) for row in counted]
        return records + [self._skip(row) for row in skips]

    def _record(
        self, row: Annotation, predictions: Sequence[StoredPrediction], images: Sequence[TaskImage]
    ) -> AnnotationRecord:
        if row.malformed:
            remedy = "Submit it again in Label Studio, or delete it."
            raise RegionError(f"annotation {row.id}", f"cannot be read: {row.malformed} and no list", remedy)
        ours = {found.version for found in predictions if ModelVersion.parse(found.version)}
        basis, version = _basis(row, predictions)
        found = tuple(
            ImageRecord(
                image.key, tuple(region_records(row, predictions, image.vocabulary, ours or {_NOBODYS}, draw=True)),
                _present(row, image.vocabulary), {label.key: label.output for label in image.vocabulary.labels},
            )
            for image in images
        )  # fmt: skip
        control = in_control_arm(row.task, self._control_share)
        return AnnotationRecord(row.task, row.id, row.annotator, row.updated_at, basis, version, control,
                                row.lead_time_s, images=found,
                                seeded=count_seeded(row, find_parent(row, predictions)),
                                created_at=row.created_at)  # fmt: skip

    def _skip(self, row: Annotation) -> AnnotationRecord:
        control = in_control_arm(row.task, self._control_share)
        return AnnotationRecord(row.task, row.id, row.annotator, row.updated_at, "nothing", "", control,
                                row.lead_time_s, skipped=True)  # fmt: skip


def _basis(row: Annotation, predictions: Sequence[StoredPrediction]) -> tuple[Basis, str]:
    """What an annotation was made from, and the version where that is ours, without the hash of the labels."""
    parent = find_parent(row, predictions)
    if parent is None:
        origins = (item.get("origin") for item in row.result if isinstance(item, Mapping))
        taken = any(str(origin).startswith("prediction") for origin in origins)
        return ("deleted" if taken else "nothing"), ""
    version = ModelVersion.parse(parent.version)
    return ("theirs", "") if version is None else ("ours", f"{version.model}-{version.adapter}")


def _present(row: Annotation, vocabulary: Vocabulary) -> frozenset[str]:
    regions = picture_regions(row.result, vocabulary)
    labels = (region.label for region in regions if not is_seeded(region.identity))
    return frozenset(label.key for label in labels if label is not None)
