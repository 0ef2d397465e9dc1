"""The page of one project: its tasks with reasons, what may be done with them, labels, learning, versions."""

from __future__ import annotations

import hashlib

from backend.status.page import Box, Page, Part, Row, button, lead, link, plain, table, text
from backend.status.projects_page import counts_box, errors_box, unanswered_box, workers_box
from backend.status.reading import ProjectView
from backend.status.version_boxes import curve_box, judged_box, verdict_box, versions_box
from backend.status.wording import LabelStudioLinks, count, version_name
from plugin_config.model_version import ModelVersion
from plugin_config.overview.control import ProjectState
from plugin_config.overview.tasks import TaskRow

_MOST_ERRORS = 10


def project_page(found: ProjectView, *, public: str, token: str, message: str = "") -> Page:
    """The page.

    Args:
        found: what it shows.
        public: address of Label Studio as browsers see it; "" = as workers do.
        token: of its form, see `forms`.
        message: what was done.
    """
    links = LabelStudioLinks(public, {found.project: found.title} if found.title else {})
    copies = {} if found.copy is None else {found.project: found.copy}
    (state,) = found.state.projects
    errors = [row for row in found.state.errors if row.project == found.project][:_MOST_ERRORS]
    clicks = [row for row in found.state.unanswered if row.project == found.project][:_MOST_ERRORS]
    boxes = (
        lead(_sentence(state, found)),
        _actions(state),
        counts_box([state], known=found.task_count),
        _state_box("failed", "Failed tasks", found.tasks.failed, found, links, retry=True),
        plain("notes", "Labels and notes", _notes(found, state)),
        verdict_box(found),
        curve_box(found),
        versions_box(found),
        judged_box(found),
        errors_box(errors, links, copies, named=False),
        unanswered_box(clicks, links, copies),
        _state_box("leased", "Tasks at work", found.tasks.leased, found, links),
        _state_box("pending", "Next tasks in turn", found.tasks.pending, found, links),
        workers_box(found.state),
    )
    address = links.project(found.project, found.copy)
    outside = link("label-studio", address, "Open in Label Studio") if address else ""
    form = {"token": token, "project": str(found.project)}
    return Page(links.name(found.project), boxes, root="../", update=f"update?id={found.project}",
                nav=f'<a href="../status">All projects</a> {outside}', form=form, message=message)  # fmt: skip


def _sentence(state: ProjectState, found: ProjectView) -> str:
    left = state.counts.pending + state.counts.leased
    workers = {row.name for row in (*found.state.workers, *found.state.clickers)}
    if state.paused:
        told = "Paused: no more tasks are taken until it is resumed"
    elif left:
        told = "At work" if workers else "Tasks wait, and no worker is alive"
    else:
        told = "Nothing to do"
    failed = f", {count(state.counts.failed, 'failed task')}" if state.counts.failed else ""
    served = f", served by {version_name(found.copy.served)}" if found.copy is not None else ""
    return f"{told}{failed}{served}."


def _actions(state: ProjectState) -> Box:
    """Buttons without figures: one that is replaced while it is pressed would lose the click."""
    toggle = ("toggle", "resume", "Resume") if state.paused else ("toggle", "pause", "Pause")
    buttons = (toggle, ("retry", "retry", "Retry failed tasks"), ("cancel", "cancel", "Cancel open tasks"))
    parts = tuple(Part(f"do-{key}", "span", button(key, action, shown)) for key, action, shown in buttons)
    return Box("actions", parts, attributes=' class="actions" role="group" aria-label="Actions"')


def _state_box(
    name: str, title: str, rows: tuple[TaskRow, ...], found: ProjectView, links: LabelStudioLinks, *,
    retry: bool = False,
) -> Box:  # fmt: skip
    made = []
    for row in rows:
        task = row.ref.task
        # By task, not by place: where a row above goes away, a hand or the focus on a button stays at its own task.
        key = f"{name}-{task}-{hashlib.sha256(row.ref.version.encode(errors='replace')).hexdigest()[:8]}"
        shown = link(f"{key}-task", links.task(found.project, task, found.copy), f"task {task}")
        again = [button(f"{key}-retry", f"retry:{task}", "Retry", described=f"Retry task {task}")] if retry else []
        made.append(Row(key, (shown, text(_shown(row.ref.version), most=60), text(row.detail, most=500), *again)))
    columns = ("Task", "Version", "~Why" if retry else "Note", *(["Again"] if retry else []))
    return table(name, title, columns, made, empty="None.")


def _shown(version: str) -> str:
    parsed = ModelVersion.parse(version)
    return version_name(parsed.adapter) if parsed else version


def _notes(found: ProjectView, state: ProjectState) -> list[Part]:
    labels = [f"Labels: {remark}" for remark in found.label_remarks]
    others = [remark for remark in state.remarks if remark not in found.label_remarks]
    told = [*labels, *others] or ["The model can read every label, and nothing else is to be said."]
    if found.copy is None and not labels:
        told = [*others, "No worker has read the labels of this project yet."]
    return [Part(f"note-{number}", "p", text(sentence, most=500)) for number, sentence in enumerate(told[:40])]
