"""Who sets the order of a project now, and how long nobody needs to.

Redis counts down by the time of its machine, so that setting this back makes a key stay for as much longer: one that
would stay longer than anyone wanted counts as gone.
"""

from __future__ import annotations

import threading
from typing import Any

from redis import Redis

from plugin_config.queue.connection import redis_errors
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.quarantine import decode

# ARGV: who sets the order, for how long nobody else may (ms), the longest time for which anyone keeps others from it
# (ms). Returns 1 where nobody else does.
_BEGIN = """
local P = KEYS[1]
local left = redis.call('PTTL', P .. 'ordered')
if left >= 0 and left <= tonumber(ARGV[3]) then return 0 end
redis.call('SET', P .. 'ordered', ARGV[1], 'PX', ARGV[2])
return 1
"""

# ARGV: who set the order, how long nobody may set it again (ms).
_END = """
local P = KEYS[1]
if redis.call('GET', P .. 'ordered') ~= ARGV[1] then return 0 end
if tonumber(ARGV[2]) > 0 then
  redis.call('PEXPIRE', P .. 'ordered', ARGV[2])
else
  redis.call('DEL', P .. 'ordered')
end
return 1
"""

# ARGV: who sets the order, for how long nobody else may (ms). Returns 1 where it is still theirs.
_RENEW = """
if redis.call('GET', KEYS[1] .. 'ordered') ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1] .. 'ordered', ARGV[2])
return 1
"""

# ARGV: the longest time that anyone notes it for (ms).
_RESTING = """
local left = redis.call('PTTL', KEYS[1] .. 'resting')
if left < 0 or left > tonumber(ARGV[1]) then return '' end
return redis.call('GET', KEYS[1] .. 'resting')
"""


class OrderTurns:
    """Holds a Redis connection, and which orders this process sets. Every method raises QueueUnavailable when Redis
    does not answer.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._setting: dict[int, tuple[str, int]] = {}
        self._lock = threading.Lock()  # what has ended is not renewed

    @redis_errors
    def begin(self, project: int, owner: str, *, hold_s: float, pause_s: float) -> bool:
        """Whether `owner` may set the order now: nobody else does, and the pause since the last time is over.

        Args:
            project: its id.
            owner: who sets it, another text each time.
            hold_s: seconds after which somebody else may, if neither `renew` nor `end` comes.
            pause_s: the longest pause of `end`, seconds.
        """
        hold_ms = max(1, int(hold_s * 1000))
        begun = bool(self._run(_BEGIN, project, owner, hold_ms, max(hold_ms, int(pause_s * 1000))))
        if begun:
            with self._lock:
                self._setting[project] = owner, hold_ms
        return begun

    @redis_errors
    def renew(self) -> None:
        """Hold the orders for longer that this process is setting; called again and again beside the work."""
        with self._lock:
            for project, (owner, hold_ms) in self._setting.items():
                self._run(_RENEW, project, owner, hold_ms)

    @redis_errors
    def end(self, project: int, owner: str, *, pause_s: float) -> None:
        """Let others set the order after `pause_s` seconds, if `owner` still holds it."""
        with self._lock:
            if self._setting.get(project, ("", 0))[0] == owner:
                del self._setting[project]
        self._run(_END, project, owner, int(pause_s * 1000))

    @redis_errors
    def rest(self, project: int, corrections: str, *, rest_s: float) -> None:
        """Note for `rest_s` seconds the corrections that the order was made from: predictions alone can wait."""
        self._redis.set(ProjectKeys(project).resting, corrections, px=max(1, int(rest_s * 1000)))

    @redis_errors
    def resting(self, project: int, *, rest_s: float) -> str:
        """What `rest` noted, for `rest_s` seconds at most; "" where its time is over."""
        return decode(self._run(_RESTING, project, int(rest_s * 1000)))

    def _run(self, script: str, project: int, *args: Any) -> Any:
        return self._redis.eval(script, 1, ProjectKeys(project).prefix, *args)
