"""How the annotations of a project stand, told by one or two small requests however many there are.

It must not know what is in an annotation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plugin_config.errors import LabelStudioError
from plugin_config.label_studio.client import LabelStudio


@dataclass(frozen=True)
class AnnotationMark:
    """How the annotations of a project stand.

    Attributes:
        tasks: tasks that have any.
        latest: when one of these last changed, in Label Studio's words; "" where none has any.
        changed: at least so many of them are new, changed or gone since the earlier mark.
    """

    tasks: int
    latest: str
    changed: int

    def __str__(self) -> str:
        return f"{self.tasks} {self.latest}"


def annotation_mark(label_studio: LabelStudio, project: int, *, tasks: int = 0, latest: str = "") -> AnnotationMark:
    """Look how the annotations stand.

    Args:
        label_studio: where to ask.
        project: the project.
        tasks: the earlier mark's `tasks`; 0 = there is none.
        latest: the earlier mark's `latest`.

    Raises:
        LabelStudioError: it does not answer, or refuses.
    """
    now, newest = _annotated(label_studio, project, [])
    if not latest:
        return AnnotationMark(now, newest, now)
    after = {"filter": "filter:tasks:updated_at", "operator": "greater", "type": "Datetime", "value": latest}
    newer = _annotated(label_studio, project, [after])[0] if newest != latest else 0
    return AnnotationMark(now, newest, newer + max(0, tasks - now))


def _annotated(label_studio: LabelStudio, project: int, also: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    some = {"filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": 0}
    filters = {"conjunction": "and", "items": [some, *also]}
    query = json.dumps({"filters": filters, "ordering": ["-tasks:updated_at"]})
    answer = label_studio.request("GET", "/api/tasks/", params={
        "project": project, "page": 1, "page_size": 1, "fields": "all", "include": "id,updated_at", "query": query,
    })  # fmt: skip
    try:
        return int(answer["total"]), str(answer["tasks"][0]["updated_at"]) if answer["tasks"] else ""
    except (KeyError, TypeError, ValueError, LookupError) as error:
        remedy = "This version of Label Studio is not known here; 1.23 is."
        told = "Label Studio's answer about annotated tasks"
        raise LabelStudioError(told, f"is not as expected ({error!r})", remedy) from error
