"""The form of every record of a state folder and of the Redis file in it, without its content."""

from __future__ import annotations

import json
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from redis import Redis

from tests.upgrade.read_state import served_copy

# What another run of the same code writes differently; the order counts.
_VARIABLE = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?:\+00:00|Z)"), "MOMENT"),
    (re.compile(r"(?<![0-9A-Za-z])-?[0-9]+(?:\.[0-9]+)?(?:e\+?[0-9]+)?(?![0-9A-Za-z])"), "N"),
    (re.compile(r"\b[0-9a-f]{6,}\b"), "N"),
    (re.compile(r"[0-9]+"), "N"),
)
_PASSING = re.compile(r"rq:(?:clean_registries|worker)|zeromask:clock")


def shapes(folder: Path) -> dict[str, Any]:
    """Key or file -> its form: type and names of JSON fields; texts with numbers, digests and moments replaced."""
    with served_copy(folder) as (_, redis):
        keys: Any = redis.keys("*")
        forms = defaultdict[str, list[Any]](list)
        for key in sorted(keys):
            if not _PASSING.match(key.decode()):
                forms[f"redis {_plain(key)}"].append(_value(redis, key))
        found = {name: _merged(rows) for name, rows in forms.items()}
    for path in sorted(folder.rglob("*.json*")):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        name = _plain(path.relative_to(folder).as_posix())
        found[f"file {name}"] = _merged([_form(json.loads(line)) for line in lines])
    return dict(json.loads(json.dumps(found)))


def _value(redis: Redis, key: bytes) -> list[Any]:
    kind = redis.type(key).decode()  # type: ignore[union-attr]
    read: Mapping[str, Callable[[], Any]] = {
        "string": lambda: [_text(redis.get(key))],
        "list": lambda: [_text(row) for row in redis.lrange(key, 0, -1)],
        "set": lambda: [_text(row) for row in redis.smembers(key)],
        "zset": lambda: [_text(row) for row in redis.zrange(key, 0, -1)],
        "hash": lambda: [{_plain(name): _text(row)} for name, row in redis.hgetall(key).items()],
    }
    return [kind, _merged(read[kind]())]


def _text(value: Any) -> Any:
    """The form of JSON, packed or not; else the text itself."""
    try:
        return _form(json.loads(zlib.decompress(value)))
    except zlib.error:
        pass
    try:
        return _form(json.loads(value))
    except ValueError:
        return _plain(value)


def _form(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(name): _form(part) for name, part in value.items()}
    if isinstance(value, list):
        return _merged([_form(part) for part in value])
    return "a number" if type(value) in (int, float) else "null" if value is None else type(value).__name__


def _merged(rows: list[Any]) -> list[Any]:
    """Each form once, in a fixed order."""
    return [json.loads(text) for text in sorted({json.dumps(row, sort_keys=True) for row in rows})]


def _plain(text: bytes | str) -> str:
    found = text.decode(errors="replace") if isinstance(text, bytes) else text
    for pattern, name in _VARIABLE:
        found = pattern.sub(name, found)
    return found
