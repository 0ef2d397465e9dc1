"""Which workers cannot use a version that others perhaps can: it gives NaN at their precision, or needs other weights.

What a project is served with is one thing for all workers. A version whose files are whole is withdrawn, and the
project served zero-shot, if and only if a living worker of the model refuses it and none lives that does not. Whoever
writes Redis' copy of what is served asks for that here, so that all write the same.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis

from plugin_config.json_records import make_dataclass, parse_json
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.presence import WorkerPresence

_MOST_REASON = 500


@dataclass(frozen=True)
class Refusal:
    """What a worker cannot use: a version, and why, a sentence for people with the remedy."""

    version: str
    reason: str


class VersionRefusals:
    """Holds a Redis connection. Every method raises QueueUnavailable where Redis does not answer.

    Args:
        redis: the connection.
        model: the MODEL of this process: workers of another one say nothing about its versions.
    """

    def __init__(self, redis: Redis, model: str) -> None:
        self._redis = redis
        self._model = model
        self._workers = WorkerPresence(redis)

    @redis_errors
    def note(self, project: int, worker: str, refusal: Refusal) -> None:
        """Note that a worker refuses what is served, in place of what it refused before; those of the dead go."""
        key, row = ProjectKeys(project).refusals, json.dumps(asdict(Refusal(refusal.version, _short(refusal.reason))))
        if self._redis.hget(key, worker) == row.encode():
            return
        rows: Any = self._redis.hkeys(key)
        gone = set(rows) - {name.encode() for name in (*self._living(), worker)}
        pipe = self._redis.pipeline()
        if gone:
            pipe.hdel(key, *gone)
        pipe.hset(key, worker, row)
        pipe.execute()

    @redis_errors
    def reason(self, project: int, version: str, *, worker: str = "") -> str:
        """Why a version is withdrawn; "" = it is not.

        Args:
            project: its id.
            version: name of the version.
            worker: one that lives whatever its heartbeat says: the one that asks.
        """
        living = sorted({*self._living(self._model), *([worker] if worker else [])})
        rows: Any = self._redis.hmget(ProjectKeys(project).refusals, living) if living else []
        notes = [None if row is None else parse_json(row, _refusal) for row in rows]
        reasons = [note.reason for note in notes if note is not None and note.version == version]
        return reasons[0] if reasons and len(reasons) == len(living) else ""

    def _living(self, model: str | None = None) -> list[str]:
        """Names of the living workers, of one model or of all."""
        return [row.name for row in self._workers.workers() if model in (None, row.about.get("model"))]


def _short(reason: str) -> str:
    return reason if len(reason) <= _MOST_REASON else reason[: _MOST_REASON - 1] + "…"


def _refusal(row: Any) -> Refusal:
    return make_dataclass(Refusal, row)
