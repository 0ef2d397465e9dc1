"""Which workers are alive, and what each says about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from plugin_config.json_records import parse_json
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.contract import contract_remark
from plugin_config.queue.keys import CLICKERS, CLICKERS_ABOUT, LEARNERS, LEARNERS_ABOUT, WORKERS, WORKERS_ABOUT

ALIVE_MS = 15_000
"""How long a worker counts as alive after a heartbeat."""


@dataclass(frozen=True)
class WorkerState:
    """One living worker.

    Attributes:
        name: unique among all workers: host, process id and a number at random, joined by hyphens.
        age_s: seconds since its last heartbeat.
        about: what it said with it: model, device, what is in its way.
    """

    name: str
    age_s: float
    about: Mapping[str, str]

    @property
    def host(self) -> str:
        """Name of its machine."""
        return self.name.rsplit("-", 2)[0]

    @property
    def process(self) -> str:
        """Its machine and process id, `host-pid`."""
        return self.name.rsplit("-", 1)[0]

    @property
    def trouble(self) -> str:
        """What keeps it from working, and whether its contract is another one than here; "" = neither."""
        return "; ".join(part for part in (self.about.get("trouble", ""), contract_remark(self.about)) if part)


class WorkerPresence:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer.

    Args:
        redis: the connection.
        learners: of the processes that learn, not of those that predict.
        clickers: of those that answer clicks, which may predict, too.
    """

    def __init__(self, redis: Redis, *, learners: bool = False, clickers: bool = False) -> None:
        self._redis = redis
        self._heartbeats = CLICKERS if clickers else LEARNERS if learners else WORKERS
        self._about = CLICKERS_ABOUT if clickers else LEARNERS_ABOUT if learners else WORKERS_ABOUT

    @redis_errors
    def heartbeat(self, worker: str, about: Mapping[str, str] | None = None) -> None:
        """Note that a worker is alive, and what it says about itself."""
        now = self._now_ms()
        gone = self._redis.zrangebyscore(self._heartbeats, "-inf", now - ALIVE_MS)
        pipe = self._redis.pipeline()
        if gone:
            pipe.zrem(self._heartbeats, *gone)
            pipe.hdel(self._about, *gone)
        pipe.zadd(self._heartbeats, {worker: now})
        pipe.hset(self._about, worker, json.dumps(dict(about or {})))
        pipe.execute()

    @redis_errors
    def remove(self, worker: str) -> None:
        """Forget a worker that stops in good order."""
        self._redis.zrem(self._heartbeats, worker)
        self._redis.hdel(self._about, worker)

    @redis_errors
    def count(self) -> int:
        """Number of workers with a heartbeat in the last 15 s."""
        return int(self._redis.zcount(self._heartbeats, *self._window()))

    @redis_errors
    def workers(self) -> list[WorkerState]:
        """The living workers by name."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.time()
        pipe.zrange(self._heartbeats, 0, -1, withscores=True)
        (seconds, micros), heartbeats = pipe.execute()
        now = int(seconds) * 1000 + int(micros) // 1000
        rows = [(name, heartbeat) for name, heartbeat in heartbeats if abs(now - heartbeat) <= ALIVE_MS]
        abouts: Any = self._redis.hmget(self._about, [name for name, _ in rows]) if rows else []
        states = []
        for (name, heartbeat), text in zip(rows, abouts, strict=True):
            about = parse_json(text or b"{}", _texts) or {}
            states.append(WorkerState(name.decode(errors="replace"), max(0.0, (now - heartbeat) / 1000), about))
        return sorted(states, key=lambda state: state.name)

    def _window(self) -> tuple[int, int]:
        now = self._now_ms()  # a heartbeat far ahead is from before the clock was set back, and proves nothing
        return now - ALIVE_MS, now + ALIVE_MS

    def _now_ms(self) -> int:
        seconds, micros = self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000


def _texts(row: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in row.items()}
