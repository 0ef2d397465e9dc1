"""`zeromask status`: the queue at a glance, live in the terminal, once, or as one JSON line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from plugin_config.errors import QueueUnavailable
from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.local.supervisor import stop_on_signals
from plugin_config.model_version import ZEROSHOT
from plugin_config.overview.control import LearningRow, ProjectState, QueueControl, QueueState
from plugin_config.queue.clicks import UnansweredClick
from plugin_config.queue.states import TaskFailure
from plugin_config.settings import Settings
from plugin_config.versions.verdicts import CORRECTIONS

_EVERY_S = 1.0
_LEARNING = {"idle": "up to date", "waiting": "waits", "learning": "learns now", "blocked": "cannot"}


@click.command()
@click.option("--once", is_flag=True, help="print it once, as is also done where there is no terminal")
@click.option("--json", "for_programs", is_flag=True, help="print it once, as one JSON line")
@click.option("--errors", default=5, show_default=True, help="how many of the last errors to show")
def status(*, once: bool, for_programs: bool, errors: int) -> None:
    """Show projects, workers and errors, live until Ctrl-C."""
    settings = Settings.from_env(os.environ)
    console = Console()
    with suppress(KeyboardInterrupt), connect_briefly(settings) as redis:
        control = QueueControl(redis, settings)
        if for_programs:
            click.echo(json.dumps(as_json(control.state(errors=errors))))
        elif once or not console.is_terminal:
            console.print(render(control.state(errors=errors)))
        else:
            _show_live(control, console, errors)


def render(state: QueueState) -> Group:
    """The state as tables for a terminal."""
    learning = _learning(state) if state.learning else []
    odd = [_odd(state)] if state.quarantined else []
    errors = _reasons("Last errors; `zeromask retry PROJECT` queues these tasks again", state.errors)
    clicks = [_reasons("Last clicks and test requests without a mask", state.unanswered)] if state.unanswered else []
    return Group(*_projects(state), *learning, *_workers(state), errors, *clicks, *odd)


def as_json(state: QueueState) -> dict[str, Any]:
    """The state for programs; times in seconds, `eta_s` null while no task gets done."""
    return {
        "projects": [
            {
                "project": row.project, "title": row.title, "pending": row.counts.pending, "leased": row.counts.leased,
                "done": row.counts.done, "failed": row.counts.failed, "paused": row.paused,
                "tasks_per_s": round(row.per_s, 3), "eta_s": None if row.eta_s is None else round(row.eta_s),
                "remarks": list(row.remarks),
            }
            for row in state.projects
        ],
        "workers": [{"name": row.name, "age_s": round(row.age_s, 1), **row.about} for row in state.workers],
        "learners": [{"name": row.name, "age_s": round(row.age_s, 1), **row.about} for row in state.learners],
        "clickers": [{"name": row.name, "age_s": round(row.age_s, 1), **row.about} for row in state.clickers],
        "unanswered_clicks": [
            {"at": row.at.isoformat(timespec="seconds"), "project": row.project, "task": row.task,
             "reason": row.reason}
            for row in state.unanswered
        ],
        "learning": [
            {"project": row.project, "model": row.model, "served": row.served, "state": row.progress.state,
             "detail": row.progress.detail, "at": row.progress.at, "trouble": row.trouble,
             "verdict": None if row.verdict is None else asdict(row.verdict)}
            for row in state.learning
        ],
        "errors": [
            {"at": row.at.isoformat(timespec="seconds"), "project": row.project, "task": row.task,
             "version": row.version, "reason": row.reason}
            for row in state.errors
        ],
        "odd": [
            {"at": row.at.isoformat(timespec="seconds"), "key": row.key, "what": row.what} for row in state.quarantined
        ],
    }  # fmt: skip


def _show_live(control: QueueControl, console: Console, errors: int) -> None:
    """Show the state until Ctrl-C, which raises KeyboardInterrupt, or until the terminal is closed."""
    shown: Group | Text = render(control.state(errors=errors))
    # Without rich's thread: an error it meets, such as a closed terminal, would end nothing but the thread.
    with stop_on_signals(), Live(shown, console=console, auto_refresh=False) as live:
        while console.is_terminal:  # a closed terminal is none any more, and rich writes nothing to it
            time.sleep(_EVERY_S)
            try:
                shown = render(control.state(errors=errors))
            except QueueUnavailable as error:  # Redis may be restarting: it is asked again
                shown = Text(str(error), style="red")
            live.update(shown, refresh=True)


def _projects(state: QueueState) -> list[RenderableType]:
    """The table, and what there is to say of projects below it: sentences in a column would be as narrow as a word."""
    table, notes = Table(title="Projects", title_justify="left"), list[RenderableType]()
    for name in ("project", "waiting", "at work", "done", "failed", "tasks/s", "time left"):
        table.add_column(name, justify="left" if name == "project" else "right")
    for row in state.projects:
        counts = row.counts
        failed = Text(str(counts.failed), style="red" if counts.failed else "")
        table.add_row(_named(row.project, row.title), str(counts.pending), str(counts.leased), str(counts.done),
                      failed, f"{row.per_s:.1f}", _eta(row))  # fmt: skip
        notes += [_note(f"project {row.project}", remark) for remark in ["paused"] * row.paused + list(row.remarks)]
    return [table, *notes]


def _named(project: int, title: str) -> Text:
    """A project as people know it: its number, by which commands call it, and its title."""
    return Text(f"{project} {title}".strip())


def _note(about: str, told: str, style: str = "yellow") -> Text:
    return Text(f"{about}: ").append(told, style=style)


def _workers(state: QueueState) -> list[RenderableType]:
    clicks = {row.name for row in state.clickers}
    rows = [*state.workers, *(row for row in state.clickers if row.name not in {one.name for one in state.workers})]
    unanswered = "" if clicks or not rows else "; none answers clicks: see ZEROMASK_INTERACTIVE"
    table = Table(title=f"Workers: {len(rows)}{unanswered}", title_justify="left")
    for name in ("worker", "model", "runs on", "tasks held", "answers clicks", "last seen"):
        table.add_column(name)
    for row in rows:
        about = row.about
        click_answer = about.get("click", "") or ("yes" if row.name in clicks else "no")
        table.add_row(row.name, about.get("model", ""), about.get("device", ""), about.get("tasks", ""),
                      Text(click_answer), f"{row.age_s:.0f} s ago")  # fmt: skip
    return [table, *(_note(row.name, row.trouble) for row in rows if row.trouble)]


def _learning(state: QueueState) -> list[RenderableType]:
    missing = "" if state.learners else "; no learner runs: start `zeromask worker --queue finetune`"
    table = Table(title=Text(f"Learning from corrections{missing}"), title_justify="left")
    notes = [_note(row.name, row.trouble) for row in state.learners if row.trouble]
    for name in ("project", "model", "version served", "learning", "since (UTC)"):
        table.add_column(name)
    names = {row.project: row.title for row in state.projects}
    for row in state.learning:
        served = "zero-shot" if row.served == ZEROSHOT else row.served
        table.add_row(_named(row.project, names.get(row.project, "")), row.model, served,
                      _LEARNING.get(row.progress.state, row.progress.state), _moment(row.progress.at))  # fmt: skip
        notes += _told(row)
    return [table, *notes]


def _told(row: LearningRow) -> list[Text]:
    """The last verdict, which stays until a newer one, then how far learning is, then what is wrong."""
    verdict, detail = row.verdict, row.progress.detail
    lines = []
    if verdict is not None:
        judged = "" if verdict.source == CORRECTIONS else f" ({verdict.source})"
        lines.append(f"{_moment(verdict.at)}{judged}: {verdict.reason}")
    if detail and (verdict is None or detail != verdict.reason):
        lines.append(detail)
    about = f"project {row.project}"
    told = [_note(about, line, style="") for line in lines]
    if row.trouble:
        told.append(_note(about, f"served zero-shot instead of what should be. {row.trouble}", style="red"))
    return told


def _moment(at: str) -> str:
    return at[5:19].replace("T", " ")


def _reasons(title: str, rows: Sequence[TaskFailure | UnansweredClick]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("when (UTC)", "project", "task", "reason"):
        table.add_column(name)
    for row in rows:
        table.add_row(f"{row.at:%m-%d %H:%M:%S}", str(row.project), str(row.task), Text(row.reason))
    return table


def _odd(state: QueueState) -> Table:
    table = Table(title="In Redis, and not written by zeromask: set aside", title_justify="left")
    for name in ("when (UTC)", "key", "what"):
        table.add_column(name)
    for row in state.quarantined:
        table.add_row(f"{row.at:%m-%d %H:%M:%S}", Text(row.key), Text(row.what))
    return table


def _eta(row: ProjectState) -> str:
    if row.eta_s is None:
        return "?"
    minutes, seconds = divmod(round(row.eta_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
