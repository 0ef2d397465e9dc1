"""Drain slots: at most so many drain jobs per project are queued or running, however long the queue is.

Without them a bulk request would queue thousands of jobs, and every sweep more of them. A slot is taken while its job
waits in the queue, and while a worker says it runs; a job that vanished or a worker that died leaves it free. It must
not know what a drain does.

Keys (S counts from 0):

    zeromask:P:drain:S   "claimed" while its job is being queued, then the job's id, "running" once it started
"""

from __future__ import annotations

from typing import Any

from redis import Redis

from plugin_config.jobs import DrainProject, enqueue, predict_queue

SLOTS = 8
# A worker that dies between starting a drain and leasing its tasks leaves nothing else to notice it by.
RUNNING_S = 60
_CLAIMED_S = 5
_QUEUED_S = 86400

# KEYS: slot, list of queued job ids.
_HELD = """
local held = redis.call('GET', KEYS[1])
local waiting = held and held ~= 'running' and held ~= 'claimed' and redis.call('LPOS', KEYS[2], held)
"""

_CLAIM = _HELD + """
if held == 'running' or held == 'claimed' or waiting then return 0 end
redis.call('SET', KEYS[1], 'claimed', 'EX', ARGV[1])
return 1
"""

# A worker may have started the job before its id is noted: then the slot says so already.
_NAME = _HELD + """
if held == 'claimed' then redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) end
return 1
"""

# Where another job waits for the slot, this one is one too many: it takes nothing and frees nothing.
_HOLD = _HELD + """
if not waiting then redis.call('SET', KEYS[1], 'running', 'EX', ARGV[1]) end
return 1
"""

_FREE = _HELD + """
if not waiting then redis.call('DEL', KEYS[1]) end
return 1
"""

_STOP = """
if redis.call('GET', KEYS[1]) == 'running' then redis.call('DEL', KEYS[1]) end
return 1
"""


class DrainSlots:
    """Holds a Redis connection; its errors are redis-py's. Safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._queue = predict_queue(redis)

    def queue(self, project: int, *, tasks: int, limit: int) -> int:
        """Queue as many drains of `limit` tasks as `tasks` due ones need and slots allow; returns how many."""
        queued = 0
        for slot in range(min(SLOTS, -(-tasks // limit))):
            if self._run(_CLAIM, project, slot, _CLAIMED_S):
                job = enqueue(self._queue, DrainProject(project=project, slot=slot, limit=limit))
                self._run(_NAME, project, slot, job, _QUEUED_S)
                queued += 1
        return queued

    def hold(self, project: int, slot: int) -> None:
        """The drain of this slot runs."""
        self._run(_HOLD, project, slot, RUNNING_S)

    def free(self, project: int, slot: int) -> None:
        """The drain of this slot ended."""
        self._run(_FREE, project, slot)

    def stop(self, project: int) -> None:
        """A worker of this project died: none of its drains is known to run. One too many does no harm."""
        for slot in range(SLOTS):
            self._run(_STOP, project, slot)

    def _run(self, script: str, project: int, slot: int, *args: Any) -> int:
        keys = (f"zeromask:{project}:drain:{slot}", self._queue.key)
        return int(self._redis.eval(script, len(keys), *keys, *args))
