"""What is done for all projects again and again is done by one of the processes that could do it.

Each has a heartbeat of its own: ten workers that each look at every project once a minute would ask Label Studio ten
times as often as one.
"""

from __future__ import annotations

from typing import Literal

from redis import Redis

from plugin_config.queue.connection import redis_errors
from plugin_config.queue.keys import periodic_key

Purpose = Literal["looks", "rounds"]
"""What is asked for of all projects: that workers look at them, or that learners check their corrections."""

_PART = 0.9  # of the time between two turns: a process that comes a little early has its turn all the same

# KEYS: of the turn. ARGV: milliseconds, whether whoever had the last turn is passed over (0 or 1). Redis counts down by
# the time of its machine: a key that would stay for longer than that, which was set back, counts as gone.
_TAKE = """
local left = redis.call('PTTL', KEYS[1])
if ARGV[2] == '0' and left >= 0 and left <= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
return 1
"""


class PeriodicTurns:
    """The turns of one process. Holds a Redis connection; raises QueueUnavailable when Redis does not answer.

    Args:
        redis: the connection.
        purpose: of the turns.
        every_s: seconds between two turns, of all processes together.
    """

    def __init__(self, redis: Redis, purpose: Purpose, *, every_s: float) -> None:
        self._redis = redis
        self._key = periodic_key(purpose)
        self._kept_ms = max(1, int(every_s * 1000 * _PART))
        self._is_first = True

    @redis_errors
    def take(self) -> bool:
        """Whether it is this process's turn. The first is in any case: it may have been started with other settings."""
        taken = bool(self._redis.eval(_TAKE, 1, self._key, self._kept_ms, int(self._is_first)))
        self._is_first = False
        return taken
