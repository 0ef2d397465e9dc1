"""Annotations as Label Studio keeps them: what people submitted for a task. It must not know what is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Annotation:
    """One submitted annotation.

    Attributes:
        id: of the annotation; `task` it belongs to.
        result: its regions and other answers, as the editor wrote them.
        cancelled: the annotator skipped the task: it says nothing about the image.
        ground_truth: somebody flagged it as the one to trust.
        parent_prediction: the prediction it was made from; None when from none, or when that one was deleted since.
        annotator: the user who made it; None when that user is gone.
        updated_at: last change, ISO 8601 in UTC, so that texts compare as times do.
    """

    id: int
    task: int
    result: Sequence[Mapping[str, Any]]
    cancelled: bool
    ground_truth: bool
    parent_prediction: int | None
    annotator: int | None
    updated_at: str


@dataclass(frozen=True)
class AnnotatedTask:
    """A task with annotations, read without them: enough to tell whether anything changed since.

    Attributes:
        id: of the task.
        annotations: ids of its annotations, cancelled ones too.
        updated_at: last change of the task, its annotations or its predictions, ISO 8601.
    """

    id: int
    annotations: tuple[int, ...]
    updated_at: str


def read_annotation(row: Any) -> Annotation:
    """Read a row of `/api/tasks/N/annotations/`. Raises what a strange row makes Python raise: the client names it."""
    parent, annotator = row.get("parent_prediction"), row.get("completed_by")
    if isinstance(annotator, Mapping):
        annotator = annotator["id"]
    return Annotation(
        id=int(row["id"]),
        task=int(row["task"]),
        result=list(row["result"] or ()),
        cancelled=bool(row.get("was_cancelled")),
        ground_truth=bool(row.get("ground_truth")),
        parent_prediction=int(parent) if parent else None,
        annotator=int(annotator) if annotator else None,
        updated_at=str(row.get("updated_at") or ""),
    )


def read_annotated_task(row: Any) -> AnnotatedTask:
    """Read a row of `/api/tasks/`; as `read_annotation`."""
    ids = row.get("annotations_ids") or ""
    numbers = sorted(int(part) for part in (ids.split(",") if isinstance(ids, str) else ids))
    return AnnotatedTask(int(row["id"]), tuple(numbers), str(row["updated_at"]))
