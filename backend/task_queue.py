"""Requests workers to predict tasks, by way of Redis."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from redis import Redis

from plugin_config.control_arm import in_control_arm
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.pending import PendingTasks, Priority
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings

# Fewer than the server's threads, or people who open tasks together would keep /health from answering.
_MAX_WAITING = 8


@dataclass(frozen=True)
class PredictionRequest:
    """Tasks of a project, each named once, that are to be predicted at a model version."""

    project: int
    version: str
    tasks: tuple[int, ...]

    def refs(self, control_share: float) -> list[TaskRef]:
        """The tasks as the queue names them, without those of the control arm, which get no prediction.

        Args:
            control_share: the ZEROMASK_CONTROL_SHARE setting.

        Raises:
            JobError: the version or a task cannot be named there.
        """
        refs = [TaskRef(self.version, task) for task in self.tasks]
        return [ref for ref in refs if not in_control_arm(ref.task, control_share)]


class TaskQueue:
    """Puts tasks into Redis and calls workers. Safe to share between threads.

    Every method raises QueueUnavailable when Redis does not answer, and QueueFull when too many tasks wait there.

    Args:
        redis: a connection that gives up soon, for what somebody waits for.
        bulk_redis: a connection that gives Redis time, for many tasks together.
        settings: the limits of a request, and those of workers.
    """

    def __init__(self, redis: Redis, bulk_redis: Redis, settings: Settings) -> None:
        self._pending, self._bulk_pending = (
            PendingTasks(connection, drain_tasks=settings.drain_tasks, lease_s=settings.lease_s)
            for connection in (redis, bulk_redis)
        )
        self._presence = WorkerPresence(redis)
        self._settings = settings
        self._waiting = threading.BoundedSemaphore(_MAX_WAITING)

    def add(self, request: PredictionRequest) -> None:
        """Request predictions; of a handful of tasks, wait a moment until they are stored."""
        refs = request.refs(self._settings.control_share)
        few = len(refs) <= self._settings.predict_wait_tasks
        workers = self._presence.count()  # fails fast when Redis hangs, before the bulk connection is tried
        priority = Priority.OPENED if few else Priority.ASKED
        (self._pending if few else self._bulk_pending).add(request.project, refs, priority=priority, bounded=True)
        self._pending.ensure_drains(request.project, urgent=few)
        if few and refs and workers and self._waiting.acquire(blocking=False):
            try:
                self._pending.wait_settled(request.project, refs, timeout_s=self._settings.predict_wait_s)
            finally:
                self._waiting.release()

    def add_late(self, request: PredictionRequest) -> None:
        """Request predictions that no client waits for any more: those kept while Redis was away."""
        self._presence.count()  # as above
        self._bulk_pending.add(request.project, request.refs(self._settings.control_share), bounded=True)
        self._pending.ensure_drains(request.project)
