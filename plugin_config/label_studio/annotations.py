"""Annotations as Label Studio keeps them: what people submitted for a task, and when."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from plugin_config.json_records import json_name
from plugin_config.label_studio.transport import unexpected_answer

ANNOTATED: Mapping[str, Any] = {
    "filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": 0,
}  # fmt: skip
"""Label Studio's filter for tasks with an annotation that is not cancelled."""

SKIPPED: Mapping[str, Any] = {
    "filter": "filter:tasks:cancelled_annotations", "operator": "greater", "type": "Number", "value": 0,
}  # fmt: skip
"""Label Studio's filter for tasks that somebody skipped."""

_MOST_SECONDS = 1e12  # of a lead time; a larger one, or one that is no number, is not known


class ApiClient(Protocol):
    """What this module needs of `client.LabelStudio`, which imports this module."""

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Make an API call; see `client.LabelStudio.request`."""


@dataclass(frozen=True)
class Annotation:
    """One submitted annotation.

    Attributes:
        id: of the annotation; `task` it belongs to.
        result: its regions and other answers, as the editor or an import wrote them: any JSON values.
        cancelled: the annotator skipped the task, so that it says nothing about the image.
        ground_truth: it is marked as ground truth.
        parent_prediction: the prediction it was made from; None where there was none or it is deleted since.
        annotator: the user who made it; None where that user is deleted, or not known.
        updated_at: last change, ISO 8601 in UTC, so that texts compare as times do.
        imported: it came with an imported task, and nobody submitted it in Label Studio since. (Label Studio flags such
            annotations as ground truth unless the file says otherwise.)
        malformed: why its result cannot be read; "" = it is a list.
        lead_time_s: seconds from opening the task to submitting, as the editor measured them and added up over later
            changes, the time of an open page that nobody looked at among them; None where it is not known.
        created_at: when it was first submitted, as `updated_at`; "" = not known.
    """

    id: int
    task: int
    result: Sequence[Any]
    cancelled: bool
    ground_truth: bool
    parent_prediction: int | None
    annotator: int | None
    updated_at: str
    imported: bool = False
    malformed: str = ""
    lead_time_s: float | None = None
    created_at: str = ""


@dataclass(frozen=True)
class AnnotatedTask:
    """A task with annotations, read without them: enough to see whether anything changed since.

    Attributes:
        id: of the task.
        annotations: ids of its annotations, cancelled ones too.
        updated_at: last change of the task, its annotations or its predictions, ISO 8601.
    """

    id: int
    annotations: tuple[int, ...]
    updated_at: str


@dataclass(frozen=True)
class AnnotationMark:
    """The state of a project's annotations, cheap to ask for and to compare.

    Attributes:
        tasks: how many tasks have annotations.
        latest: when one of these tasks last changed, as Label Studio writes it; "" where there is none.
        changed: how many tasks, at least, changed or lost their annotations since an earlier mark.
    """

    tasks: int
    latest: str
    changed: int

    def __str__(self) -> str:
        return f"{self.tasks} {self.latest}"


def annotation_mark(label_studio: ApiClient, project: int, *, tasks: int = 0, latest: str = "") -> AnnotationMark:
    """Ask for the mark of a project: one or two small requests, however many annotations there are.

    Args:
        label_studio: the client.
        project: the project's id.
        tasks: of the earlier mark; 0 where there is none.
        latest: of the earlier mark.

    Raises:
        LabelStudioError: it does not answer, or refuses.
    """
    now, newest = _count_annotated(label_studio, project, [])
    if not latest:
        return AnnotationMark(now, newest, now)
    after = {"filter": "filter:tasks:updated_at", "operator": "greater", "type": "Datetime", "value": latest}
    newer = _count_annotated(label_studio, project, [after])[0] if newest != latest else 0
    return AnnotationMark(now, newest, newer + max(0, tasks - now))


def fetch_annotation(label_studio: ApiClient, annotation: int, *, task: int) -> Annotation:
    """One annotation of a task, which may be cancelled: those Label Studio does not list.

    Raises:
        LabelStudioError: it does not answer, or refuses; status 404 when the annotation is gone.
    """
    row = label_studio.request("GET", f"/api/annotations/{annotation}/")
    try:
        return read_annotation(row, task)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unexpected_answer("an annotation", error) from error


def read_annotation(row: Any, task: int) -> Annotation:
    """Read a row of `/api/tasks/N/annotations/`. What Python raises on a row that is no annotation is left to the
    caller; of an annotation that is one, what is null or malformed counts as not known.

    Args:
        row: of the answer.
        task: N.
    """
    result = row["result"]
    malformed = "" if isinstance(result, list) else f"its result is {json_name(result)}"
    annotator = row.get("completed_by")
    if isinstance(annotator, Mapping):
        annotator = annotator.get("id")
    return Annotation(
        id=int(row["id"]),
        task=_number(row.get("task")) or task,
        result=result if isinstance(result, list) else [],
        cancelled=bool(row.get("was_cancelled")),
        ground_truth=bool(row.get("ground_truth")),
        parent_prediction=_number(row.get("parent_prediction")),
        annotator=_number(annotator),
        updated_at=str(row.get("updated_at") or ""),
        imported=_is_imported(row, annotator),
        malformed=malformed,
        lead_time_s=_seconds(row.get("lead_time")),
        created_at=str(row.get("created_at") or ""),
    )


def read_annotated_task(row: Any) -> AnnotatedTask:
    """Read a row of `/api/tasks/`; malformed ones as in `read_annotation`."""
    ids = row.get("annotations_ids") or ""
    numbers = sorted(int(part) for part in (ids.split(",") if isinstance(ids, str) else ids))
    return AnnotatedTask(int(row["id"]), tuple(numbers), str(row["updated_at"]))


def _is_imported(row: Mapping[str, Any], annotator: object) -> bool:
    """Whether nobody submitted an annotation in Label Studio, which notes who does in `updated_by`. A user who was
    deleted since is noted neither there nor as the annotator.
    """
    if row.get("updated_by") is not None:
        return False
    return row.get("import_id") is not None or ("updated_by" in row and annotator is not None)


def _number(value: Any) -> int | None:
    """An id; None where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _seconds(value: Any) -> float | None:
    """A finite number of seconds; None where it is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST_SECONDS
    return float(value) if number else None


def _count_annotated(
    label_studio: ApiClient, project: int, filters: Sequence[Mapping[str, Any]]
) -> tuple[int, str]:
    """How many annotated tasks pass the filters, and when the latest of them changed."""
    filtered = {"conjunction": "and", "items": [ANNOTATED, *filters]}
    query = json.dumps({"filters": filtered, "ordering": ["-tasks:updated_at"]})
    answer = label_studio.request("GET", "/api/tasks/", params={
        "project": project, "page": 1, "page_size": 1, "fields": "all", "include": "id,updated_at", "query": query,
    })  # fmt: skip
    try:
        return int(answer["total"]), str(answer["tasks"][0]["updated_at"]) if answer["tasks"] else ""
    except (KeyError, TypeError, ValueError, LookupError) as error:
        raise unexpected_answer("annotated tasks", error) from error
