"""What webhooks told of projects: hints that anyone may send, each of which only means "look there".

It must not know what is found there; `worker.refresh` looks.

Keys of project P:

    zeromask:P:refresh   string  a look is queued
    zeromask:P:hinted    set     ids of tasks said to be new or gone
    zeromask:P:webhook   string  action and moment of the last webhook, for diagnosis; kept for a month
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from redis import Redis

from plugin_config.jobs import RefreshProject, enqueue, predict_queue
from plugin_config.redis_errors import redis_errors

_REFRESH_S = 60
_WEBHOOK_KEPT_S = 30 * 86400
# A stranger may name ids without end; whatever is left out is found by the periodic look.
_MOST_HINTED = 200_000


class ProjectHints:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @redis_errors
    def record_webhook(self, project: int, action: str) -> None:
        """A webhook about the project arrived: tells whether Label Studio reaches the backend with them at all."""
        moment = datetime.fromtimestamp(int(self._redis.time()[0]), tz=UTC).isoformat(timespec="seconds")
        self._redis.set(f"zeromask:{project}:webhook", f"{action} {moment}", ex=_WEBHOOK_KEPT_S)

    @redis_errors
    def last_webhook(self, project: int) -> str | None:
        """The last webhook as "ACTION 2026-01-31T12:00:00+00:00"; None when none came within a month."""
        found: Any = self._redis.get(f"zeromask:{project}:webhook")
        return None if found is None else found.decode()

    @redis_errors
    def request_refresh(self, project: int) -> bool:
        """Queue one look at the project; False when one is waiting already."""
        self._redis.sadd("zeromask:projects", project)
        if not self._redis.set(f"zeromask:{project}:refresh", 1, nx=True, ex=_REFRESH_S):
            return False
        enqueue(predict_queue(self._redis), RefreshProject(project=project))
        return True

    @redis_errors
    def begin_refresh(self, project: int) -> None:
        """A look starts: what changes from now on needs another one."""
        self._redis.delete(f"zeromask:{project}:refresh")

    @redis_errors
    def hint_tasks(self, project: int, tasks: Sequence[int]) -> None:
        """These tasks are said to be new, or gone."""
        key = f"zeromask:{project}:hinted"
        if tasks and int(self._redis.scard(key)) + len(tasks) <= _MOST_HINTED:
            self._redis.sadd(key, *tasks)

    @redis_errors
    def hinted_tasks(self, project: int, *, most: int) -> list[int]:
        """Some of the tasks hinted at; they stay until `looked_at`."""
        found = self._redis.srandmember(f"zeromask:{project}:hinted", most)
        return sorted(int(task) for task in found or [])

    @redis_errors
    def looked_at(self, project: int, tasks: Sequence[int]) -> None:
        """What was hinted of these tasks is settled."""
        if tasks:
            self._redis.srem(f"zeromask:{project}:hinted", *tasks)
