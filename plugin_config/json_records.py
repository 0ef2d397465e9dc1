"""Parses JSON that anyone may have written: into values of the declared types, or into nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast

T = TypeVar("T")

# How the declared type of a field begins -> the type that JSON has for it.
_JSON_TYPES: Mapping[str, type[Any]] = {"str": str, "int": int, "bool": bool, "tuple[str": list, "Mapping[str": dict}


def parse_json(text: Any, make: Callable[[Any], T]) -> T | None:
    """Parse a JSON text and pass it to `make`; None where it is no JSON, or `make` does not accept it."""
    try:
        return make(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None


def json_name(value: Any) -> str:
    """What a JSON value is, for people: "a list", "null"."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names: dict[type[Any], str] = {dict: "an object", list: "a list", str: "a text"}
    return names.get(type(value), "a number")


def make_dataclass(make: type[T], row: Any, **made: Any) -> T:
    """Make a dataclass of a JSON object, after checking the type of each field.

    Args:
        make: the dataclass.
        row: what was read from JSON.
        made: fields that are converted already and need no check.

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
    expected = next(expected for start, expected in _JSON_TYPES.items() if declared.startswith(start))
    if type(value) is not expected or (expected is int and not 0 <= value < 2**63):
        raise TypeError(f"{name} must be a {expected.__name__}, is {str(value)[:40]!r}")
    if expected is list:
        if not all(type(item) is str for item in value):
            raise TypeError(f"{name} must be texts")
        return tuple(value)
    return value
