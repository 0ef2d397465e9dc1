"""Tasks to ask for, and the queue's clock moved by hand, for tests of the states in Redis."""

from __future__ import annotations

from redis import Redis

from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.pending import PendingTasks

PROJECT = 7


def refs(*tasks: int, version: str = "v1") -> list[TaskRef]:
    return [TaskRef(version, task) for task in tasks]


def take(pending: PendingTasks, owner: str, *, limit: int | None = None) -> list[TaskRef]:
    return [lease.ref for lease in pending.take(PROJECT, owner, limit=limit)]


def make_known(redis: Redis, project: int) -> None:
    """Somebody asked for a project, and Label Studio was found to have it."""
    assert ProjectHints(redis).admit(project)
    assert PendingTasks(redis, drain_tasks=1, lease_s=1).confirm_project(project)


def time_passes(redis: Redis, seconds: float = 1000) -> None:
    """Advance the clock of the queue."""
    redis.hincrby("zeromask:clock", "now", int(seconds * 1000))


def clock_was_set(redis: Redis, seconds: int) -> None:
    """Set the clock of the machine, as Redis sees it."""
    redis.hincrby("zeromask:clock", "wall", -seconds * 1000)
