"""Quarantine: keys of a wrong type and members in a wrong format are set aside, so that the rest of Redis stays usable.

Anyone who reaches this Redis can write to it. A list where a set is expected would otherwise break every request for
its project for good. Each thing set aside is logged and listed by `zeromask status`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import ResponseError

from plugin_config.json_records import parse_json
from plugin_config.queue.keys import ODD, SHARED_TYPES, project_key_type, project_pattern, quarantined

log = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_ENTRIES = 100
_KEPT_S = 7 * 86400
_SHOWN = 60  # characters of a member in a report
_BULK = 5000

# Removes members from a set, sorted set or hash. KEYS: the key. ARGV: the members.
_REMOVE = """
local command = ({set = 'SREM', zset = 'ZREM', hash = 'HDEL'})[redis.call('TYPE', KEYS[1]).ok]
local gone = 0
for i = 1, command and #ARGV or 0 do gone = gone + redis.call(command, KEYS[1], ARGV[i]) end
return gone
"""


@dataclass(frozen=True)
class QuarantineEntry:
    """Something in Redis that this project did not write and that was set aside.

    Attributes:
        at: when, UTC.
        key: the key it was found in.
        what: a description for people.
    """

    at: datetime
    key: str
    what: str


def quarantine_keys(redis: Redis, project: int | None = None) -> list[str]:
    """Move away the keys that have a wrong type: those that all projects share, and those of one project.

    Args:
        redis: the connection; its errors are redis-py's.
        project: id of the project; None = shared keys only.

    Returns:
        the keys that were moved.
    """
    expected = dict(SHARED_TYPES)
    if project is not None:
        keys: Any = redis.scan_iter(match=project_pattern(project), count=1000)
        for key in map(decode, keys):
            wanted = project_key_type(key)
            if wanted is not None:
                expected[key] = wanted
    pipe = redis.pipeline(transaction=False)
    for key in expected:
        pipe.type(key)
    found = dict(zip(expected, map(decode, pipe.execute()), strict=True))
    wrong = [key for key, wanted in expected.items() if found[key] not in ("none", wanted)]
    for key in wrong:
        _move_away(redis, key, f"a {found[key]} where a {expected[key]} should be")
    return wrong


def valid_members(
    redis: Redis, key: str, members: Iterable[Any], parse: Callable[[Any], T | None]
) -> list[tuple[Any, T]]:
    """Parse members of a key; those that cannot be parsed are removed from the key and reported.

    Args:
        redis: the connection; its errors are redis-py's.
        key: a set, sorted set or hash.
        members: as Redis returned them.
        parse: returns None for a member in a wrong format.

    Returns:
        each valid member with its value, in the order of `members`.
    """
    valid, invalid = [], []
    for member in members:
        value = parse(member)
        if value is None:
            invalid.append(member)
        else:
            valid.append((member, value))
    if invalid:
        _remove_members(redis, key, invalid)
    return valid


def report(redis: Redis, key: str, what: str) -> None:
    """Report that something was set aside: in the log and for `zeromask status`."""
    log.error("Redis key %s: %s is set aside; look who else writes to this Redis", key, what)
    seconds: Any = redis.time()
    row = json.dumps({"at": int(seconds[0]) * 1000, "key": key, "what": what})
    with suppress(ResponseError):
        redis.lpush(ODD, row)
        redis.ltrim(ODD, 0, _MOST_ENTRIES - 1)


def quarantine_entries(redis: Redis, most: int) -> list[QuarantineEntry]:
    """The last things set aside, newest first; at most `most` rows are read, and unreadable ones are left out."""
    rows: Any = redis.lrange(ODD, 0, most - 1) if most else []
    return [entry for entry in (parse_json(row, _entry) for row in rows) if entry is not None]


def parse_moment(at_ms: Any) -> datetime:
    """Make a moment of the milliseconds that a JSON row has.

    Raises:
        ValueError: it is no number, or out of range.
    """
    if type(at_ms) not in (int, float) or not 0 <= at_ms < 1e14:
        raise ValueError(at_ms)
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC)


def decode(value: Any) -> str:
    """What Redis returned, as text; bytes that are no UTF-8 are replaced."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _remove_members(redis: Redis, key: str, members: list[Any]) -> None:
    for start in range(0, len(members), _BULK):
        redis.eval(_REMOVE, 1, key, *members[start : start + _BULK])
    first = members[0] if isinstance(members[0], bytes) else str(members[0]).encode(errors="surrogateescape")
    others = f" and {len(members) - 1} more" if len(members) > 1 else ""
    report(redis, key, f"member {repr(first[:_SHOWN])[1:]}{others}, which nobody here wrote,")


def _move_away(redis: Redis, key: str, what: str) -> None:
    if key == ODD:
        redis.delete(key)
    else:
        with suppress(ResponseError):  # another process has moved it meanwhile
            redis.rename(key, quarantined(key))
            redis.expire(quarantined(key), _KEPT_S)
    report(redis, key, what)


def _entry(row: Any) -> QuarantineEntry:
    return QuarantineEntry(parse_moment(row["at"]), str(row["key"])[:200], str(row["what"])[:200])
