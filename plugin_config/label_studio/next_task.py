"""The order in which Label Studio hands out tasks, as far as its free edition can be told.

"Label All Tasks" asks `/api/dm/actions?id=next_task` with an empty body. Label Studio 1.23 then returns, of the tasks
that are not finished, that this annotator has not seen, and that no other one has open:

- with `maximum_annotations` above 1, first one at random of those with the most annotations by others;
- with "Uncertainty sampling", the one whose prediction of the project's `model_version` has the lowest score; the page
  offers this for the Enterprise edition only, the API takes it in both. Tasks without such a prediction come last, at
  random. (The order becomes random with two members of the project; the free edition makes no members.)
- with "Sequential sampling", the default, the one with the lowest id, and with "Uniform sampling" any.

"Label Tasks As Displayed" returns the first task of the view that is shown, even one that another annotator has open.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from plugin_config.errors import LabelStudioError
from plugin_config.label_studio.annotations import ANNOTATED, ApiClient
from plugin_config.label_studio.transport import unexpected_answer

DEFAULT_SAMPLING, BY_SCORE = "Sequential sampling", "Uncertainty sampling"
"""Values of a project's `sampling`: a new project's, and the one that goes by the scores of predictions."""

_SKIPPED: Mapping[str, Any] = {**ANNOTATED, "filter": "filter:tasks:cancelled_annotations"}
_PAGE = 500
# Columns that the Data Manager hides in a new view, without the score of predictions; those with the results of all
# annotations and predictions would make it slow.
_HIDDEN = (
    "inner_id", "annotations_results", "annotations_ids", "predictions_model_versions", "predictions_results",
    "file_upload", "storage_filename", "created_at", "updated_at", "updated_by", "avg_lead_time", "draft_exists",
)  # fmt: skip


@dataclass(frozen=True)
class SeenTask:
    """A task that a person annotated or skipped.

    Attributes:
        id: of the task.
        annotated: whether it has an annotation that is not cancelled; else it was skipped only.
    """

    id: int
    annotated: bool


def count_seen(label_studio: ApiClient, project: int) -> tuple[int, str]:
    """How many tasks a person annotated or skipped, and when one of them last changed, as Label Studio writes it.

    Raises:
        LabelStudioError: it does not answer, or refuses.
    """
    rows, total = _seen_page(label_studio, project, page=1, size=1, since="", ordering="-tasks:updated_at")
    try:
        return total, str(rows[0]["updated_at"]) if rows else ""
    except (KeyError, TypeError) as error:
        raise unexpected_answer("tasks that were seen", error) from error


def seen_tasks(label_studio: ApiClient, project: int, *, since: str = "") -> Iterator[SeenTask]:
    """The tasks that a person annotated or skipped, page by page.

    Args:
        label_studio: the client.
        project: its id.
        since: only those changed after this moment, as `count_seen` returns it; "" = all.

    Raises:
        LabelStudioError: it does not answer, or refuses.
    """
    page, found, total = 1, 0, 1
    while found < total:
        try:
            rows, total = _seen_page(label_studio, project, page=page, size=_PAGE, since=since, ordering="tasks:id")
        except LabelStudioError as error:
            if page > 1 and error.status == 404:  # past the end: tasks were deleted meanwhile
                return
            raise
        if not rows:
            return
        try:
            yield from [SeenTask(int(row["id"]), int(row.get("total_annotations") or 0) > 0) for row in rows]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise unexpected_answer("a task that was seen", error) from error
        page, found = page + 1, found + len(rows)


def set_sampling(label_studio: ApiClient, project: int, sampling: str) -> None:
    """Set how "Label All Tasks" chooses the next task: DEFAULT_SAMPLING or BY_SCORE.

    Raises:
        LabelStudioError: it does not answer, or refuses.
    """
    label_studio.request("PATCH", f"/api/projects/{project}/", json={"sampling": sampling})


def set_score(label_studio: ApiClient, prediction: int, score: float) -> None:
    """Change the score of a prediction; its regions stay as they are. Label Studio counts it as a change of the task.

    Raises:
        LabelStudioError: it does not answer, or refuses; status 404 where the prediction was deleted.
    """
    label_studio.request("PATCH", f"/api/predictions/{prediction}/", json={"score": score})


def view_titles(label_studio: ApiClient, project: int) -> list[str]:
    """The titles of the tabs of a project's Data Manager; "" for one without.

    Raises:
        LabelStudioError: it does not answer, or refuses.
    """
    rows = label_studio.request("GET", "/api/dm/views/", params={"project": project})
    try:
        return [str((row.get("data") or {}).get("title") or "") for row in rows]
    except (TypeError, AttributeError) as error:
        raise unexpected_answer("the views of a project", error) from error


def make_view(label_studio: ApiClient, project: int, title: str) -> None:
    """Make a tab of the Data Manager: the tasks without annotations, the lowest score first, with the score beside.

    Raises:
        LabelStudioError: it does not answer, or refuses.
    """
    open_tasks = {**ANNOTATED, "operator": "equal"}
    hidden = [f"tasks:{column}" for column in _HIDDEN]
    data = {
        "title": title, "type": "list", "target": "tasks", "ordering": ["tasks:predictions_score"],
        "filters": {"conjunction": "and", "items": [open_tasks]},
        "hiddenColumns": {"explore": hidden, "labeling": hidden},
    }  # fmt: skip
    label_studio.request("POST", "/api/dm/views/", json={"project": project, "data": data})


def _seen_page(
    label_studio: ApiClient, project: int, *, page: int, size: int, since: str, ordering: str
) -> tuple[list[Any], int]:
    """Rows of one page, and how many tasks there are on all. A child filter is one that must hold, too."""
    after = {"filter": "filter:tasks:updated_at", "operator": "greater", "type": "Datetime", "value": since}
    items = [{**seen, "child_filter": after} if since else seen for seen in (ANNOTATED, _SKIPPED)]
    query = json.dumps({"filters": {"conjunction": "or", "items": items}, "ordering": [ordering]})
    answer = label_studio.request("GET", "/api/tasks/", params={
        "project": project, "page": page, "page_size": size, "fields": "all", "query": query,
        "include": "id,updated_at,total_annotations",
    })  # fmt: skip
    try:
        return list(answer["tasks"]), int(answer["total"])
    except (KeyError, TypeError, ValueError) as error:
        raise unexpected_answer("tasks that were seen", error) from error
