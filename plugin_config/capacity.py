"""How long a number of workers take for a number of tasks, from measured times of the stages of one worker.

The stages of a worker run side by side (`worker.service.pipeline`), so the one that takes longest sets its pace, and
tasks wait for it before it: the bottleneck law of Denning & Buzen, "The operational analysis of queueing network
models", ACM Computing Surveys 10 (1978). Workers add up until something that they share is busy all the time: the cores
or the GPU of a machine, Label Studio, an image host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from plugin_config.errors import EnvironmentBroken

FETCHERS, POSTERS = 8, 4
"""Threads of a worker that fetch images of one project from one host, and threads that post; one embeds, one draws."""


@dataclass(frozen=True)
class StageSeconds:
    """What a task takes at each stage of one worker that is never without tasks, seconds of the clock on the wall, as
    the worker's log and `/metrics` tell them: means of `zeromask_stage_seconds`.

    Attributes:
        fetch: its image is read from its host and decoded, its labels are encoded.
        embed: its share of a batch in the image encoder.
        segment: masks are drawn and encoded as regions.
        post: its prediction is stored in Label Studio.
    """

    fetch: float
    embed: float
    segment: float
    post: float

    @property
    def pace_s(self) -> float:
        """Seconds between two tasks that one worker ends."""
        return max(self.fetch / FETCHERS, self.embed, self.segment, self.post / POSTERS)

    @property
    def way_s(self) -> float:
        """Seconds that a task takes from the first stage to the last, where it waits for no other."""
        return self.fetch + self.embed + self.segment + self.post


@dataclass(frozen=True)
class Shift:
    """From when on how many workers run.

    Attributes:
        from_s: seconds after the start of the work.
        workers: how many; 0 = none.
    """

    from_s: float
    workers: int


def seconds_for(tasks: int, workers: int, stages: StageSeconds, *, shared_s: float = 0.0) -> float:
    """How long a constant number of workers take.

    Args:
        tasks: how many are pending.
        workers: how many run side by side, each as fast as the one measured.
        stages: of that one.
        shared_s: what a task takes at the busiest of the things that all workers share and that serve one task after
            the other, seconds; 0 = they share nothing that could be busy. For N workers on one GPU of which one alone
            keeps it busy for a share u of the time: u x `stages.pace_s`.

    Returns:
        Seconds until the last prediction is stored.

    Raises:
        EnvironmentBroken: no worker runs.
    """
    return seconds_in_shifts(tasks, [Shift(0.0, workers)], stages, shared_s=shared_s)


def seconds_in_shifts(
    tasks: int, shifts: Sequence[Shift], stages: StageSeconds, *, shared_s: float = 0.0
) -> float:
    """How long workers take of which some come, go or die meanwhile; what a dead one held is done by the others.

    Args:
        tasks: as `seconds_for`.
        shifts: in the order of their beginnings; before the first one nobody works, the last one lasts.
        stages: as `seconds_for`.
        shared_s: as `seconds_for`.

    Returns:
        Seconds until the last prediction is stored.

    Raises:
        EnvironmentBroken: tasks are left, and in the last shift no worker runs.
    """
    if tasks <= 0:
        return 0.0
    ends = [*(shift.from_s for shift in shifts[1:]), math.inf]
    left = float(tasks)
    for shift, end in zip(shifts, ends, strict=False):
        rate = _tasks_per_s(shift.workers, stages, shared_s)
        done = rate * (end - shift.from_s) if rate else 0.0
        if done >= left:
            return shift.from_s + left / rate + stages.way_s - stages.pace_s  # which the first task's share has
        left -= done
    raise EnvironmentBroken("workers", f"none runs, and {left:.0f} tasks are left", "Start one: `zeromask worker`.")


def _tasks_per_s(workers: int, stages: StageSeconds, shared_s: float) -> float:
    seconds = max(stages.pace_s / workers, shared_s) if workers > 0 else math.inf
    return 1 / seconds if seconds > 0 else math.inf
