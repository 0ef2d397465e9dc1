"""What a monitoring system wants to know of the queue, read from Redis at once for one answer of `/metrics`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from redis import Redis

from plugin_config.errors import QueueDamaged
from plugin_config.overview.reading import read_projects
from plugin_config.queue import scripts
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.learning import ProjectLearning
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.states import Counts, TaskStates
from plugin_config.queue.totals import StageTotal, Totals
from plugin_config.settings import Settings
from plugin_config.versions.served import ServedAdapters, parse_outcomes

T = TypeVar("T")

Outcomes = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Slug of the model -> label key -> "accepted", "changed", "deleted" or "added" -> how many regions."""

_AT_ONCE = 500  # projects

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProjectSnapshot:
    """One project.

    Attributes:
        project: its id.
        is_known: whether Label Studio was found to have it; anyone may name another.
        is_paused: whether its tasks wait for a person to resume them.
        counts: its tasks by state.
        wait_s: seconds since its task that waits longest became due.
        is_blocked: whether its learning needs a person.
        outcomes: what annotators did with its regions.
    """

    project: int
    is_known: bool
    is_paused: bool
    counts: Counts
    wait_s: float
    is_blocked: bool
    outcomes: Outcomes = field(default_factory=dict)


@dataclass(frozen=True)
class QueueSnapshot:
    """All projects and processes.

    Attributes:
        projects: by id.
        workers, in_trouble, learners, click_workers: how many processes live that predict, wait for something to be
            repaired, learn, and answer clicks.
        ended: how a task ends, "done" or "failed" -> how many ended so, of all projects.
        stages: stage -> its totals, of all projects.
        dropped_webhooks: how many were dropped because too many unknown projects waited.
    """

    projects: tuple[ProjectSnapshot, ...]
    workers: int
    in_trouble: int
    learners: int
    click_workers: int
    ended: Mapping[str, int]
    stages: Mapping[str, StageTotal]
    dropped_webhooks: int

    @property
    def open_tasks(self) -> int:
        """Tasks pending or leased, without those of paused projects, which no worker takes."""
        return sum(row.counts.pending + row.counts.leased for row in self.projects if not row.is_paused)

    @property
    def longest_wait_s(self) -> float:
        """Seconds since the task that waits longest became due, without those of paused projects."""
        return max((row.wait_s for row in self.projects if not row.is_paused), default=0.0)


def read_snapshot(redis: Redis, settings: Settings) -> QueueSnapshot:
    """Read everything, in a few requests for each 500 projects. A project whose keys are damaged is read by itself; it
    is logged and left out where that does not help.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    states, totals = TaskStates(redis), Totals(redis)
    known, paused = set(states.known_projects()), states.paused_projects()
    learning, adapters = ProjectLearning(redis, lease_s=settings.lease_s), ServedAdapters(redis)

    def read(project: int) -> ProjectSnapshot:
        progress = learning.progress(project)
        return ProjectSnapshot(
            project, project in known, project in paused, states.counts(project), states.longest_wait_s(project),
            progress is not None and progress.state == "blocked", adapters.outcomes(project),
        )  # fmt: skip

    ids = states.projects()
    together: dict[int, ProjectSnapshot] = {}
    for start in range(0, len(ids), _AT_ONCE):
        together |= _read_together(redis, ids[start : start + _AT_ONCE], known, paused)
    projects = (together.get(project) or _unless_damaged(read, project) for project in ids)
    workers = WorkerPresence(redis).workers()
    return QueueSnapshot(
        projects=tuple(row for row in projects if row is not None),
        workers=len(workers),
        in_trouble=sum(bool(worker.about.get("trouble")) for worker in workers),
        learners=WorkerPresence(redis, learners=True).count(),
        click_workers=WorkerPresence(redis, clickers=True).count(),
        ended=totals.ended(),
        stages=totals.stages(),
        dropped_webhooks=ProjectHints(redis).refused_count(),
    )


@redis_errors
def _read_together(
    redis: Redis, projects: Sequence[int], known: Collection[int], paused: Collection[int]
) -> dict[int, ProjectSnapshot]:
    """Read projects in three requests; those of which a key is damaged are missing."""
    readings = read_projects(redis, projects)
    pipe = redis.pipeline(transaction=False)
    for project in readings:
        pipe.eval(scripts.LONGEST_WAIT, 1, ProjectKeys(project).prefix, scripts.AHEAD_MS)
        pipe.hgetall(ProjectKeys(project).outcomes)
    answers = pipe.execute(raise_on_error=False)
    found = {}
    for (project, one), wait_ms, outcomes in zip(readings.items(), answers[::2], answers[1::2], strict=True):
        if not isinstance(wait_ms, Exception) and not isinstance(outcomes, Exception):
            is_blocked = one.progress is not None and one.progress.state == "blocked"
            found[project] = ProjectSnapshot(
                project, project in known, project in paused, one.counts, max(0, int(wait_ms)) / 1000, is_blocked,
                parse_outcomes(outcomes),
            )  # fmt: skip
    return found


def _unless_damaged(read: Callable[[int], T], project: int) -> T | None:
    try:
        return read(project)
    except QueueDamaged as error:
        logger.warning("metrics: project %d is left out. %s", project, error)
        return None
