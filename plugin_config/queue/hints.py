"""Hints from webhooks, which anyone may send: each says only which project, and which of its tasks, to look at again.

A project that never asked for anything may be invented by the sender: only so many of those wait to be looked up at a
time, and a refresh of one that Label Studio does not have forgets it. `worker.service.reconcile` does the refresh.

However many webhooks come, a project is not read again and again because of them: after a refresh has begun the next
one waits a moment, and stands for all of them.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import RefreshProject, enqueue, parse_id, parse_text, refresh_queue
from plugin_config.queue.keys import AGAIN, PROJECTS, REFUSED, ProjectKeys
from plugin_config.queue.quarantine import valid_members
from plugin_config.queue.scripts import CLOCK

MOST_UNKNOWN = 100
_QUEUED_S = 86400
_CLAIMED_MS = 5000  # as of a drain's slot
_PAUSE_MS = 2000
_WEBHOOK_KEPT_S = 30 * 86400
# Anyone may send any number of ids; the periodic refresh finds those that are left out.
_MOST_HINTED, _MOST_HINTED_UNKNOWN = 200_000, 5000

# ARGV: project, most unknown projects. Returns whether hints about it are kept.
_ADMIT = CLOCK + """
if redis.call('SISMEMBER', PROJECTS, ARGV[1]) == 1 then return 1 end
if redis.call('ZSCORE', UNKNOWN, ARGV[1]) then return 1 end
if redis.call('ZCARD', UNKNOWN) < tonumber(ARGV[2]) then
  redis.call('ZADD', UNKNOWN, now, ARGV[1])
  return 1
end
one_more(REFUSED, 'webhooks')
return 0
"""

# The time of Redis, and the note that a look at a project is to be queued, which is never put off.
_LATER = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function later(again, project, ms)
  local noted = tonumber(redis.call('ZSCORE', again, project) or '')
  if not (noted and noted <= now + ms) then redis.call('ZADD', again, now + ms, project) end
end
"""

# KEYS: `refresh` and `looked` of the project, `again`, list of queued job ids. ARGV: id of the new job, milliseconds
# that another process is given to queue its own, project, the pause after the beginning of a refresh (ms; 0 = none).
# Returns 0 while the last refresh is still queued, or is being queued, or the next one waits for the end of the pause.
# A refresh that a worker has taken, and has not noted to have begun, sees what comes now, too; should that worker die,
# the pause brings another one.
_REQUEST = _LATER + """
local waiting = redis.call('GET', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if waiting and string.sub(waiting, 1, 8) == 'claimed|' and left >= 0 and left <= tonumber(ARGV[2]) then return 0 end
if waiting and redis.call('LPOS', KEYS[4], waiting) then return 0 end
local pause = redis.call('PTTL', KEYS[2])
if waiting and pause <= 0 then pause = tonumber(ARGV[4]) end
if pause > 0 and pause <= tonumber(ARGV[4]) then
  later(KEYS[3], ARGV[3], pause)
  return 0
end
redis.call('ZREM', KEYS[3], ARGV[3])
redis.call('SET', KEYS[1], 'claimed|' .. ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS: `again`. ARGV: project, milliseconds.
_REQUEST_LATER = _LATER + "later(KEYS[1], ARGV[1], tonumber(ARGV[2])) return 1"

# KEYS: `again`.
_DUE = _LATER + "return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)"

# KEYS: `refresh` of the project. ARGV: id of the job that is queued now, seconds. It may have begun already.
_QUEUED = """
if redis.call('GET', KEYS[1]) == 'claimed|' .. ARGV[1] then redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) end
return 1
"""

# KEYS: `refresh` of the project. ARGV: id of the job that could not be queued.
_UNCLAIM = """
if redis.call('GET', KEYS[1]) == 'claimed|' .. ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""


