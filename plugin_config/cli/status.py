"""`zeromask status`: the queue at a glance, live in the terminal, once, or as one JSON line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from plugin_config.errors import QueueUnavailable, ZeromaskError
from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.local.supervisor import stop_on_signals
from plugin_config.queue.control import ProjectState, QueueControl, QueueState
from plugin_config.settings import Settings

_EVERY_S = 1.0


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Show the state until Ctrl-C or SIGTERM, or once. Returns 0; 2 when there is nothing to ask."""
    parser = argparse.ArgumentParser(prog="zeromask status", description="The queue at a glance.")
    parser.add_argument("--once", action="store_true", help="print it once; so it is also where there is no terminal")
    parser.add_argument("--json", action="store_true", help="print it once, as one JSON line")
    parser.add_argument("--errors", type=int, default=5, help="how many of the last errors (default: %(default)s)")
    found = parser.parse_args(arguments)
    console = Console()
    try:
        settings = Settings.from_env(environ)
        with connect_briefly(settings) as redis:
            control = QueueControl(redis, settings)
            if found.json:
                sys.stdout.write(json.dumps(as_json(control.state(errors=found.errors))) + "\n")
            elif found.once or not console.is_terminal:
                console.print(render(control.state(errors=found.errors)))
            else:
                _live(control, console, found.errors)
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask status: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def render(state: QueueState) -> Group:
    """Tables for a terminal."""
    learning = [_learning(state)] if state.learning else []
    odd = [_odd(state)] if state.quarantined else []
    return Group(_projects(state), *learning, _workers(state), _errors(state), *odd)


def as_json(state: QueueState) -> dict[str, Any]:
    """The same for programs; times in seconds, `eta_s` null when nothing moves."""
    return {
        "projects": [
            {
                "project": row.project, "pending": row.counts.pending, "leased": row.counts.leased,
                "done": row.counts.done, "failed": row.counts.failed, "paused": row.paused,
                "tasks_per_s": round(row.per_s, 3), "eta_s": None if row.eta_s is None else round(row.eta_s),
                "remarks": list(row.remarks),
            }
            for row in state.projects
        ],
        "workers": [{"name": row.name, "age_s": round(row.age_s, 1), **row.about} for row in state.workers],
        "learners": [{"name": row.name, "age_s": round(row.age_s, 1), **row.about} for row in state.learners],
        "learning": [
            {"project": row.project, "model": row.model, "served": row.served, "state": row.progress.state,
             "detail": row.progress.detail, "at": row.progress.at, "trouble": row.trouble}
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


def _live(control: QueueControl, console: Console, errors: int) -> None:
    first = render(control.state(errors=errors))
    with stop_on_signals(), Live(first, console=console, refresh_per_second=4) as live:
        while True:
            time.sleep(_EVERY_S)
            try:
                live.update(render(control.state(errors=errors)))
            except QueueUnavailable as error:  # a Redis that restarts is no reason to go
                live.update(Text(str(error), style="red"))


def _projects(state: QueueState) -> Table:
    table = Table(title="Projects", title_justify="left")
    for name in ("project", "pending", "at work", "done", "failed", "tasks/s", "ready in", ""):
        table.add_column(name, justify="right" if name else "left")
    for row in state.projects:
        counts = row.counts
        failed = Text(str(counts.failed), style="red" if counts.failed else "")
        told = Text("\n".join(["paused"] * row.paused + list(row.remarks)), style="yellow")
        table.add_row(str(row.project), str(counts.pending), str(counts.leased), str(counts.done), failed,
                      f"{row.per_s:.1f}", _eta(row), told)  # fmt: skip
    return table


def _workers(state: QueueState) -> Table:
    table = Table(title=f"Workers: {len(state.workers)}", title_justify="left")
    for name in ("worker", "model", "on", "holds", "seen", "waits for"):
        table.add_column(name)
    for row in state.workers:
        about = row.about
        table.add_row(row.name, about.get("model", ""), about.get("device", ""), about.get("tasks", ""),
                      f"{row.age_s:.0f} s ago", Text(about.get("trouble", ""), style="yellow"))  # fmt: skip
    return table


def _learning(state: QueueState) -> Table:
    alive = "" if state.learners else "; nobody learns: start `zeromask worker --queue finetune`"
    troubles = "".join(f"; {row.name}: {row.about['trouble']}" for row in state.learners if row.about.get("trouble"))
    table = Table(title=Text(f"Learning{alive}{troubles}"), title_justify="left")
    for name in ("project", "model", "serves", "state", "since (UTC)", ""):
        table.add_column(name)
    for row in state.learning:
        at, told = row.progress.at, Text(row.progress.detail)
        if row.trouble:
            told.append(f"\nServed zero-shot instead of what should be. {row.trouble}", style="red")
        since = at[5:19].replace("T", " ")
        table.add_row(str(row.project), row.model, row.served, row.progress.state, since, told)
    return table


def _errors(state: QueueState) -> Table:
    table = Table(title="Last errors; `zeromask retry PROJECT` asks again", title_justify="left")
    for name in ("when (UTC)", "project", "task", "reason"):
        table.add_column(name)
    for row in state.errors:
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
