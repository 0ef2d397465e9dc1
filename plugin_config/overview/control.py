"""Reads and changes the queue for people: `zeromask status`, `cancel`, `retry`, `pause`, `resume`, the status page."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from redis import Redis

from plugin_config.model_version import ZEROSHOT, model_slug
from plugin_config.overview.reading import ProjectReading, read_projects
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
from plugin_config.versions.served import ServedAdapters, ServedCopy
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
    """Everything that `zeromask status` shows, and `copies`: id of a project -> what serves it, for each model."""

    projects: tuple[ProjectState, ...]
    workers: tuple[WorkerState, ...]
    errors: tuple[TaskFailure, ...]
    learning: tuple[LearningRow, ...] = ()
    learners: tuple[WorkerState, ...] = ()
    quarantined: tuple[QuarantineEntry, ...] = ()
    clickers: tuple[WorkerState, ...] = ()
    unanswered: tuple[UnansweredClick, ...] = ()
    copies: Mapping[int, tuple[ServedCopy, ...]] = field(default_factory=dict)


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

    def projects(self) -> list[int]:
        """Ids of the projects that ever requested a task."""
        return self._pending.projects()

    @redis_errors
    def state(self, *, errors: int = 5, projects: Sequence[int] | None = None) -> QueueState:
        """Read everything.

        Args:
            errors: of failures, of clicks without a mask and of what was set aside these many are read, newest first.
            projects: ids of the projects to read; None = all.
        """
        paused, known = self._pending.paused_projects(), self._pending.projects() if projects is None else projects
        together, named = read_projects(self._redis, known), titles(self._redis, known)
        read = {project: together.get(project) or self._read(project) for project in known}
        return QueueState(
            projects=tuple(_project_state(project, found, paused, named.get(project, ""))
                           for project, found in read.items()),
            workers=tuple(self._presence.workers()),
            errors=tuple(self._pending.last_failures(errors)),
            learning=tuple(row for project, found in read.items() for row in _learning_rows(project, found)),
            learners=tuple(self._learners.workers()),
            quarantined=tuple(quarantine_entries(self._redis, errors)),
            clickers=tuple(self._clickers.workers()),
            unanswered=tuple(self._clicks.unanswered(errors)),
            copies={project: found.copies for project, found in read.items()},
        )  # fmt: skip

    def _read(self, project: int) -> ProjectReading:
        """Read a project by itself: keys of a wrong type are moved away."""
        counts, per_s = self._pending.counts(project), self._pending.tasks_per_s(project)
        remarks = self._ledger.webhook_warning(project), *self._ledger.label_remarks(project)
        remarks = tuple(filter(None, (*remarks, self._order.remark(project))))
        progress, copies = self._learning.progress(project), self._adapters.copies(project)
        verdicts = last_verdicts(self._redis, project)
        return ProjectReading(counts, per_s, remarks, progress, tuple(copies), verdicts)


def _learning_rows(project: int, found: ProjectReading) -> list[LearningRow]:
    """One row for each model that served the project; none where nothing was ever learned or checked."""
    progress = found.progress or Progress("idle", "not checked yet", "")
    rows = [
        LearningRow(project, copy.owner.model, copy.served, progress, copy.trouble,
                    found.verdicts.get(model_slug(copy.owner.model)))
        for copy in found.copies
    ]  # fmt: skip
    known = found.progress or found.verdicts
    return rows if known or any(row.served != ZEROSHOT or row.trouble for row in rows) else []


def _project_state(project: int, found: ProjectReading, paused: Collection[int], title: str) -> ProjectState:
    left = found.counts.pending + found.counts.leased
    eta = left / found.per_s if found.per_s and project not in paused else (None if left else 0.0)
    return ProjectState(project, found.counts, project in paused, found.per_s, eta, found.remarks, title)


def _chosen(refs: Collection[TaskRef], tasks: Collection[int]) -> list[TaskRef]:
    """Those of the named tasks; all of them where none is named."""
    wanted = set(tasks)
    return [ref for ref in refs if not wanted or ref.task in wanted]
