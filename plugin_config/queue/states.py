"""How the asked-for tasks stand: counts, failures, what is open. Read only; `queue.pending` moves them, and
tells the keys. It must not know who asks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.odd import as_id, as_ref, as_text, readable


@dataclass(frozen=True)
class Counts:
    """How many tasks of a project stand in which state; `done` at all versions not forgotten."""

    pending: int
    leased: int
    failed: int
    done: int


class TaskStates:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @redis_errors
    def projects(self) -> list[int]:
        """Projects that ever asked for anything, those among them that Label Studio has not been asked about yet."""
        known: Any = self._redis.smembers("zeromask:projects")
        unknown: Any = self._redis.zrange("zeromask:unknown", 0, -1)
        rows = (*readable(self._redis, "zeromask:projects", known, as_id),
                *readable(self._redis, "zeromask:unknown", unknown, as_id))  # fmt: skip
        return sorted({project for _, project in rows})

    @redis_errors
    def versions(self, project: int) -> list[str]:
        """Versions at which tasks of the project were predicted."""
        key = self._key(project, "versions")
        rows: Any = self._redis.smembers(key)
        return sorted(version for _, version in readable(self._redis, key, rows, as_text))

    @redis_errors
    def counts(self, project: int) -> Counts:
        """Tasks by state."""
        versions = self.versions(project)
        pipe = self._redis.pipeline(transaction=False)
        pipe.zcard(self._key(project, "pending"))
        pipe.hlen(self._key(project, "leases"))
        pipe.hlen(self._key(project, "failed"))
        for version in versions:
            pipe.scard(self._key(project, f"done:{version}"))
        pending, leased, failed, *done = pipe.execute()
        return Counts(pending, leased, failed, sum(done))

    @redis_errors
    def failures(self, project: int) -> dict[TaskRef, str]:
        """Failed tasks with their reasons."""
        key = self._key(project, "failed")
        rows: Any = self._redis.hgetall(key)
        return {ref: text(rows[member]) for member, ref in readable(self._redis, key, rows, as_ref)}

    @redis_errors
    def open_refs(self, project: int) -> list[TaskRef]:
        """Every task that is pending or leased."""
        pending, leases = self._key(project, "pending"), self._key(project, "leases")
        waiting: Any = self._redis.zrange(pending, 0, -1)
        held: Any = self._redis.hkeys(leases)
        rows = (*readable(self._redis, pending, waiting, as_ref), *readable(self._redis, leases, held, as_ref))
        return [ref for _, ref in rows]

    @redis_errors
    def wait_settled(self, project: int, refs: Sequence[TaskRef], *, timeout_s: float) -> bool:
        """Wait until none of the tasks is pending or leased; False when the time ran out."""
        members = [ref.encode() for ref in refs]
        deadline = time.monotonic() + timeout_s
        while True:
            pipe = self._redis.pipeline(transaction=False)
            for member in members:
                pipe.zscore(self._key(project, "pending"), member)
                pipe.hexists(self._key(project, "leases"), member)
            states = pipe.execute()
            if not any(state is not None and state is not False and state != 0 for state in states):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)

    def _run(self, script: str, project: int, *args: Any) -> Any:
        return self._redis.eval(script, 1, self._key(project, ""), *args)

    def _key(self, project: int, name: str) -> str:
        return f"zeromask:{project}:{name}"


def text(value: Any) -> str:
    """What Redis answered, as text; signs that are none are replaced."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
