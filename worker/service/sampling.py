"""Whether the order of a project's tasks is ours to set: its sampling, and the view that shows the order.

Both are set once. What a person chooses afterwards is theirs.
"""

from __future__ import annotations

import logging

from plugin_config.errors import LabelStudioError, LabelStudioFailing, LabelStudioUnreachable
from plugin_config.label_studio.client import Project
from plugin_config.label_studio.next_task import BY_SCORE, DEFAULT_SAMPLING, make_view, set_sampling, view_titles
from worker.service.context import WorkerContext

log = logging.getLogger(__name__)

VIEW_TITLE = "Zeromask: next"


def left_alone(context: WorkerContext, project: Project, version: str) -> str | None:
    """Why the order is a person's, a sentence; "" = it is ours to set; None = not now, as no prediction of the present
    version is shown yet.

    A new project's sampling is set once: whoever changes it afterwards keeps what they chose, until they want the order
    to be set again (`zeromask next --resume`).

    Raises:
        LabelStudioError: it does not answer, or refuses.
    """
    order, noted = context.order, context.order.sampling(project.id)
    if project.model_version != version:
        if context.ledger.shown_version(project.id) != version:
            return None
        shown = project.model_version or "no version"
        remark = f"the order of tasks is left alone: a person chose to show predictions of {shown}"
        return f"{remark}; it is set again once those of {version} are shown" if noted == "resume" else remark
    if project.sampling == BY_SCORE:
        if noted not in ("set", "found"):
            order.note_sampling(project.id, "found")
        return ""
    unset = project.sampling == DEFAULT_SAMPLING and noted in ("", "back")
    if unset and not noted and _is_known_there(context, project.id):
        order.note_sampling(project.id, "theirs", first=True)
        unset = False
    if unset or noted == "resume":
        set_sampling(context.label_studio, project.id, BY_SCORE)
        order.note_sampling(project.id, "set")
        log.info("project %d: annotators get the image that teaches most next", project.id)
        return ""
    return f"the order of tasks is left alone: a person chose {project.sampling!r}"


def _is_known_there(context: WorkerContext, project: int) -> bool:
    """Whether Label Studio has our view though nothing is noted of it: Redis was lost. Then our sampling was set once,
    and what is there now is a person's choice.
    """
    if context.order.view(project):
        return False
    try:
        return VIEW_TITLE in view_titles(context.label_studio, project)
    except (LabelStudioUnreachable, LabelStudioFailing):
        raise
    except LabelStudioError:  # told where the view is made
        return False


def keep_view(context: WorkerContext, project: int) -> str:
    """Make the view once; returns what people should know, "" = nothing.

    Not before a project has another one: Label Studio shows its default view only while there is none.

    Raises:
        LabelStudioUnreachable, LabelStudioFailing: Label Studio cannot answer now.
    """
    if context.order.view(project):
        return ""
    try:
        titles = view_titles(context.label_studio, project)
        if not titles:
            return ""
        found = VIEW_TITLE in titles
        if not found:
            make_view(context.label_studio, project, VIEW_TITLE)
    except (LabelStudioUnreachable, LabelStudioFailing):
        raise
    except LabelStudioError as error:
        return f"the view {VIEW_TITLE!r} cannot be made: {error}"
    context.order.note_view(project, "found" if found else "made")
    return ""


def give_sampling_back(context: WorkerContext, project: Project) -> bool:
    """Set the project's sampling to the default, where we set it; False where it goes by score by a person's choice.

    Raises:
        LabelStudioError: it does not answer, or refuses.
    """
    if project.sampling != BY_SCORE:
        return True
    if context.order.sampling(project.id) != "set":
        return False
    set_sampling(context.label_studio, project.id, DEFAULT_SAMPLING)
    context.order.note_sampling(project.id, "back")
    return True
