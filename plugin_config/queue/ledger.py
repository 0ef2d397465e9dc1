"""What is remembered of each project beside the states of its tasks: the versions we stored, serve and show, and where
a prediction may have arrived twice.

A copy for speed, kept in Redis; the truth is in Label Studio. It must not know who reads it.

Keys of project P:

    zeromask:P:versions   set     every version we stored predictions of
    zeromask:P:served     string  the version all tasks are to have, by the last look
    zeromask:P:catching   set     versions for which the tasks that need it have not all been asked for yet
    zeromask:P:shown      string  the version annotators were last switched to
    zeromask:P:counted    string  how many tasks the project had when all were last looked at
    zeromask:P:labels     hash    version: the last whose labels were looked at; remarks: JSON list of sentences about
                                  them, for people
    zeromask:P:warning    string  what keeps the project's webhooks from being let in, for people
    zeromask:P:left       set     tasks whose older predictions could not be deleted yet
    zeromask:P:doubts     zset    version|task posted with an unknown end -> moment until which it is looked at, ms
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from redis import Redis

from plugin_config.queue import scripts
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.odd import as_id, as_json, as_ref, as_text, readable

# Longer than Label Studio, or a proxy before it, works on a request whose sender is gone.
DOUBT_S = 180


class ProjectLedger:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @redis_errors
    def remember_version(self, project: int, version: str) -> None:
        """A prediction of ours carries this version."""
        self._redis.sadd(f"zeromask:{project}:versions", version)

    @redis_errors
    def known_versions(self, project: int) -> frozenset[str]:
        """Every version of ours: what may be replaced. All others were stored by somebody else."""
        key = f"zeromask:{project}:versions"
        rows: Any = self._redis.smembers(key)
        return frozenset(version for _, version in readable(self._redis, key, rows, as_text))

    @redis_errors
    def serve(self, project: int, version: str) -> None:
        """From now on all tasks are to have this version; whoever says so asks for them, then tells `caught_up`."""
        pipe = self._redis.pipeline()  # both or neither
        pipe.sadd(f"zeromask:{project}:catching", version)
        pipe.set(f"zeromask:{project}:served", version)
        pipe.execute()

    @redis_errors
    def caught_up(self, project: int, version: str) -> None:
        """All tasks that need it have been asked for at this version."""
        self._redis.srem(f"zeromask:{project}:catching", version)

    @redis_errors
    def is_catching_up(self, project: int, version: str) -> bool:
        """Whether `serve` was not followed by `caught_up`: somebody is at it, or died at it."""
        return bool(self._redis.sismember(f"zeromask:{project}:catching", version))

    @redis_errors
    def served(self, project: int) -> str:
        """The version of the last `serve`, "" before the first."""
        return _text(self._redis.get(f"zeromask:{project}:served") or "")

    @redis_errors
    def show(self, project: int, version: str) -> None:
        """Annotators have been switched to this version, once: what they choose afterwards is theirs."""
        self._redis.set(f"zeromask:{project}:shown", version)

    @redis_errors
    def shown(self, project: int) -> str:
        """The version of the last `show`, "" before the first."""
        return _text(self._redis.get(f"zeromask:{project}:shown") or "")

    @redis_errors
    def count(self, project: int, tasks: int) -> None:
        """All tasks of the project were looked at, this many."""
        self._redis.set(f"zeromask:{project}:counted", tasks)

    @redis_errors
    def counted(self, project: int) -> int:
        """How many tasks the project had at the last `count`, -1 before the first."""
        found = as_json(self._redis.get(f"zeromask:{project}:counted") or b"-1", _whole)
        return -1 if found is None else found

    @redis_errors
    def remark(self, project: int, version: str, remarks: Sequence[str]) -> None:
        """Keep what people should know about the labels of a version, instead of what was kept before."""
        told: Any = {"version": version, "remarks": json.dumps(list(remarks))}
        self._redis.hset(f"zeromask:{project}:labels", mapping=told)

    @redis_errors
    def remarked(self, project: int) -> str:
        """The version of the last `remark`, "" before the first."""
        return _text(self._redis.hget(f"zeromask:{project}:labels", "version") or "")

    @redis_errors
    def remarks(self, project: int) -> tuple[str, ...]:
        """What people should know about the labels, a sentence each."""
        found = self._redis.hget(f"zeromask:{project}:labels", "remarks") or b"[]"
        return as_json(found, _sentences) or ()

    @redis_errors
    def warn(self, project: int, warning: str) -> None:
        """Keep what people should know about the project's webhooks; "" = nothing."""
        if warning:
            self._redis.set(f"zeromask:{project}:warning", warning)
        else:
            self._redis.delete(f"zeromask:{project}:warning")

    @redis_errors
    def warning(self, project: int) -> str:
        """What the last `warn` told."""
        found: Any = self._redis.get(f"zeromask:{project}:warning")
        return "" if found is None else found.decode(errors="replace")

    @redis_errors
    def leave(self, project: int, task: int) -> None:
        """Older predictions of a task are still there, beside the one that was stored."""
        self._redis.sadd(f"zeromask:{project}:left", task)

    @redis_errors
    def left(self, project: int) -> list[int]:
        """The tasks of `leave`."""
        key = f"zeromask:{project}:left"
        rows: Any = self._redis.smembers(key)
        return sorted(task for _, task in readable(self._redis, key, rows, as_id))

    @redis_errors
    def clear_left(self, project: int, task: int) -> None:
        """There is one prediction of ours."""
        self._redis.srem(f"zeromask:{project}:left", task)

    @redis_errors
    def doubt(self, project: int, ref: TaskRef) -> None:
        """A prediction was sent and nobody heard whether it arrived: it may come late, and beside a second one."""
        self._redis.eval(scripts.DOUBT, 1, f"zeromask:{project}:", ref.encode(), DOUBT_S * 1000)

    @redis_errors
    def doubts(self, project: int) -> dict[TaskRef, bool]:
        """Where two predictions may be; True when nothing can arrive late any more, so that one last look is enough."""
        now = int(self._redis.eval(scripts.NOW, 1, f"zeromask:{project}:"))
        key = f"zeromask:{project}:doubts"
        rows: Any = self._redis.zrange(key, 0, -1, withscores=True)
        until: dict[Any, float] = dict(rows)
        return {ref: until[member] <= now for member, ref in readable(self._redis, key, until, as_ref)}

    @redis_errors
    def clear_doubt(self, project: int, ref: TaskRef) -> None:
        """There is one prediction, and no second one will come."""
        self._redis.zrem(f"zeromask:{project}:doubts", ref.encode())


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _whole(row: Any) -> int:
    if type(row) is not int:
        raise TypeError(row)
    return row


def _sentences(row: Any) -> tuple[str, ...]:
    if not isinstance(row, list):
        raise TypeError(row)
    return tuple(map(str, row))
