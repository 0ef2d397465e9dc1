"""The state of every asked-for task in Redis: pending, leased, done, failed. One small script per transition.

A worker takes tasks under a lease it must renew; when the worker dies the lease runs out and a sweep, which every
living worker does, puts the tasks back. Redis' own clock decides, so machines may disagree about the time. It must
not know what predicting is.

Keys of project P (members are `version|task`):

    zeromask:projects         set    projects that ever asked
    zeromask:P:pending        zset   member -> moment it is due, ms; earlier = sooner
    zeromask:P:leases         hash   member -> "owner|moment it runs out, ms"
    zeromask:P:attempts       hash   member -> leases that ran out, and tries Label Studio could not answer
    zeromask:P:failed         hash   member -> reason
    zeromask:P:done           hash   version -> tasks predicted
    zeromask:P:drain:S        string see slots.py
    zeromask:P:webhook        string action and moment of the last webhook, for diagnosis; kept for a month
    zeromask:workers          zset   worker name -> last heartbeat, ms
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from redis import Redis
from redis.exceptions import RedisError

from plugin_config import pending_scripts as scripts
from plugin_config.errors import QueueUnavailable
from plugin_config.jobs import RefreshProject, TaskRef, enqueue, predict_queue
from plugin_config.slots import DrainSlots

MAX_ATTEMPTS = 5
_REFRESH_S = 60
_WORKER_SEEN_MS = 15_000
_WEBHOOK_KEPT_S = 30 * 86400
# Opened by an annotator: ahead of everything asked for in bulk, in order among themselves.
_URGENT_MS = 10**12
_BULK = 5000

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Counts:
    """How many tasks of a project stand in which state; `done` counts since the project was first asked for."""

    pending: int
    leased: int
    failed: int
    done: int


def redis_errors(method: Callable[P, R]) -> Callable[P, R]:
    """Make a method answer with our own error when Redis does not."""

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except RedisError as error:
            raise QueueUnavailable("Redis", f"does not answer ({error})", "Start it, or correct REDIS_URL.") from error

    return wrapped


class PendingTasks:
    """Holds a Redis connection and moves tasks between their states. Safe to share between threads.

    Every method raises QueueUnavailable when Redis does not answer.
    """

    def __init__(self, redis: Redis, *, drain_tasks: int, lease_s: float) -> None:
        self._redis = redis
        self._slots = DrainSlots(redis)
        self._drain_tasks = drain_tasks
        self._lease_ms = int(lease_s * 1000)

    @redis_errors
    def add(self, project: int, refs: Iterable[TaskRef], *, urgent: bool = False) -> int:
        """Ask for tasks; what is pending or being worked on is not asked for twice. Returns how many are new."""
        keys = self._keys(project, "pending", "leases", "failed")
        ahead, members, added = _URGENT_MS if urgent else 0, [ref.encode() for ref in refs], 0
        for start in range(0, len(members), _BULK):
            part = members[start : start + _BULK]
            added += int(self._run(scripts.ADD, [*keys, "zeromask:projects"], [project, ahead, *part]))
        return added

    @redis_errors
    def take(self, project: int, owner: str, *, limit: int | None = None) -> list[TaskRef]:
        """Lease the tasks that are due first to `owner`."""
        limit = limit or self._drain_tasks
        members = self._run(scripts.TAKE, self._keys(project, "pending", "leases"), [owner, self._lease_ms, limit])
        return [TaskRef.decode(member) for member in members]

    @redis_errors
    def renew(self, project: int, owner: str, refs: Sequence[TaskRef]) -> set[TaskRef]:
        """Extend leases; returns those `owner` still holds. What is missing belongs to somebody else now."""
        args = [owner, self._lease_ms, *(ref.encode() for ref in refs)]
        return {TaskRef.decode(member) for member in self._run(scripts.RENEW, self._keys(project, "leases"), args)}

    @redis_errors
    def done(self, project: int, owner: str, ref: TaskRef) -> bool:
        """The prediction is stored. False when the lease was lost meanwhile."""
        return self._settle(project, owner, ref, "done", ref.version)

    @redis_errors
    def fail(self, project: int, owner: str, ref: TaskRef, reason: str) -> bool:
        """Trying again would not help; keep the reason. False when the lease was lost meanwhile."""
        return self._settle(project, owner, ref, "failed", reason[:500])

    @redis_errors
    def give_back(self, project: int, owner: str, ref: TaskRef, *, delay_s: float = 0.0) -> bool:
        """Not the task's fault: due again after `delay_s`. False when the lease was lost meanwhile."""
        return self._settle(project, owner, ref, "again", int(delay_s * 1000))

    @redis_errors
    def retry(self, project: int, owner: str, ref: TaskRef, reason: str) -> bool:
        """Perhaps the task's fault: due again after 4, 16, 64 ... s, and failed with `reason` after the fifth try."""
        return self._settle(project, owner, ref, "retry", reason[:500])

    @redis_errors
    def forget(self, project: int) -> None:
        """A project is gone: nothing of it is kept."""
        self._redis.srem("zeromask:projects", project)
        for key in self._redis.scan_iter(match=f"zeromask:{project}:*", count=1000):
            self._redis.delete(key)

    @redis_errors
    def drop(self, project: int, owner: str, ref: TaskRef) -> bool:
        """Nobody needs it any more (annotated, deleted, of an old version)."""
        return self._settle(project, owner, ref, "dropped", "")

    @redis_errors
    def sweep(self) -> list[TaskRef]:
        """Put back the tasks of workers that died, and make sure that a drain is queued wherever tasks are due."""
        reason = f"its worker died {MAX_ATTEMPTS} times on it; see the worker's log"
        returned: list[TaskRef] = []
        for project in self.projects():
            keys = self._keys(project, "leases", "pending", "attempts", "failed")
            back = [TaskRef.decode(member) for member in self._run(scripts.SWEEP, keys, [MAX_ATTEMPTS, reason])]
            if back:
                self._slots.stop(project)
            returned += back
            self.ensure_drains(project)
        return returned

    @redis_errors
    def ensure_drains(self, project: int) -> int:
        """Queue as many drain jobs as the due tasks need and slots allow; returns how many were queued."""
        due = int(self._redis.zcount(self._key(project, "pending"), "-inf", self._now_ms()))
        return self._slots.queue(project, tasks=due, limit=self._drain_tasks)

    @redis_errors
    def next_drain(self, project: int, slot: int) -> None:
        """End of a drain: queue behind the other projects when tasks are due, else free the slot."""
        self._slots.free(project, slot)
        self.ensure_drains(project)

    @redis_errors
    def hold_slot(self, project: int, slot: int) -> None:
        """A drain that is being worked on keeps its slot."""
        self._slots.hold(project, slot)

    @redis_errors
    def request_refresh(self, project: int) -> bool:
        """Queue one look at the project; False when one is waiting already."""
        self._redis.sadd("zeromask:projects", project)
        if not self._redis.set(self._key(project, "refresh"), 1, nx=True, ex=_REFRESH_S):
            return False
        enqueue(predict_queue(self._redis), RefreshProject(project=project))
        return True

    @redis_errors
    def begin_refresh(self, project: int) -> None:
        """A refresh starts reading: what changes from now on needs another one."""
        self._redis.delete(self._key(project, "refresh"))

    @redis_errors
    def record_webhook(self, project: int, action: str) -> None:
        """A webhook about the project arrived: tells whether Label Studio reaches the backend with them at all."""
        moment = datetime.fromtimestamp(self._now_ms() / 1000, tz=UTC).isoformat(timespec="seconds")
        self._redis.set(self._key(project, "webhook"), f"{action} {moment}", ex=_WEBHOOK_KEPT_S)

    @redis_errors
    def last_webhook(self, project: int) -> str | None:
        """The last webhook as "ACTION 2026-01-31T12:00:00+00:00"; None when none came within a month."""
        found = self._redis.get(self._key(project, "webhook"))
        return None if found is None else _text(found)

    @redis_errors
    def versions(self, project: int) -> list[str]:
        """Versions at which tasks of the project were predicted."""
        return sorted(_text(version) for version in self._redis.hkeys(self._key(project, "done")))

    @redis_errors
    def projects(self) -> list[int]:
        """Projects that ever asked for anything."""
        return sorted(int(project) for project in self._redis.smembers("zeromask:projects"))

    @redis_errors
    def move_to_version(self, project: int, version: str) -> int:
        """Ask at `version` for whatever is pending at another; returns how many tasks moved."""
        pending = self._key(project, "pending")
        rows = [(TaskRef.decode(_text(member)), due) for member, due in self._redis.zscan_iter(pending, count=1000)]
        stale = [(ref, due) for ref, due in rows if ref.version != version]
        for start in range(0, len(stale), _BULK):
            part = stale[start : start + _BULK]
            self.add(project, [TaskRef(version, ref.task) for ref, _ in part])
            # They keep their place: an annotator may be waiting for them.
            self._redis.zadd(pending, {TaskRef(version, ref.task).encode(): due for ref, due in part}, xx=True, lt=True)
            self._redis.zrem(pending, *(ref.encode() for ref, _ in part))
        return len(stale)

    @redis_errors
    def counts(self, project: int) -> Counts:
        """Tasks by state."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.zcard(self._key(project, "pending"))
        pipe.hlen(self._key(project, "leases"))
        pipe.hlen(self._key(project, "failed"))
        pipe.hvals(self._key(project, "done"))
        pending, leased, failed, done = pipe.execute()
        return Counts(pending, leased, failed, sum(int(value) for value in done))

    @redis_errors
    def failures(self, project: int) -> dict[TaskRef, str]:
        """Failed tasks with their reasons."""
        rows = self._redis.hgetall(self._key(project, "failed"))
        return {TaskRef.decode(_text(m)): _text(reason) for m, reason in rows.items()}

    @redis_errors
    def heartbeat(self, worker: str) -> None:
        """A worker lives."""
        now = self._now_ms()
        self._redis.zadd("zeromask:workers", {worker: now})
        self._redis.zremrangebyscore("zeromask:workers", "-inf", now - _WORKER_SEEN_MS)

    @redis_errors
    def leave(self, worker: str) -> None:
        """A worker goes in good order."""
        self._redis.zrem("zeromask:workers", worker)

    @redis_errors
    def live_workers(self) -> int:
        """Workers that gave a sign of life within the last 15 s."""
        return int(self._redis.zcount("zeromask:workers", self._now_ms() - _WORKER_SEEN_MS, "+inf"))

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

    def _settle(self, project: int, owner: str, ref: TaskRef, outcome: str, detail: str | int) -> bool:
        keys = self._keys(project, "leases", "pending", "attempts", "failed", "done")
        return bool(self._run(scripts.SETTLE, keys, [owner, ref.encode(), outcome, detail, MAX_ATTEMPTS]))

    def _run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        answer = self._redis.eval(script, len(keys), *keys, *args)
        return [_text(item) for item in answer] if isinstance(answer, list) else answer

    def _now_ms(self) -> int:
        seconds, micros = self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def _key(self, project: int, name: str) -> str:
        return f"zeromask:{project}:{name}"

    def _keys(self, project: int, *names: str) -> list[str]:
        return [self._key(project, name) for name in names]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
