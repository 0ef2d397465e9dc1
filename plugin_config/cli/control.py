"""Reads and changes the queue for people: the work of `zeromask status`, `cancel`, `retry`, `pause` and `resume`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from redis import Redis

from plugin_config.model_version import ZEROSHOT, model_slug
from plugin_config.queue.clicks import ClickQueue, UnansweredClick
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.learning import Progress, ProjectLearning
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.order import ProjectOrder
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence, WorkerState
from plugin_config.queue.quarantine import QuarantineEntry, quarantine_entries
from plugin_config.queue.states import Counts, TaskFailure
from plugin_config.queue.titles import titles
from plugin_config.settings import Settings
from plugin_config.versions.served import ServedAdapters
from plugin_config.versions.verdicts import LastVerdict, last_verdicts


@dataclass(frozen=True)
class ProjectState:
    """The tasks of one project.

    Attributes:
        project: its id.
        counts: its tasks by state.
        paused: whether its tasks wait for a person to resume them.
        per_s: tasks done per second in the last minute.
        eta_s: seconds until all are done at that pace; None while nothing moves.
        remarks: what people should know about its webhooks, labels and order, a sentence each.
        title: what Label Studio calls it; "" = no worker has read it yet.
    """

    project: int
    counts: Counts
    paused: bool
    per_s: float
    eta_s: float | None
    remarks: tuple[str, ...] = ()
    title: str = ""


@dataclass(frozen=True)
class LearningRow:
    """The learning of one project for one model. Models that served the project before keep their rows.

    Attributes:
        project: its id.
        model: as versions name it.
        served: the adapter served by workers of this model.
        progress: how far the learning is.
        trouble: why another adapter is served than should be; "" = it is the right one.
        verdict: the last one on what was learned; None = nothing was judged yet.
    """

    project: int
    model: str
    served: str
    progress: Progress
    trouble: str = ""
    verdict: LastVerdict | None = None


@dataclass(frozen=True)
class QueueState:
    """Everything that `zeromask status` shows."""

    projects: tuple[ProjectState, ...]
    workers: tuple[WorkerState, ...]
    errors: tuple[TaskFailure, ...]
    learning: tuple[LearningRow, ...] = ()
    learners: tuple[WorkerState, ...] = ()
    quarantined: tuple[QuarantineEntry, ...] = ()
    clickers: tuple[WorkerState, ...] = ()
    unanswered: tuple[UnansweredClick, ...] = ()


class QueueControl:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._pending = PendingTasks(redis, drain_tasks=settings.drain_tasks, lease_s=settings.lease_s)
        self._presence = WorkerPresence(redis)
        self._learners = WorkerPresence(redis, learners=True)
        self._clickers = WorkerPresence(redis, clickers=True)
        self._clicks = ClickQueue(redis)
        self._learning = ProjectLearning(redis, lease_s=settings.lease_s)
        self._adapters = ServedAdapters(redis)
        self._ledger = ProjectLedger(redis)
        self._order = ProjectOrder(redis)

    def knows(self, project: int) -> bool:
        """Whether the project ever requested a task."""
        return project in self._pending.projects()

    def cancel(self, project: int, tasks: Collection[int] = ()) -> int:
        """Take back requests, of all tasks of a project or of these; what a worker holds of them is not stored.

        Returns:
            how many were pending or leased. They may be requested again later.
        """
        return self._pending.cancel(project, _chosen(self._pending.open_refs(project), tasks))

    def retry(self, project: int, tasks: Collection[int] = ()) -> int:
        """Request failed tasks again, all of a project or these; returns how many."""
        moved = self._pending.retry_failed(project, _chosen(self._pending.failures(project), tasks))
        self._pending.ensure_drains(project)
        return moved

    def pause(self, project: int) -> None:
        """Lease no more tasks of a project until `resume`; those that are leased are finished."""
        self._pending.pause(project)

    def resume(self, project: int) -> None:
        """Go on with a paused project."""
        self._pending.resume(project)
        self._pending.ensure_drains(project)

    @redis_errors
    def state(self, *, errors: int = 5) -> QueueState:
        """Read everything; of failures and of what was set aside the last `errors`, newest first."""
        paused, known = self._pending.paused_projects(), self._pending.projects()
        named = titles(self._redis, known)
        return QueueState(
            projects=tuple(self._project(project, paused, named.get(project, "")) for project in known),
            workers=tuple(self._presence.workers()),
            errors=tuple(self._pending.last_failures(errors)),
            learning=tuple(row for project in known for row in self._learning_rows(project)),
            learners=tuple(self._learners.workers()),
            quarantined=tuple(quarantine_entries(self._redis, errors)),
            clickers=tuple(self._clickers.workers()),
            unanswered=tuple(self._clicks.unanswered(errors)),
        )

    def _learning_rows(self, project: int) -> list[LearningRow]:
        """One row for each model that served the project; none where nothing was ever learned or checked."""
        found = self._learning.progress(project)
        progress = found or Progress("idle", "not checked yet", "")
        copies, verdicts = self._adapters.copies(project), last_verdicts(self._redis, project)
        rows = [
            LearningRow(project, copy.owner.model, copy.served, progress, copy.trouble,
                        verdicts.get(model_slug(copy.owner.model)))
            for copy in copies
        ]  # fmt: skip
        return rows if found or verdicts or any(row.served != ZEROSHOT or row.trouble for row in rows) else []

    def _project(self, project: int, paused: Collection[int], title: str) -> ProjectState:
        counts, per_s = self._pending.counts(project), self._pending.tasks_per_s(project)
        left = counts.pending + counts.leased
        eta = left / per_s if per_s and project not in paused else (None if left else 0.0)
        remarks = self._ledger.webhook_warning(project), *self._ledger.label_remarks(project)
        remarks = tuple(filter(None, (*remarks, self._order.remark(project))))
        return ProjectState(project, counts, project in paused, per_s, eta, remarks, title)


def _chosen(refs: Collection[TaskRef], tasks: Collection[int]) -> list[TaskRef]:
    """Those of the named tasks; all of them where none is named."""
    wanted = set(tasks)
    return [ref for ref in refs if not wanted or ref.task in wanted]
