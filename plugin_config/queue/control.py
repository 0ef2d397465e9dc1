"""What a person may do to the queue, and what a person may see of it. It must not know how it is shown.

See `plugin_config.queue.pending` for the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from redis import Redis

from plugin_config.model_version import ZEROSHOT
from plugin_config.queue import scripts
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.learning import Progress, ProjectLearning
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.mending import ODD
from plugin_config.queue.odd import as_id, as_json, as_ref, readable
from plugin_config.queue.pending import AHEAD_MS, PendingTasks, Priority
from plugin_config.queue.presence import WorkerPresence, WorkerState
from plugin_config.queue.states import Counts
from plugin_config.settings import Settings
from plugin_config.versions.served import ServedAdapters

T = TypeVar("T")

_BULK = 5000


@dataclass(frozen=True)
class ProjectState:
    """One project: tasks by state, whether it is paused, tasks done per second of late, seconds until all are done at
    that pace (None when nothing moves), and what people should know about its webhooks and labels.
    """

    project: int
    counts: Counts
    paused: bool
    per_s: float
    eta_s: float | None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class LastError:
    """One task that failed: when (UTC), which, why."""

    at: datetime
    project: int
    task: int
    version: str
    reason: str


@dataclass(frozen=True)
class Oddity:
    """Something in Redis that this project did not write, and that was set aside: when (UTC), under which key, what."""

    at: datetime
    key: str
    what: str


@dataclass(frozen=True)
class LearningRow:
    """What a project's learning is at, what is served of it by workers of a model, and why not what should be ("" = it
    is). Models that served it before keep their rows; `QueueState.workers` tells which one does now.
    """

    project: int
    model: str
    served: str
    progress: Progress
    trouble: str = ""


@dataclass(frozen=True)
class QueueState:
    """Everything a person sees at a glance."""

    projects: tuple[ProjectState, ...]
    workers: tuple[WorkerState, ...]
    errors: tuple[LastError, ...]
    learning: tuple[LearningRow, ...] = ()
    learners: tuple[WorkerState, ...] = ()
    odd: tuple[Oddity, ...] = ()


class QueueControl:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._pending = PendingTasks(redis, drain_tasks=settings.drain_tasks, lease_s=settings.lease_s)
        self._presence = WorkerPresence(redis)
        self._learners = WorkerPresence(redis, learners=True)
        self._learning = ProjectLearning(redis, lease_s=settings.lease_s)
        self._adapters = ServedAdapters(redis)
        self._ledger = ProjectLedger(redis)

    @redis_errors
    def knows(self, project: int) -> bool:
        """Whether the project ever asked for anything."""
        return project in self._pending.projects()

    @redis_errors
    def cancel(self, project: int, tasks: Collection[int] = ()) -> int:
        """Take back what was asked for, all of a project or these tasks; what is being worked on is not stored any
        more. Returns how many. Asking again later is no different from the first time.
        """
        wanted = set(tasks)
        members = [ref.encode() for ref in self._pending.open_refs(project) if not wanted or ref.task in wanted]
        return self._in_parts(scripts.CANCEL, project, members)

    @redis_errors
    def retry(self, project: int, tasks: Collection[int] = ()) -> int:
        """Ask again for what failed, all of a project or these tasks; returns how many."""
        wanted = set(tasks)
        failed = [ref.encode() for ref in self._pending.failures(project) if not wanted or ref.task in wanted]
        moved = self._in_parts(scripts.AGAIN, project, failed, Priority.ASKED * AHEAD_MS)
        self._pending.ensure_drains(project)
        return moved

    @redis_errors
    def pause(self, project: int) -> None:
        """Nothing more of the project is taken until `resume`; what is being worked on is finished."""
        self._redis.sadd("zeromask:paused", project)

    @redis_errors
    def resume(self, project: int) -> None:
        """Go on with a paused project."""
        self._redis.srem("zeromask:paused", project)
        self._pending.ensure_drains(project)

    @redis_errors
    def state(self, *, errors: int = 5) -> QueueState:
        """All projects, workers, and the last failures, newest first."""
        members: Any = self._redis.smembers("zeromask:paused")
        paused = {project for _, project in readable(self._redis, "zeromask:paused", members, as_id)}
        known = self._pending.projects()
        projects = tuple(self._project(project, paused) for project in known)
        learning = tuple(row for project in known for row in self._learning_rows(project))
        rows: Any = self._redis.lrange("zeromask:errors", 0, errors - 1) if errors else []
        odd: Any = self._redis.lrange(ODD, 0, errors - 1) if errors else []
        return QueueState(
            projects, tuple(self._presence.workers()), _made(rows, _error), learning, tuple(self._learners.workers()),
            _made(odd, _oddity),
        )  # fmt: skip

    def _learning_rows(self, project: int) -> list[LearningRow]:
        """One row for each model that serves the project; none where nothing was ever learned or looked at."""
        told = self._learning.told(project)
        progress = told or Progress("idle", "not looked at yet", "")
        copies = self._adapters.copies(project)
        rows = [LearningRow(project, copy.owner.model, copy.served, progress, copy.trouble) for copy in copies]
        return rows if told or any(row.served != ZEROSHOT or row.trouble for row in rows) else []

    @redis_errors
    def _project(self, project: int, paused: Collection[int]) -> ProjectState:
        counts = self._pending.counts(project)
        per_s = int(self._redis.eval(scripts.PACE, 1, f"zeromask:{project}:")) / 60
        left = counts.pending + counts.leased
        eta = left / per_s if per_s and project not in paused else (None if left else 0.0)
        remarks = (*filter(None, [self._ledger.warning(project)]), *self._ledger.remarks(project))
        return ProjectState(project, counts, project in paused, per_s, eta, remarks)

    def _in_parts(self, script: str, project: int, members: list[str], *args: int) -> int:
        return sum(
            int(self._redis.eval(script, 1, f"zeromask:{project}:", *args, *members[start : start + _BULK]))
            for start in range(0, len(members), _BULK)
        )


def _made(rows: list[Any], make: Callable[[Any], T]) -> tuple[T, ...]:
    return tuple(found for found in (as_json(row, make) for row in rows) if found is not None)


def _error(row: Any) -> LastError:
    ref = as_ref(row["task"])
    if ref is None:
        raise ValueError(row["task"])
    return LastError(_moment(row["at"]), int(row["project"]), ref.task, ref.version, str(row["reason"]))


def _oddity(row: Any) -> Oddity:
    return Oddity(_moment(row["at"]), str(row["key"])[:200], str(row["what"])[:200])


def _moment(at_ms: Any) -> datetime:
    if type(at_ms) not in (int, float) or not 0 <= at_ms < 1e14:
        raise ValueError(at_ms)
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC)
