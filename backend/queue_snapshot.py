"""What a monitoring system wants to know of the queue, read from Redis at once for one answer of `/metrics`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from redis import Redis

from plugin_config.errors import QueueDamaged
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.learning import ProjectLearning
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.states import Counts, TaskStates
from plugin_config.queue.totals import StageTotal, Totals
from plugin_config.settings import Settings
from plugin_config.versions.served import ServedAdapters

T = TypeVar("T")

Outcomes = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Slug of the model -> label key -> "accepted", "changed", "deleted" or "added" -> how many regions."""

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
    """Read everything, five round trips for each project. A project whose keys are damaged is logged and left out.

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

    projects = (_unless_damaged(read, project) for project in states.projects())
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


def _unless_damaged(read: Callable[[int], T], project: int) -> T | None:
    try:
        return read(project)
    except QueueDamaged as error:
        logger.warning("metrics: project %d is left out. %s", project, error)
        return None
