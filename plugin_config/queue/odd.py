"""Members in Redis that this project did not write: each is set aside and told, and costs nothing but itself.

Whoever reaches Redis may write what he likes there. Keys of the wrong kind are `queue.mending`'s. It must not
know what the members are for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from redis import Redis

from plugin_config.errors import JobError
from plugin_config.queue.jobs import MOST_ID, TaskRef
from plugin_config.queue.mending import note

T = TypeVar("T")

_SHOWN = 60  # signs of an odd member that are told

# Takes members out of whatever kind of key. KEYS: the key. ARGV: the members.
_TAKE_OUT = """
local command = ({set = 'SREM', zset = 'ZREM', hash = 'HDEL'})[redis.call('TYPE', KEYS[1]).ok]
local gone = 0
for i = 1, command and #ARGV or 0 do gone = gone + redis.call(command, KEYS[1], ARGV[i]) end
return gone
"""


def as_id(member: Any) -> int | None:
    """The id that a member stands for, None where it is none as this project writes them."""
    try:
        found = int(member)
    except (ValueError, TypeError):
        return None
    return found if 0 < found <= MOST_ID and str(found).encode() == _as_bytes(member) else None


def as_ref(member: Any) -> TaskRef | None:
    """The task that a member stands for, None where it is none as this project writes them."""
    try:
        found = TaskRef.decode(_as_bytes(member).decode())
    except (JobError, ValueError):
        return None
    return found if found.encode().encode() == _as_bytes(member) else None


def as_text(member: Any) -> str | None:
    """A text that Redis holds, None where it is not UTF-8."""
    try:
        return _as_bytes(member).decode()
    except ValueError:
        return None


def as_json(data: Any, make: Callable[[Any], T]) -> T | None:
    """What `make` makes of a JSON text, None where it is none, or not one that `make` takes."""
    try:
        return make(json.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None


def readable(redis: Redis, key: str, members: Iterable[Any], read: Callable[[Any], T | None]) -> list[tuple[Any, T]]:
    """The members of a key that can be read, each with what it stands for; the others are taken out of it and told.

    Errors are redis-py's.
    """
    found, odd = [], []
    for member in members:
        meant = read(member)
        if meant is None:
            odd.append(member)
        else:
            found.append((member, meant))
    if odd:
        set_aside(redis, key, odd)
    return found


def set_aside(redis: Redis, key: str, members: list[Any]) -> None:
    """Take members out of a set, sorted set or hash, and tell of it."""
    for start in range(0, len(members), 5000):
        redis.eval(_TAKE_OUT, 1, key, *members[start : start + 5000])
    shown = repr(_as_bytes(members[0])[:_SHOWN])[1:]
    others = f" and {len(members) - 1} more" if len(members) > 1 else ""
    note(redis, key, f"member {shown}{others}, which nobody here wrote,")


def _as_bytes(member: Any) -> bytes:
    return member if isinstance(member, bytes) else str(member).encode(errors="surrogateescape")
