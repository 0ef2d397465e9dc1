"""The page of all projects: their tasks, the workers, the last errors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from backend.status.page import Box, Page, Part, Row, lead, link, table, text
from backend.status.reading import PROJECTS_A_PAGE, Overview
from backend.status.wording import LabelStudioLinks, count, duration, moment, pace, percent, time_left, version_name
from plugin_config.overview.control import LearningRow, ProjectState, QueueState
from plugin_config.queue.clicks import UnansweredClick
from plugin_config.queue.presence import WorkerState
from plugin_config.queue.states import TaskFailure
from plugin_config.versions.served import ServedCopy

_STATES = {"pending": "waiting", "leased": "at work", "failed": "failed", "done": "done"}
_MOST_WORKERS = 25
_MOST_NOTE = 120  # characters in a row of projects; the page of the project has the whole sentence


def projects_page(found: Overview, *, public: str, message: str = "") -> Page:
    """The page.

    Args:
        found: what it shows.
        public: address of Label Studio as browsers see it; "" = as workers do.
        message: what was done.
    """
    links = LabelStudioLinks(public, found.titles)
    state, copies = found.state, found.copies
    boxes = (
        lead(_sentence(found), more=_troubles(state)),
        counts_box(state.projects, title="Tasks" if found.pages == 1 else "Tasks of these projects"),
        table("projects", "Projects", ("Project", "#Waiting", "#At work", "#Done", "#Failed", "#Pace", "#Time left",
                                       "Served by", "~Notes"),
              [_project(row, found, links) for row in state.projects],
              empty="No project has asked for predictions yet. Connect this backend in a project of Label Studio "
              "(Settings, Model) and choose Actions, Retrieve Predictions."),
        workers_box(state),
        errors_box(state.errors, links, copies, named=True),
        unanswered_box(state.unanswered, links, copies),
        _odd(state),
    )  # fmt: skip
    return Page("Zeromask", boxes, update=f"status/update?page={found.number}", nav=_nav(found), message=message)


def counts_box(states: Sequence[ProjectState], *, title: str = "Tasks", known: int = -1) -> Box:
    """Tasks of projects by state, their pace and the time left.

    Args:
        states: of the projects.
        title: of the section, plain text.
        known: how many tasks Label Studio has; -1 = not known.
    """
    counts = {name: sum(getattr(row.counts, name) for row in states) for name in _STATES}
    per_s = sum(row.per_s for row in states)
    open_tasks = sum(row.counts.pending + row.counts.leased for row in states if not row.paused)
    left = f"time left: {duration(open_tasks / per_s)}" if open_tasks and per_s else ""
    in_all = f"{count(known, 'task')} in Label Studio" if known >= 0 else ""
    told = [f"{per_s * 60:.0f} done a minute" if per_s else "", left, in_all]
    parts = [Part(f"n-{name}", "li", f"<b>{counts[name]:,}</b> {meaning}") for name, meaning in _STATES.items()]
    parts.append(Part("n-pace", "li", text(" · ".join(filter(None, told)))))
    before = f'<section aria-labelledby="counts-title"><h2 id="counts-title">{text(title)}</h2>'
    return Box("counts", tuple(parts), before, "</section>", holder="ul", attributes=' class="counts"')


def workers_box(state: QueueState) -> Box:
    """The workers and learners that live, with their load."""
    clicks = {row.name for row in state.clickers}
    workers = {row.name: row for row in (*state.workers, *state.clickers)}
    rows = [_worker(row, "yes" if row.name in clicks else "no") for row in workers.values()]
    rows += [_worker(row, "learns") for row in state.learners]
    if len(rows) > _MOST_WORKERS:
        rows[_MOST_WORKERS:] = [Row("w-more", (f"{len(rows) - _MOST_WORKERS:,} more are alive", *[""] * 6))]
    return table("workers", "Workers", ("Worker", "Model", "Runs on", "#Tasks it holds", "Answers clicks", "Last seen",
                                        "Trouble"),
                 rows,
                 empty="No worker is alive: nothing is predicted. Start one with `zeromask worker`, or "
                 "`zeromask up`.")  # fmt: skip


def errors_box(
    errors: Sequence[TaskFailure], links: LabelStudioLinks, copies: Mapping[int, ServedCopy], *, named: bool
) -> Box:
    """The last errors with their remedies; `named`: whether of several projects."""
    rows = []
    for number, row in enumerate(errors):
        key = f"e{number}"
        task = link(f"{key}-task", links.task(row.project, row.task, copies.get(row.project)), f"task {row.task}")
        where = [text(links.name(row.project), most=60)] if named else []
        rows.append(Row(key, (task, *where, text(moment(row.at)), text(row.reason))))
    columns = ("Task", *(["Project"] if named else []), "When", "~What happened, and what to do")
    return table("errors", "Last errors", columns, rows, empty="Nothing has failed." if named else
                 "Of the last 100 failures of all projects, none is of this one.")  # fmt: skip


def unanswered_box(
    rows: Sequence[UnansweredClick], links: LabelStudioLinks, copies: Mapping[int, ServedCopy]
) -> Box:
    """Clicks and test requests that got no mask."""
    made = []
    for number, row in enumerate(rows):
        key = f"c{number}"
        task = link(f"{key}-task", links.task(row.project, row.task, copies.get(row.project)), f"task {row.task}")
        made.append(Row(key, (task, text(moment(row.at)), text(row.reason))))
    return table("clicks", "Clicks and test requests without a mask", ("Task", "When", "~Why"), made,
                 empty="None.")  # fmt: skip


def _sentence(found: Overview) -> str:
    """Without figures that change all the time: screen readers tell it whenever it changes."""
    state = found.state
    busy = sum(bool(row.counts.pending + row.counts.leased) and not row.paused for row in state.projects)
    failed, paused = (sum(values) for values in (
        (row.counts.failed for row in state.projects), (row.paused for row in state.projects)))  # fmt: skip
    parts = [_which(found), f"{busy} at work" if busy else "nothing to do"]
    parts += [f"{paused} paused"] * bool(paused) + [count(failed, "failed task")] * bool(failed)
    workers = {row.name for row in (*state.workers, *state.clickers)}
    return f"{', '.join([*parts, count(len(workers), 'worker')])}."


def _which(found: Overview) -> str:
    """The projects that the figures are of."""
    if found.pages == 1:
        return count(found.projects, "project")
    before = (found.number - 1) * PROJECTS_A_PAGE
    return f"Projects {before + 1:,} to {before + len(found.state.projects):,} of {found.projects:,}"


def _troubles(state: QueueState) -> str:
    """Why no masks come, where something as a whole is in the way."""
    told = [f"{row.name}: {row.trouble}" for row in (*state.workers, *state.learners) if row.trouble]
    if not state.learners:
        told.append("No learner runs: corrections are not learned from. Start `zeromask worker --queue finetune`.")
    return "".join(f' <span class="trouble">{text(sentence)}</span>' for sentence in told[:3])


def _project(row: ProjectState, found: Overview, links: LabelStudioLinks) -> Row:
    key, counts = f"p{row.project}", row.counts
    copy = found.copies.get(row.project)
    learning = next((one for one in found.state.learning if one.project == row.project), None)
    total = counts.pending + counts.leased + counts.done + counts.failed
    bar = f'<progress max="{total}" value="{counts.done}" aria-label="{percent(counts.done, total)} done"></progress>'
    return Row(key, (
        link(f"{key}-link", f"status/project?id={row.project}", links.name(row.project)[:60]),
        f"{counts.pending:,}", f"{counts.leased:,}", f"{counts.done:,} {bar if total else ''}",
        f'<span class="trouble">{counts.failed:,}</span>' if counts.failed else "0",
        pace(row.per_s), text(time_left(row)), text(version_name(copy.served) if copy else ""),
        text(_note(row, learning), most=_MOST_NOTE),
    ))  # fmt: skip


def _note(row: ProjectState, learning: LearningRow | None) -> str:
    notes = ["Paused."] * row.paused
    if learning is not None and learning.trouble:
        notes.append(learning.trouble)
    if learning is not None and learning.progress.state in ("learning", "blocked"):
        notes.append(f"{learning.progress.state}: {learning.progress.detail}.")
    return " ".join([*notes, *row.remarks])


def _worker(row: WorkerState, clicks: str) -> Row:
    about = row.about
    seen = "now" if row.age_s < 5 else f"{row.age_s:.0f} s ago"
    return Row(f"w{hashlib.sha256(f'{row.name} {clicks}'.encode(errors='replace')).hexdigest()[:8]}", (
        text(row.name, most=60), text(about.get("model", ""), most=60), text(about.get("device", ""), most=20),
        text(about.get("tasks", ""), most=10), text(about.get("click", "") or clicks, most=120), seen,
        f'<span class="trouble">{text(row.trouble)}</span>',
    ))  # fmt: skip


def _odd(state: QueueState) -> Box:
    rows = [
        Row(f"o{number}", (text(row.key, most=80), text(moment(row.at)), text(row.what)))
        for number, row in enumerate(state.quarantined)
    ]
    return table("odd", "In Redis, and not written by zeromask: set aside", ("Key", "When", "~What"), rows,
                 empty="Nothing.")  # fmt: skip


def _nav(found: Overview) -> str:
    if found.pages == 1:
        return ""
    before = f'<a href="status?page={found.number - 1}" rel="prev">Previous projects</a>' if found.number > 1 else ""
    after = f'<a href="status?page={found.number + 1}" rel="next">Next projects</a>' \
        if found.number < found.pages else ""  # fmt: skip
    return f"{before} <span>Page {found.number} of {found.pages}</span> {after}"
