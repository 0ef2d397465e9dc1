"""What the body of each route must be, judged with the standard library alone."""

from __future__ import annotations

import json
from typing import Any, Literal

from plugin_config.errors import LabelingConfigError
from plugin_config.vocabulary import parse_vocabulary

Right = Literal["right", "wrong", "either"]
_MOST_ID = 2**63 - 1
_DEEPEST = 90  # the backend takes 100 levels; other readers of JSON may stop earlier
_NEEDED = {"/setup": ("project", "schema"), "/predict": ("project", "label_config", "tasks"),
           "/webhook": ("action", "project"), "/train": ("project",), "/versions": ()}  # fmt: skip


def is_right(route: str, content: bytes) -> Right:
    """Whether a body keeps the contract of its route, judged with the standard library alone."""
    try:
        text = content.decode("utf-8-sig")
        body = json.loads(text, parse_constant=_refuse, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return "either" if _is_deep(content) else "wrong"
    if not isinstance(body, _Read):
        return "wrong"
    if _depth(body) > _DEEPEST:
        return "either"
    if body.twice:
        return "wrong" if set(body.twice) & {*_NEEDED[route], "project", "params"} else "either"
    if any(name not in body for name in _NEEDED[route]):
        return "wrong"
    if not _is_project(route, body.get("project")) and not (route == "/versions" and body.get("project") is None):
        return "wrong"
    return _is_rest_right(route, body)


def _is_rest_right(route: str, body: dict[str, Any]) -> Right:
    if route == "/webhook":
        return "right" if isinstance(body["action"], str) and _is_name(body["action"]) else "wrong"
    if route in ("/setup", "/predict"):
        config = body["schema" if route == "/setup" else "label_config"]
        if not isinstance(config, str):
            return "wrong"
        try:
            parse_vocabulary(config)
        except LabelingConfigError:
            return "wrong"
    if route != "/predict":
        return "right"
    params = body.get("params")
    if not (params is None or isinstance(params, dict)):
        return "wrong"
    tasks = body["tasks"]
    if not isinstance(tasks, list):
        return "wrong"
    if any(isinstance(task, _Read) and task.twice for task in tasks):
        return "either"
    return "right" if all(isinstance(task, dict) and _is_id(task.get("id")) for task in tasks) else "wrong"


class _Read(dict):  # type: ignore[type-arg]
    """An object, and the names that it has twice."""

    twice: list[str]


def _object(pairs: list[tuple[str, Any]]) -> _Read:
    found = _Read(pairs)
    names = [name for name, _ in pairs]
    found.twice = [name for name in found if names.count(name) > 1]
    return found


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _is_deep(content: bytes) -> bool:
    return content.count(b"[") + content.count(b"{") > _DEEPEST


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 < value <= _MOST_ID


def _is_project(route: str, value: Any) -> bool:
    if isinstance(value, dict) and route not in ("/setup", "/predict"):
        value = value.get("id")
    if isinstance(value, str):
        whole, dot, rest = value.partition(".")
        digits = whole.isascii() and whole.isdecimal() and whole[0] != "0" and len(value) <= 64
        return digits and int(whole) <= _MOST_ID and (not dot or (rest.isascii() and rest.isdecimal()))
    return _is_id(value)


def _is_name(value: str) -> bool:
    return 0 < len(value) <= 64 and all(char.isascii() and (char.isalnum() or char in "_.:-") for char in value)
