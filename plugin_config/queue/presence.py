"""Which workers live, and what each says of itself. It must not know what they work on.

Keys:

    zeromask:workers          zset   worker name -> last heartbeat, ms of Redis' clock
    zeromask:about            hash   worker name -> JSON: model, device, what it waits for
    zeromask:learners, zeromask:learners:about     the same of the processes that learn
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from plugin_config.queue.connection import redis_errors
from plugin_config.queue.odd import as_json

_SEEN_MS = 15_000


@dataclass(frozen=True)
class WorkerState:
    """One living worker: `age_s` seconds since its last sign, `about` what it said then."""

    name: str
    age_s: float
    about: Mapping[str, str]


class WorkerPresence:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer.

    Args:
        redis: the connection.
        learners: of the processes that learn, not of those that predict.
    """

    def __init__(self, redis: Redis, *, learners: bool = False) -> None:
        self._redis = redis
        self._seen = "zeromask:learners" if learners else "zeromask:workers"
        self._about = "zeromask:learners:about" if learners else "zeromask:about"

    @redis_errors
    def heartbeat(self, worker: str, about: Mapping[str, str] | None = None) -> None:
        """A worker lives, and says this of itself."""
        now = self._now_ms()
        gone = self._redis.zrangebyscore(self._seen, "-inf", now - _SEEN_MS)
        pipe = self._redis.pipeline()
        if gone:
            pipe.zrem(self._seen, *gone)
            pipe.hdel(self._about, *gone)
        pipe.zadd(self._seen, {worker: now})
        pipe.hset(self._about, worker, json.dumps(dict(about or {})))
        pipe.execute()

    @redis_errors
    def leave(self, worker: str) -> None:
        """A worker goes in good order."""
        self._redis.zrem(self._seen, worker)
        self._redis.hdel(self._about, worker)

    @redis_errors
    def live_workers(self) -> int:
        """Workers that gave a sign of life within the last 15 s."""
        return int(self._redis.zcount(self._seen, *self._window()))

    @redis_errors
    def workers(self) -> list[WorkerState]:
        """The living workers by name."""
        now = self._now_ms()
        rows: Any = self._redis.zrangebyscore(self._seen, *self._window(), withscores=True)
        about: Any = self._redis.hmget(self._about, [name for name, _ in rows]) if rows else []
        states = []
        for (name, seen), told in zip(rows, about, strict=True):
            said = as_json(told or b"{}", _said) or {}
            states.append(WorkerState(name.decode(errors="replace"), max(0.0, (now - seen) / 1000), said))
        return sorted(states, key=lambda state: state.name)

    def _window(self) -> tuple[int, int]:
        now = self._now_ms()  # a sign from far ahead was given before the clock was set back: it says nothing
        return now - _SEEN_MS, now + _SEEN_MS

    def _now_ms(self) -> int:
        seconds, micros = self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000


def _said(row: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in row.items()}
