"""Parses the request bodies that Label Studio sends, and checks the fields that this backend uses.

Anyone may send a body: only ids, the labeling config and the kind of request are read, never task data, tokens or
results; other fields are skipped without building their values.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.click_payloads import Region, TaskInside, read_regions, read_task
from backend.json_stream import REMEDY, JsonReader, Readable, duplicate
from plugin_config.errors import JobError

_PROJECT = re.compile(r"([1-9][0-9]{0,18})(\.[0-9]+)?")  # Label Studio sends "<id>.<created at>"
_MAX_PROJECT_CHARS = 64
_ACTION = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_MAX_ID = 2**63 - 1  # of a database key
_MAX_TASKS = 1_000_000  # of one request: some 300 MB while they are queued; the largest request seen had a tenth of it
_MAX_WEBHOOK_TASKS = 10_000  # Label Studio sends at most 5,000 at a time


@dataclass(frozen=True)
class SetupPayload:
    """POST /setup: the labeling config of a project. The access token is not read."""

    project: int
    label_config: str


@dataclass(frozen=True)
class PredictPayload:
    """POST /predict: task ids in the order of the request, with repeats.

    Attributes:
        interactive: whether somebody clicked in an image and waits for the answer.
        prompts: what was clicked on, of an interactive request.
        first: what the first task holds, as far as a click needs it.
    """

    project: int
    label_config: str
    tasks: tuple[int, ...]
    interactive: bool
    prompts: tuple[Region, ...] = ()
    first: TaskInside = field(default_factory=TaskInside)


@dataclass(frozen=True)
class WebhookPayload:
    """POST /webhook: an action in a project, and the tasks it names."""

    action: str
    project: int
    tasks: tuple[int, ...] = ()


def parse_setup(stream: Readable) -> SetupPayload:
    """Parse the body of /setup.

    Raises:
        JobError: not JSON, or a field is missing, there twice or of the wrong type; the message names it.
    """
    body = _read(stream, {"project": JsonReader.value, "schema": JsonReader.text})
    return SetupPayload(project_id(_field(body, "project")), _text(body, "schema"))


def parse_predict(stream: Readable) -> PredictPayload:
    """Parse the body of /predict: of each task its id, and of the first what a click needs.

    Raises:
        JobError: not JSON, a field is missing, there twice or of the wrong type, or there are too many tasks; the
            message names it.
    """
    body = _read(stream, {
        "tasks": _tasks, "project": JsonReader.value, "label_config": JsonReader.text, "params": _prompts,
    })  # fmt: skip
    found = _field(body, "tasks")
    if not isinstance(found, _Tasks):
        raise _wrong("tasks", "a list of tasks", found)
    prompts = body.get("params")
    return PredictPayload(
        project_id(_field(body, "project")), _text(body, "label_config"), found.ids, prompts is not None, prompts or (),
        found.first,
    )  # fmt: skip


def parse_webhook(stream: Readable) -> WebhookPayload:
    """Parse the body of /webhook; `project` may be an id or an object with one.

    Raises:
        JobError: not JSON, or a field is missing, there twice or of the wrong type; the message names it.
    """
    body = _read(stream, {"action": JsonReader.value, "project": _project, "tasks": _webhook_tasks})
    action = _text(body, "action")
    if not _ACTION.fullmatch(action):
        raise _wrong("action", "a name such as PROJECT_UPDATED", action)
    return WebhookPayload(action, _field(body, "project"), body.get("tasks", ()))


def parse_project(stream: Readable) -> int | None:
    """Parse a body of which only `project` counts, an id or an object with one; None when there is none.

    Raises:
        JobError: not JSON, or `project` is there twice or of the wrong type.
    """
    project: int | None = _read(stream, {"project": _project_or_none}).get("project")
    return project


def project_id(value: Any, *, name: str = "project") -> int:
    """`12`, `"12"` or Label Studio's `"12.1700000000"` -> 12.

    Raises:
        JobError: it is none of these; the message calls it `name`.
    """
    if type(value) is int and 0 < value <= _MAX_ID:
        return value
    match = _PROJECT.fullmatch(value) if isinstance(value, str) and len(value) <= _MAX_PROJECT_CHARS else None
    if match is None or int(match[1]) > _MAX_ID:
        raise _wrong(name, "a project id such as '12.1700000000'", value)
    return int(match[1])


_ReadField = Callable[[JsonReader], Any]


def _read(stream: Readable, fields: Mapping[str, _ReadField]) -> dict[str, Any]:
    """Read the body's fields, each with a function of its own; all others are skipped."""
    reader, body = JsonReader(stream), dict[str, Any]()
    for name in reader.fields():
        if name in body:
            raise duplicate(name)
        if name in fields:
            body[name] = fields[name](reader)
        else:
            reader.value()
    reader.end()
    return body


class _Tasks:
    """The ids of a list of tasks, and what the first of them holds."""

    def __init__(self, reader: JsonReader) -> None:
        self.first = TaskInside()
        self.ids = tuple(self._read(reader))

    def _read(self, reader: JsonReader) -> Iterator[int]:
        for count, _ in enumerate(reader.items()):
            is_task = reader.peek() == "{"
            if is_task and count == 0:
                number, self.first = read_task(reader)
            else:
                number = reader.field_of_object("id")
            if not is_task or not _is_id(number):
                raise _wrong("tasks", "objects with a positive whole number as `id`", number)
            if count == _MAX_TASKS:
                raise JobError("request body", f"asks for more than {_MAX_TASKS} tasks", "Ask for fewer at a time.")
            yield number


def _tasks(reader: JsonReader) -> Any:
    return _Tasks(reader) if reader.peek() == "[" else reader.value()


def _prompts(reader: JsonReader) -> tuple[Region, ...] | None:
    """The regions of `params.context`, which holds the click of an interactive request; None when there is none."""
    if reader.peek() == "n":
        reader.value()
        return None
    if reader.peek() != "{":
        raise _wrong("params", "an object", reader.value())
    found: tuple[Region, ...] | None = None
    for name in reader.fields():
        if name != "context":
            reader.value()
        elif reader.peek() == "{":
            found = ()
            for part in reader.fields():
                if part == "result":
                    found = read_regions(reader)
                else:
                    reader.value()
        else:
            found = None if reader.value() is None else ()
    return found


def _project(reader: JsonReader) -> int:
    in_object = reader.peek() == "{"
    return project_id(reader.field_of_object("id"), name="project.id" if in_object else "project")


def _project_or_none(reader: JsonReader) -> int | None:
    if reader.peek() == "n":
        reader.value()
        return None
    return _project(reader)


def _webhook_tasks(reader: JsonReader) -> tuple[int, ...]:
    if reader.peek() != "[":
        reader.value()
        return ()
    tasks: list[int] = []
    for count, _ in enumerate(reader.items()):
        if count == _MAX_WEBHOOK_TASKS:
            reader.skip_rest()
            break
        task = reader.field_of_object("id")
        if _is_id(task):
            tasks.append(task)
    return tuple(tasks)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 < value <= _MAX_ID


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
    got = "a number" if isinstance(value, int) and abs(value) > _MAX_ID else reprlib.repr(value)
    return JobError("request body", f"{name} must be {expected}, got {got}", REMEDY)