class ProjectHints:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._queue = refresh_queue(redis)

    @redis_errors
    def admit(self, project: int) -> bool:
        """Whether hints about a project are kept: it is known, or few unknown ones wait; others are counted."""
        return bool(self._redis.eval(_ADMIT, 1, ProjectKeys(project).prefix, project, MOST_UNKNOWN))

    @redis_errors
    def is_known(self, project: int) -> bool:
        """Whether Label Studio was found to have the project at some time."""
        return bool(self._redis.sismember(PROJECTS, str(project)))

    @redis_errors
    def refused_count(self) -> int:
        """Number of webhooks dropped so far because too many unknown projects waited."""
        return parse_id(self._redis.hget(REFUSED, "webhooks")) or 0

    @redis_errors
    def record_webhook(self, project: int, action: str) -> None:
        """Note that a webhook about the project arrived, as proof that Label Studio reaches the backend."""
        moment = datetime.fromtimestamp(int(self._redis.time()[0]), tz=UTC).isoformat(timespec="seconds")
        self._redis.set(ProjectKeys(project).webhook, f"{action} {moment}", ex=_WEBHOOK_KEPT_S)

    @redis_errors
    def last_webhook(self, project: int) -> str | None:
        """The last webhook as "ACTION 2026-01-31T12:00:00+00:00"; None when none came within a month."""
        found: Any = self._redis.get(ProjectKeys(project).webhook)
        return None if found is None else parse_text(found)

    @redis_errors
    def request_refresh(self, project: int, *, paced: bool = False) -> bool:
        """Queue a refresh of the project; False when one is queued already, or by another process just now.

        Args:
            project: its id.
            paced: whether it waits for two seconds after the last one was taken, as for webhooks, which anyone may
                send. Then False is returned, and a worker queues it (`due_refreshes`).
        """
        keys, name = ProjectKeys(project), f"refresh-{project}-{uuid.uuid4().hex[:8]}"
        pause_ms = _PAUSE_MS if paced else 0
        arguments = (keys.refresh, keys.looked, AGAIN, self._queue.key, name, _CLAIMED_MS, project, pause_ms)
        if not self._redis.eval(_REQUEST, 4, *arguments):
            return False
        # Each has its own name: RQ deletes a job by name when it ends, and would delete the next one of the same name.
        try:
            enqueue(self._queue, RefreshProject(project=project), name=name)
        except RedisError:  # such as a key of RQ of another kind, which is moved away before the next try
            self._redis.eval(_UNCLAIM, 1, keys.refresh, name)
            raise
        self._redis.eval(_QUEUED, 1, keys.refresh, name, _QUEUED_S)
        return True

    @redis_errors
    def begin_refresh(self, project: int) -> None:
        """Note that a refresh starts: changes from now on need another one."""
        keys = ProjectKeys(project)
        pipe = self._redis.pipeline()
        pipe.delete(keys.refresh)
        pipe.zrem(AGAIN, project)
        pipe.set(keys.looked, 1, px=_PAUSE_MS)
        pipe.execute()

    @redis_errors
    def refresh_later(self, project: int, *, after_s: float) -> None:
        """Have a worker queue a refresh after this time, or sooner where that is noted already. A refresh that begins
        before stands for it.
        """
        self._redis.eval(_REQUEST_LATER, 1, AGAIN, project, int(after_s * 1000))

    @redis_errors
    def due_refreshes(self) -> list[int]:
        """Projects whose refresh is to be queued by now; they stay until `request_refresh`."""
        members: Any = self._redis.eval(_DUE, 1, AGAIN)
        return sorted(project for _, project in valid_members(self._redis, AGAIN, members, parse_id))

    @redis_errors
    def hint_tasks(self, project: int, tasks: Sequence[int]) -> None:
        """Keep the ids of tasks that are said to be new or deleted."""
        key = ProjectKeys(project).hinted
        most = _MOST_HINTED if self.is_known(project) else _MOST_HINTED_UNKNOWN
        if tasks and int(self._redis.scard(key)) + len(tasks) <= most:
            self._redis.sadd(key, *tasks)

    @redis_errors
    def hinted_tasks(self, project: int, *, most: int) -> list[int]:
        """Some of the hinted tasks; they stay until `clear_hinted_tasks`."""
        key = ProjectKeys(project).hinted
        rows: Any = self._redis.srandmember(key, most)
        return sorted(task for _, task in valid_members(self._redis, key, rows or [], parse_id))

    @redis_errors
    def clear_hinted_tasks(self, project: int, tasks: Sequence[int]) -> None:
        """Forget the hints about these tasks, which were looked up."""
        if tasks:
            self._redis.srem(ProjectKeys(project).hinted, *tasks)
