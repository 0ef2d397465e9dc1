"""What webhooks told of projects: hints that anyone may send, each of which only means "look there".

A project that never asked for anything may be made up: only so many of those wait for a look at a time, and a look at
one that Label Studio does not have forgets it. It must not know what is found there; `worker.service.reconcile` looks.

Keys of all projects:

    zeromask:unknown     zset    projects that may be made up -> moment, ms; `queue.pending` adds to it too
    zeromask:refused     hash    webhooks: how many were dropped because too many such projects waited

Keys of project P:

    zeromask:P:refresh   string  id of the job of the look that was queued last
    zeromask:P:hinted    set     ids of tasks said to be new or gone
    zeromask:P:webhook   string  action and moment of the last webhook, for diagnosis; kept for a month
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from redis import Redis

from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import RefreshProject, enqueue, look_queue
from plugin_config.queue.odd import as_id, as_text, readable
from plugin_config.queue.scripts import CLOCK

MOST_UNKNOWN = 100
_QUEUED_S = 86400
_WEBHOOK_KEPT_S = 30 * 86400
# A stranger may name ids without end; whatever is left out is found by the periodic look.
_MOST_HINTED, _MOST_HINTED_UNKNOWN = 200_000, 5000

# ARGV: project, most unknown ones. Answers whether there is room for it.
_ADMIT = CLOCK + """
if redis.call('SISMEMBER', 'zeromask:projects', ARGV[1]) == 1 then return 1 end
if redis.call('ZSCORE', 'zeromask:unknown', ARGV[1]) then return 1 end
if redis.call('ZCARD', 'zeromask:unknown') < tonumber(ARGV[2]) then
  redis.call('ZADD', 'zeromask:unknown', now, ARGV[1])
  return 1
end
one_more('zeromask:refused', 'webhooks')
return 0
"""

# KEYS: the look's key, list of queued job ids. ARGV: id of the new job, seconds. A job that vanished is none.
_REQUEST = """
local waiting = redis.call('GET', KEYS[1])
if waiting and redis.call('LPOS', KEYS[2], waiting) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""


class ProjectHints:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._queue = look_queue(redis)

    @redis_errors
    def admit(self, project: int) -> bool:
        """Whether hints about the project may be kept: it is known, or few unknown ones wait; others are counted."""
        return bool(self._redis.eval(_ADMIT, 1, f"zeromask:{project}:", project, MOST_UNKNOWN))

    @redis_errors
    def is_known(self, project: int) -> bool:
        """Whether Label Studio is known to have the project, or to have had it."""
        return bool(self._redis.sismember("zeromask:projects", str(project)))

    @redis_errors
    def refused(self) -> int:
        """How many webhooks were dropped so far, because they named one unknown project too many."""
        return as_id(self._redis.hget("zeromask:refused", "webhooks")) or 0

    @redis_errors
    def record_webhook(self, project: int, action: str) -> None:
        """A webhook about the project arrived: tells whether Label Studio reaches the backend with them at all."""
        moment = datetime.fromtimestamp(int(self._redis.time()[0]), tz=UTC).isoformat(timespec="seconds")
        self._redis.set(f"zeromask:{project}:webhook", f"{action} {moment}", ex=_WEBHOOK_KEPT_S)

    @redis_errors
    def last_webhook(self, project: int) -> str | None:
        """The last webhook as "ACTION 2026-01-31T12:00:00+00:00"; None when none came within a month."""
        found: Any = self._redis.get(f"zeromask:{project}:webhook")
        return None if found is None else as_text(found)

    @redis_errors
    def request_refresh(self, project: int) -> bool:
        """Queue one look at the project; False when one is waiting already."""
        key, name = f"zeromask:{project}:refresh", f"refresh-{project}-{uuid.uuid4().hex[:8]}"
        if not self._redis.eval(_REQUEST, 2, key, self._queue.key, name, _QUEUED_S):
            return False
        # A name of its own for each: that of a look at work is deleted with its end, and would take the next one along.
        enqueue(self._queue, RefreshProject(project=project), name=name)
        return True

    @redis_errors
    def begin_refresh(self, project: int) -> None:
        """A look starts: what changes from now on needs another one."""
        self._redis.delete(f"zeromask:{project}:refresh")

    @redis_errors
    def hint_tasks(self, project: int, tasks: Sequence[int]) -> None:
        """These tasks are said to be new, or gone."""
        key = f"zeromask:{project}:hinted"
        most = _MOST_HINTED if self.is_known(project) else _MOST_HINTED_UNKNOWN
        if tasks and int(self._redis.scard(key)) + len(tasks) <= most:
            self._redis.sadd(key, *tasks)

    @redis_errors
    def hinted_tasks(self, project: int, *, most: int) -> list[int]:
        """Some of the tasks hinted at; they stay until `looked_at`."""
        key = f"zeromask:{project}:hinted"
        rows: Any = self._redis.srandmember(key, most)
        return sorted(task for _, task in readable(self._redis, key, rows or [], as_id))

    @redis_errors
    def looked_at(self, project: int, tasks: Sequence[int]) -> None:
        """What was hinted of these tasks is settled."""
        if tasks:
            self._redis.srem(f"zeromask:{project}:hinted", *tasks)
