"""Drain slots: only so many drain jobs per project are queued or running, however long the project's queue is.

Without them a bulk request would queue thousands of jobs, and every sweep more of them. As every project has the same
few slots, the queue serves projects in turn, however much one of them asks for. One more slot is for what an annotator
waits for: its job goes to the front. A slot is taken while its job waits in the queue, and while a worker reports that
it runs; a job that vanished or a worker that died leaves it free.

A slot's value is "state|moment it ends": "claimed" while its job is being queued, then the job's id, "running" once the
job started.
"""

from __future__ import annotations

from typing import Any

from redis import Redis

from plugin_config.queue.jobs import DrainProject, enqueue, predict_queue
from plugin_config.queue.keys import SLOTS, ProjectKeys
from plugin_config.queue.scripts import CLOCK

URGENT_SLOT = SLOTS
# A drain that dies between its start and its first lease leaves no other sign. One that takes longer than this is
# joined by a second drain, which does no harm.
RUNNING_S = 15
_CLAIMED_S = 5
_QUEUED_S = 86400

# KEYS: slot, list of queued job ids.
_HELD = CLOCK + """
redis.call('LLEN', KEYS[2])
local state, runs_out = string.match(redis.call('GET', KEYS[1]) or '', '^(.*)|(%d+)$')
local left = (num(runs_out) or 0) - now
if left < 0 or left > 2 * 86400000 then state = nil end
local working = state == 'running' or state == 'claimed'
local waiting = state and not working and redis.call('LPOS', KEYS[2], state)
local function set(text, seconds) redis.call('SET', KEYS[1], text .. '|' .. (now + 1000 * seconds)) end
"""

_CLAIM = _HELD + """
if working or waiting then return 0 end
set('claimed', ARGV[1])
return 1
"""

# A worker may have started the job before its id is noted: then the slot is 'running' already.
_NAME = _HELD + """
if state == 'claimed' then set(ARGV[1], ARGV[2]) end
return 1
"""

# Where another job waits for the slot, this one is one too many: it takes nothing and frees nothing.
_RUN = _HELD + """
if not waiting then set('running', ARGV[1]) end
return 1
"""

_FREE = _HELD + """
if not waiting then redis.call('DEL', KEYS[1]) end
return 1
"""

_FREE_RUNNING = _HELD + """
if state == 'running' then redis.call('DEL', KEYS[1]) end
return 1
"""


class DrainSlots:
    """Holds a Redis connection; its errors are redis-py's. Safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._queue = predict_queue(redis)

    def queue(self, project: int, *, tasks: int, limit: int, most: int = SLOTS) -> int:
        """Queue the drains that due tasks need and that are neither queued nor running.

        Args:
            project: its id.
            tasks: number of due tasks.
            limit: tasks of one drain.
            most: drains that may be queued or running.

        Returns:
            how many were queued.
        """
        wanted = min(SLOTS, most, -(-tasks // limit))
        return sum(self._queue_one(project, slot, limit) for slot in range(wanted))

    def queue_urgent(self, project: int, *, limit: int) -> bool:
        """Queue a drain ahead of all others; False when there is one already."""
        return self._queue_one(project, URGENT_SLOT, limit)

    def mark_running(self, project: int, slot: int) -> None:
        """Note that the drain of a slot runs, for the next 15 s."""
        self._run(_RUN, project, slot, RUNNING_S)

    def free(self, project: int, slot: int) -> None:
        """Free the slot of a drain that ended."""
        self._run(_FREE, project, slot)

    def free_running(self, project: int) -> None:
        """Free the slots of all running drains, because one of their workers died. One drain too many does no harm."""
        for slot in range(SLOTS + 1):
            self._run(_FREE_RUNNING, project, slot)

    def _queue_one(self, project: int, slot: int, limit: int) -> bool:
        if not self._run(_CLAIM, project, slot, _CLAIMED_S):
            return False
        drain = DrainProject(project=project, slot=slot, limit=limit)
        job = enqueue(self._queue, drain, first=slot == URGENT_SLOT)
        self._run(_NAME, project, slot, job, _QUEUED_S)
        return True

    def _run(self, script: str, project: int, slot: int, *args: Any) -> int:
        keys = (ProjectKeys(project).drain(slot), self._queue.key)
        return int(self._redis.eval(script, len(keys), *keys, *args))
