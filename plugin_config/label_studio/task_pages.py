"""Rows of tasks, page by page, while tasks come and go.

Label Studio answers HTTP 404 for a page past the end, and a task that is deleted moves all later ones to an earlier
page. So the next page is always the first one of the tasks with a higher id. Its TASK_API_PAGE_SIZE_MAX makes pages
shorter than was asked for, without a word: only the total tells that more follow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plugin_config.label_studio.annotations import ApiClient
from plugin_config.label_studio.transport import unexpected_answer

_PAGE = 500


def task_rows(
    label_studio: ApiClient, project: int, *, include: str, either: Sequence[Mapping[str, Any]] = (), after: int = 0
) -> Iterator[Any]:
    """Every task of a project once, by id.

    Args:
        label_studio: the client.
        project: its id.
        include: columns beside those that every row has, comma list.
        either: filters of which one must pass; none = all tasks.
        after: only tasks with a higher id.

    Raises:
        LabelStudioError: it does not answer, or refuses.
    """
    last, left = after, True
    while left:
        rows, total = _first_page(label_studio, project, size=_PAGE, include=include, query=_after(last, either))
        rows = [row for row in rows if _id(row) > last]
        yield from rows
        last, left = max(map(_id, rows), default=0), 0 < len(rows) < total


def chosen_rows(label_studio: ApiClient, project: int, ids: Sequence[int], *, include: str) -> Iterator[Any]:
    """Those of some tasks that (still) exist in a project, in one request where its pages are not limited.

    Args:
        label_studio: the client.
        project: its id.
        ids: of the tasks.
        include: as of `task_rows`.

    Raises:
        LabelStudioError: it does not answer, or refuses.
    """
    wanted = list(ids)
    while wanted:
        query = {"selectedItems": {"all": False, "included": wanted}}
        rows, total = _first_page(label_studio, project, size=len(wanted), include=include, query=query)
        asked = set(wanted)
        found = {number: row for row in rows if (number := _id(row)) in asked}
        yield from found.values()
        is_cut = len(found) > 0 and len(rows) < total
        wanted = [number for number in wanted if number not in found] if is_cut else []


def _after(last: int, either: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What Label Studio is asked for: of a filter and its child both must pass."""
    later = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
    items = [{**one, "child_filter": later} for one in either] or [later]
    if not last:
        items = list(map(dict, either))
    query: dict[str, Any] = {"filters": {"conjunction": "or", "items": items}} if items else {}
    return {**query, "ordering": ["tasks:id"]}


def _first_page(
    label_studio: ApiClient, project: int, *, size: int, include: str, query: Mapping[str, Any]
) -> tuple[list[Any], int]:
    """Its rows, and how many there are on all pages."""
    # `fields=all` is what fills predictions_model_versions; `include` keeps the heavy columns away.
    answer = label_studio.request("GET", "/api/tasks/", params={
        "project": project, "page": 1, "page_size": size, "fields": "all", "query": json.dumps(query),
        "include": f"id,{include},predictions_model_versions,total_annotations",
    })  # fmt: skip
    try:
        return list(answer["tasks"]), int(answer["total"])
    except (KeyError, TypeError, ValueError) as error:
        raise unexpected_answer("tasks", error) from error


def _id(row: Any) -> int:
    try:
        return int(row["id"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise unexpected_answer("a task", error) from error
