"""`zeromask capacity`: how long N workers take for M tasks, or how many workers it takes, from measured stages."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from plugin_config.capacity import StageSeconds, seconds_for
from plugin_config.errors import SettingsError
from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.queue.totals import STAGE_NAMES, Totals
from plugin_config.settings import Settings

_MOST_WORKERS = 1000
_ONE_OF_BOTH = "Name one of --workers and --within."


@click.command()
@click.option("--tasks", type=click.IntRange(min=1), required=True, help="how many are to be predicted")
@click.option("--workers", type=click.IntRange(min=1), help="how many run side by side: say how long they take")
@click.option("--within", "hours", type=click.FloatRange(min=0, min_open=True), help="hours: say how many workers")
@click.option("--stages", "file", type=click.Path(path_type=Path), metavar="FILE",
              help="JSON of `zeromask bench --only capacity`, or of your own: fetch_seconds, embed_seconds, "
                   "segment_seconds, post_seconds  [default: what the workers of this Redis measured]")  # fmt: skip
@click.option("--shared", "shared_s", type=click.FloatRange(min=0), default=0.0, show_default=True,
              help="seconds of a task at the busiest thing that all workers share; see docs/guide/capacity.md")
@click.option("--json", "for_programs", is_flag=True, help="print it as one JSON line")
def capacity(
    *, tasks: int, workers: int | None, hours: float | None, file: Path | None, shared_s: float, for_programs: bool
) -> None:
    """Tell how long workers take, or how many are needed."""
    if (workers is None) == (hours is None):
        raise SettingsError("--workers, --within", "are both there or both missing", _ONE_OF_BOTH)
    stages = _measured() if file is None else _stored(file)
    found = workers if workers is not None else _workers_within(3600 * (hours or 0.0), tasks, stages, shared_s)
    seconds = seconds_for(tasks, found, stages, shared_s=shared_s)
    if for_programs:
        click.echo(json.dumps({"tasks": tasks, "workers": found, "seconds": round(seconds, 1), "shared_s": shared_s,
                               "stages": asdict(stages), "slowest": _slowest(stages)}))  # fmt: skip
        return
    spent = ", ".join(f"{name} {1000 * getattr(stages, name):.0f} ms" for name in STAGE_NAMES)
    click.echo(f"{found} worker{'s' * (found > 1)}: {_duration(seconds)} for {tasks:,} tasks, "
               f"{tasks / seconds:.3g} a second.\nA task takes {spent}; {_slowest(stages)} sets the pace, "
               f"{1 / stages.pace_s:.3g} a second and worker.")  # fmt: skip


def _measured() -> StageSeconds:
    """Means of all predictions stored since Redis was set up.

    Raises:
        SettingsError: there were none.
        QueueUnavailable: Redis does not answer.
    """
    with connect_briefly(Settings.from_env(os.environ)) as redis:
        totals = Totals(redis).stages()
    if not all(totals[name].tasks for name in STAGE_NAMES):
        raise SettingsError("the stages", "were not measured: no prediction was stored yet",
                            "Let a worker predict some hundred tasks, or name a file with --stages.")  # fmt: skip
    return _sound(StageSeconds(**{name: totals[name].seconds / totals[name].tasks for name in STAGE_NAMES}), "Redis")


def _stored(file: Path) -> StageSeconds:
    """Read a file.

    Raises:
        SettingsError: it cannot be read, or does not hold the stages.
    """
    names = {name: f"{name}_seconds" for name in STAGE_NAMES}
    remedy = f"Name a file with one JSON object that has {', '.join(names.values())}."
    try:
        row = json.loads(file.read_text())
        stages = StageSeconds(**{name: float(row[key]) for name, key in names.items()})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"--stages {file}", f"does not hold the stages ({error!r})", remedy) from error
    return _sound(stages, f"--stages {file}")


def _sound(stages: StageSeconds, subject: str) -> StageSeconds:
    times = [getattr(stages, name) for name in STAGE_NAMES]
    if not all(0 <= seconds < float("inf") for seconds in times) or not any(times):
        raise SettingsError(subject, f"has no times to reckon with: {times}", "Each must be a number of seconds.")
    return stages


def _workers_within(seconds: float, tasks: int, stages: StageSeconds, shared_s: float) -> int:
    """The fewest workers that are through in time.

    Raises:
        SettingsError: any number takes longer.
    """
    for workers in range(1, _MOST_WORKERS + 1):
        if seconds_for(tasks, workers, stages, shared_s=shared_s) <= seconds:
            return workers
    least = seconds_for(tasks, _MOST_WORKERS, stages, shared_s=shared_s)
    problem = f"is too short: {_MOST_WORKERS} workers take {_duration(least)}"
    raise SettingsError(f"--within {seconds / 3600:g}", problem, "Give them longer, or speed up what they share.")


def _slowest(stages: StageSeconds) -> str:
    """The stage that sets the pace of one worker."""
    alone = {name: StageSeconds(**{**dict.fromkeys(STAGE_NAMES, 0.0), name: getattr(stages, name)}).pace_s
             for name in STAGE_NAMES}  # fmt: skip
    return max(alone, key=lambda name: alone[name])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
