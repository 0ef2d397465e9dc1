"""Request bodies as Label Studio sends them -> what this backend uses of them, checked.

A body is a hint that anyone may send: only ids, the labeling config and the kind of request are taken, never task data,
tokens or results. It must not know Flask, Redis or what is done with a request.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from plugin_config.errors import JobError

_REMEDY = "Send what Label Studio's ML backend client sends."
_PROJECT = re.compile(r"([1-9][0-9]{0,18})(\.[0-9]+)?")  # Label Studio sends "<id>.<created at>"
_ACTION = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_MOST_ID = 2**63 - 1  # what a database key can be
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class SetupBody:
    """POST /setup: the labeling config of a project. The access token is not read."""

    project: int
    label_config: str


@dataclass(frozen=True)
class PredictBody:
    """POST /predict: task ids in the order asked, with repeats; `interactive` when somebody clicked in a picture."""

    project: int
    label_config: str
    tasks: tuple[int, ...]
    interactive: bool


@dataclass(frozen=True)
class WebhookBody:
    """POST /webhook: something happened in a project, to these tasks where it tells."""

    action: str
    project: int
    tasks: tuple[int, ...] = ()


def read_setup(data: bytes) -> SetupBody:
    """Read the body of /setup.

    Raises:
        JobError: not JSON, or a field is missing or of the wrong type; the message names it.
    """
    body = read_object(data)
    return SetupBody(project_id(_field(body, "project")), _text(body, "schema"))


def read_predict(data: bytes) -> PredictBody:
    """Read the body of /predict, task by task.

    One request may carry 100,000 tasks. Decoded at once they cost ten times their bytes in memory, and the interpreter
    answers nobody else, not even /health, until the last one is read; so each is let go when its id is known.

    Raises:
        JobError: not JSON, or a field is missing or of the wrong type; the message names it.
    """
    text = _decode(data)
    body: dict[str, Any] = {}
    try:
        reader = _Reader(text)
        for name in reader.names():
            body[name] = tuple(_task_ids(reader)) if name == "tasks" and reader.peek() == "[" else reader.value()
        reader.end()
    except (ValueError, RecursionError) as error:
        raise _not_json(error) from error
    tasks = _field(body, "tasks")
    if not isinstance(tasks, tuple):
        raise _wrong("tasks", "a list of tasks", tasks)
    params = body.get("params") or {}
    if not isinstance(params, dict):
        raise _wrong("params", "an object", params)
    interactive = params.get("context") is not None
    return PredictBody(project_id(_field(body, "project")), _text(body, "label_config"), tasks, interactive)


def read_webhook(data: bytes) -> WebhookBody:
    """Read the body of /webhook; `project` may be an id or an object with one.

    Raises:
        JobError: not JSON, or a field is missing or of the wrong type; the message names it.
    """
    body = read_object(data)
    action = _text(body, "action")
    if not _ACTION.fullmatch(action):
        raise _wrong("action", "a name such as PROJECT_UPDATED", action)
    project, tasks = _field(body, "project"), _hinted_tasks(body.get("tasks"))
    if isinstance(project, dict):
        return WebhookBody(action, project_id(project.get("id"), name="project.id"), tasks)
    return WebhookBody(action, project_id(project), tasks)


def read_object(data: bytes) -> dict[str, Any]:
    """Read any body that must be a JSON object.

    Raises:
        JobError: it is not.
    """
    try:
        body = json.loads(_decode(data))
    except (ValueError, RecursionError) as error:
        raise _not_json(error) from error
    if not isinstance(body, dict):
        raise JobError("request body", f"must be a JSON object, got {type(body).__name__}", _REMEDY)
    return body


def project_id(value: Any, *, name: str = "project") -> int:
    """`12`, `"12"` or Label Studio's `"12.1700000000"` -> 12.

    Raises:
        JobError: it is none of these; the message calls it `name`.
    """
    if type(value) is int and 0 < value <= _MOST_ID:
        return value
    match = _PROJECT.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[1]) > _MOST_ID:
        raise _wrong(name, "a project id such as '12.1700000000'", value)
    return int(match[1])


class _Reader:
    """Walks through JSON text one value at a time. Raises ValueError where the text is not JSON."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def peek(self) -> str:
        """The next sign that is not white space; empty at the end."""
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._text[self._at : self._at + 1]

    def value(self) -> Any:
        """Decode the next value."""
        self.peek()
        value, self._at = _DECODER.raw_decode(self._text, self._at)
        return value

    def items(self, opening: str, closing: str) -> Iterator[None]:
        """Stand before each item of a list or an object in turn; the caller reads it."""
        self._need(opening)
        if self.peek() != closing:
            yield
            while self.peek() == ",":
                self._at += 1
                yield
        self._need(closing)

    def names(self) -> Iterator[str]:
        """Stand before the value of each name of an object in turn; the caller reads it."""
        for _ in self.items("{", "}"):
            name = self.value()
            if not isinstance(name, str):
                raise json.JSONDecodeError("Expecting a name", self._text, self._at)
            self._need(":")
            yield name

    def end(self) -> None:
        """Nothing may follow."""
        if self.peek():
            raise json.JSONDecodeError("Extra data", self._text, self._at)

    def _need(self, sign: str) -> None:
        if self.peek() != sign:
            raise json.JSONDecodeError(f"Expecting {sign!r}", self._text, self._at)
        self._at += 1


def _task_ids(reader: _Reader) -> Iterator[int]:
    for _ in reader.items("[", "]"):
        task = reader.value()
        number = task.get("id") if isinstance(task, dict) else task
        if not isinstance(task, dict) or type(number) is not int or not 0 < number <= _MOST_ID:
            raise _wrong("tasks", "objects with a positive whole number as `id`", number)
        yield number


def _hinted_tasks(rows: Any) -> tuple[int, ...]:
    ids = [row.get("id") if isinstance(row, dict) else row for row in rows] if isinstance(rows, list) else []
    return tuple(task for task in ids if type(task) is int and 0 < task <= _MOST_ID)


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_json(error) from error


def _not_json(error: Exception) -> JobError:
    # The parser's words, not the text it failed on: it may hold a token.
    place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
    return JobError("request body", f"is not a JSON object{place}", _REMEDY)


def _field(body: dict[str, Any], name: str) -> Any:
    if name not in body:
        raise JobError("request body", f"{name} is missing", _REMEDY)
    return body[name]


def _text(body: dict[str, Any], name: str) -> str:
    value = _field(body, name)
    if not isinstance(value, str):
        raise _wrong(name, "text", value)
    return value


def _wrong(name: str, expected: str, value: Any) -> JobError:
    return JobError("request body", f"{name} must be {expected}, got {reprlib.repr(value)}", _REMEDY)
