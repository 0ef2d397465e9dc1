"""Request bodies as Label Studio sends them -> what this backend uses of them, checked.

A body is a hint that anyone may send: only ids, the labeling config and the kind of request are taken, never task data,
tokens or results; what is not taken is not even built. It must not know the web framework, Redis or what is done with
a request.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backend.json_stream import REMEDY, JsonReader, Readable, twice
from plugin_config.errors import JobError

_PROJECT = re.compile(r"([1-9][0-9]{0,18})(\.[0-9]+)?")  # Label Studio sends "<id>.<created at>"
_LONGEST_PROJECT = 64  # characters; more is not looked at
_ACTION = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_MOST_ID = 2**63 - 1  # what a database key can be
_MOST_TASKS = 1_000_000  # of one request: some 300 MB while they are asked for, ten times what people were seen to ask
_MOST_HINTED = 10_000  # Label Studio tells of at most 5,000 at a time


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


def read_setup(stream: Readable) -> SetupBody:
    """Read the body of /setup.

    Raises:
        JobError: not JSON, or a field is missing, twice there or of the wrong type; the message names it.
    """
    body = _read(stream, {"project": JsonReader.value, "schema": JsonReader.text})
    return SetupBody(project_id(_field(body, "project")), _text(body, "schema"))


def read_predict(stream: Readable) -> PredictBody:
    """Read the body of /predict: of each task its id and nothing else.

    Raises:
        JobError: not JSON, a field is missing, twice there or of the wrong type, or there are too many tasks; the
            message names it.
    """
    body = _read(stream, {
        "tasks": _tasks, "project": JsonReader.value, "label_config": JsonReader.text, "params": _context,
    })  # fmt: skip
    tasks = _field(body, "tasks")
    if not isinstance(tasks, tuple):
        raise _wrong("tasks", "a list of tasks", tasks)
    interactive = body.get("params") is not None
    return PredictBody(project_id(_field(body, "project")), _text(body, "label_config"), tasks, interactive)


def read_webhook(stream: Readable) -> WebhookBody:
    """Read the body of /webhook; `project` may be an id or an object with one.

    Raises:
        JobError: not JSON, or a field is missing, twice there or of the wrong type; the message names it.
    """
    body = _read(stream, {"action": JsonReader.value, "project": _project, "tasks": _hinted_tasks})
    action = _text(body, "action")
    if not _ACTION.fullmatch(action):
        raise _wrong("action", "a name such as PROJECT_UPDATED", action)
    return WebhookBody(action, _field(body, "project"), body.get("tasks", ()))


def read_project(stream: Readable) -> int | None:
    """Read a body of which only `project` counts, an id or an object with one; None when there is none.

    Raises:
        JobError: not JSON, or `project` is twice there or of the wrong type.
    """
    project: int | None = _read(stream, {"project": _project_or_none}).get("project")
    return project


def project_id(value: Any, *, name: str = "project") -> int:
    """`12`, `"12"` or Label Studio's `"12.1700000000"` -> 12.

    Raises:
        JobError: it is none of these; the message calls it `name`.
    """
    if type(value) is int and 0 < value <= _MOST_ID:
        return value
    match = _PROJECT.fullmatch(value) if isinstance(value, str) and len(value) <= _LONGEST_PROJECT else None
    if match is None or int(match[1]) > _MOST_ID:
        raise _wrong(name, "a project id such as '12.1700000000'", value)
    return int(match[1])


_Read = Callable[[JsonReader], Any]


def _read(stream: Readable, fields: Mapping[str, _Read]) -> dict[str, Any]:
    """What the body's fields hold, each read in its own way; all others are skipped."""
    reader, body = JsonReader(stream), dict[str, Any]()
    for name in reader.fields():
        if name in body:
            raise twice(name)
        if name in fields:
            body[name] = fields[name](reader)
        else:
            reader.value()
    reader.end()
    return body


def _tasks(reader: JsonReader) -> Any:
    return tuple(_task_ids(reader)) if reader.peek() == "[" else reader.value()


def _task_ids(reader: JsonReader) -> Iterator[int]:
    for count, _ in enumerate(reader.items()):
        is_task = reader.peek() == "{"
        number = reader.field_of_object("id")
        if not is_task or not _is_id(number):
            raise _wrong("tasks", "objects with a positive whole number as `id`", number)
        if count == _MOST_TASKS:
            raise JobError("request body", f"asks for more than {_MOST_TASKS} tasks", "Ask for fewer at a time.")
        yield number


def _context(reader: JsonReader) -> Any:
    """What `params` says of a click; None when it says nothing."""
    if reader.peek() in ("{", "n"):
        return reader.field_of_object("context")
    raise _wrong("params", "an object", reader.value())


def _project(reader: JsonReader) -> int:
    in_object = reader.peek() == "{"
    return project_id(reader.field_of_object("id"), name="project.id" if in_object else "project")


def _project_or_none(reader: JsonReader) -> int | None:
    if reader.peek() == "n":
        reader.value()
        return None
    return _project(reader)


def _hinted_tasks(reader: JsonReader) -> tuple[int, ...]:
    if reader.peek() != "[":
        reader.value()
        return ()
    tasks: list[int] = []
    for count, _ in enumerate(reader.items()):
        if count == _MOST_HINTED:
            reader.pass_rest()
            break
        task = reader.field_of_object("id")
        if _is_id(task):
            tasks.append(task)
    return tuple(tasks)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 < value <= _MOST_ID


def _field(body: dict[str, Any], name: str) -> Any:
    if name not in body:
        raise JobError("request body", f"{name} is missing", REMEDY)
    return body[name]


def _text(body: dict[str, Any], name: str) -> str:
    value = _field(body, name)
    if not isinstance(value, str):
        raise _wrong(name, "text", value)
    return value


def _wrong(name: str, expected: str, value: Any) -> JobError:
    got = "a number" if isinstance(value, int) and abs(value) > _MOST_ID else reprlib.repr(value)
    return JobError("request body", f"{name} must be {expected}, got {got}", REMEDY)
