"""Dataclasses out of JSON that anyone may have written: each field is of the type it is declared with, or none is made.

It must not know any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast

T = TypeVar("T")

# How what a field is declared as begins -> what JSON makes of it.
_KINDS: Mapping[str, type[Any]] = {"str": str, "int": int, "bool": bool, "tuple[str": list, "Mapping[str": dict}


def checked(make: type[T], row: Any, **made: Any) -> T:
    """A dataclass of what JSON says, each field of the type it is declared with; `made` are those made already.

    Raises:
        TypeError, KeyError, ValueError: a field is missing, unknown, or of another type.
    """
    if not isinstance(row, dict):
        raise TypeError(f"must be an object, is a {type(row).__name__}")
    if unknown := set(row) - {item.name for item in fields(cast("Any", make))}:
        raise TypeError(f"field {min(unknown)!r} is not known to this release")
    return make(**{name: made[name] if name in made else _field(make, name, value) for name, value in row.items()})


def _field(make: type[Any], name: str, value: Any) -> Any:
    declared = str(make.__annotations__[name])
    kind = next(kind for start, kind in _KINDS.items() if declared.startswith(start))
    if type(value) is not kind or (kind is int and not 0 <= value < 2**63):
        raise TypeError(f"{name} must be a {kind.__name__}, is {str(value)[:40]!r}")
    if kind is list:
        if not all(type(item) is str for item in value):
            raise TypeError(f"{name} must be texts")
        return tuple(value)
    return value
