"""Keys in Redis that are of another kind than this project makes them: moved aside, so that the rest goes on.

Whoever reaches Redis may write what he likes there; a list where a set should be would otherwise break every look at
its project for good. It must not know what the keys are for.

Keys:

    zeromask:odd          list   the last hundred things set aside, as JSON, newest first; see odd.py too
    zeromask:odd:KEY      what stood under KEY and was of another kind than it should be; kept for a week
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from plugin_config.queue.keys import QUEUES

log = logging.getLogger(__name__)

ODD = "zeromask:odd"
MOST_TOLD = 100
_KEPT_S = 7 * 86400

_KINDS = {
    "zset": ("pending", "doubts"),
    "hash": ("leases", "tries", "deaths", "failed", "pace", "labels", "learn", "adapters"),
    "set": ("versions", "catching", "left", "hinted", "done"),
    "string": (
        "served", "shown", "counted", "warning", "refresh", "webhook", "learner", "learning", "pointer", "drain",
    ),
}  # fmt: skip
_OF_PROJECT = {name: kind for kind, names in _KINDS.items() for name in names}
_REGISTRIES = ("wip", "failed", "finished", "deferred", "scheduled", "canceled")
_OF_ALL = {
    "zeromask:projects": "set", "zeromask:paused": "set", "zeromask:unknown": "zset", "zeromask:refused": "hash",
    "zeromask:clock": "hash", "zeromask:errors": "list", "zeromask:learn": "zset", ODD: "list",
    "zeromask:workers": "zset", "zeromask:about": "hash", "zeromask:learners": "zset",
    "zeromask:learners:about": "hash", "rq:queues": "set", "rq:workers": "set",
    **{f"rq:queue:{queue}": "list" for queue in QUEUES},
    **{f"rq:queue:{queue}:intermediate": "list" for queue in QUEUES},
    **{f"rq:workers:{queue}": "set" for queue in QUEUES},
    **{f"rq:{registry}:{queue}": "zset" for queue in QUEUES for registry in _REGISTRIES},
}  # fmt: skip


def mend(redis: Redis, project: int | None = None) -> list[str]:
    """Move aside what is of the wrong kind among the keys all projects share, and among those of one project.

    Args:
        redis: the connection; its errors are redis-py's.
        project: its number, None = none.

    Returns:
        the keys that are free again.
    """
    wanted = dict(_OF_ALL)
    if project is not None:
        for key in _keys(redis, project):
            kind = _OF_PROJECT.get(key.split(":")[2])
            if kind is not None:
                wanted[key] = kind
    pipe = redis.pipeline(transaction=False)
    for key in wanted:
        pipe.type(key)
    found = dict(zip(wanted, (_text(kind) for kind in pipe.execute()), strict=True))
    wrong = [key for key, kind in wanted.items() if found[key] not in ("none", kind)]
    for key in wrong:
        _move_aside(redis, key, f"a {found[key]} where a {wanted[key]} should be")
    return wrong


def project_keys(redis: Redis, project: int) -> list[str]:
    """The keys a project may have, by name, whether they are there or not; without looking through all of Redis."""
    names = [name for name in _OF_PROJECT if name not in ("done", "drain")]
    keys = [f"zeromask:{project}:{name}" for name in names]
    with suppress(ResponseError):  # of the wrong kind: nothing to be read there
        versions: Any = redis.smembers(f"zeromask:{project}:versions")
        keys += [f"zeromask:{project}:done:{_text(version)}" for version in versions]
    return keys + [f"zeromask:{project}:drain:{slot}" for slot in range(10)]


def note(redis: Redis, key: str, what: str) -> None:
    """Tell people that something was set aside: in the log, and for `zeromask status`."""
    log.error("Redis key %s: %s is set aside; look who else writes to this Redis", key, what)
    seconds: Any = redis.time()
    row = json.dumps({"at": int(seconds[0]) * 1000, "key": key, "what": what})
    with suppress(ResponseError):
        redis.lpush(ODD, row)
        redis.ltrim(ODD, 0, MOST_TOLD - 1)


def _move_aside(redis: Redis, key: str, what: str) -> None:
    if key == ODD:
        redis.delete(key)
    else:
        aside = f"{ODD}:{key}"
        with suppress(ResponseError):  # somebody else has moved it meanwhile
            redis.rename(key, aside)
            redis.expire(aside, _KEPT_S)
    note(redis, key, what)


def _keys(redis: Redis, project: int) -> list[str]:
    found: Any = redis.scan_iter(match=f"zeromask:{project}:*", count=1000)
    return [_text(key) for key in found]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
