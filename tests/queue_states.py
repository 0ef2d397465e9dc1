"""Tasks to ask for, and the queue's clock moved by hand, for tests of the states in Redis."""

from __future__ import annotations

from redis import Redis

from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.pending import PendingTasks

PROJECT = 7


def refs(*tasks: int, version: str = "v1") -> list[TaskRef]:
    return [TaskRef(version, task) for task in tasks]


def take(pending: PendingTasks, owner: str, *, limit: int | None = None) -> list[TaskRef]:
    return [lease.ref for lease in pending.take(PROJECT, owner, limit=limit)]


def time_passes(redis: Redis, seconds: float = 1000) -> None:
    """The queue's clock goes on."""
    redis.hincrby("zeromask:clock", "now", int(seconds * 1000))


def clock_was_set(redis: Redis, seconds: int) -> None:
    """The machine's clock leaps, seen from Redis."""
    redis.hincrby("zeromask:clock", "wall", -seconds * 1000)
