"""Reading JSON value by value: agrees with reading it at once, whatever the pieces, and holds nothing meanwhile."""

from __future__ import annotations

import io
import json
import random
import tracemalloc
from typing import Any

import pytest

from backend.json_stream import JsonReader, Readable, Skipped
from backend.payloads import parse_predict, parse_webhook
from plugin_config.errors import JobError


class Dripping:
    """A stream that gives at most so many bytes at a time."""

    def __init__(self, data: bytes, most: int) -> None:
        self._stream = io.BytesIO(data)
        self._most = most

    def read(self, size: int, /) -> bytes:
        return self._stream.read(min(size, self._most))


class Endless:
    """A body that begins, goes on with the same piece for many megabytes, and ends, without being in memory."""

    def __init__(self, start: bytes, piece: bytes, megabytes: int, end: bytes) -> None:
        self._parts = iter([start, *([piece * (1024 * 1024 // len(piece))] * megabytes), end])
        self._left = b""

    def read(self, size: int, /) -> bytes:
        self._left = self._left or next(self._parts, b"")
        part, self._left = self._left[:size], self._left[size:]
        return part


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts as large is a few characters, so that small documents take every path."""
    monkeypatch.setattr("backend.json_stream._CHUNK", 32)
    monkeypatch.setattr("backend.json_stream._READ", 5)


def made_up(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(8 if depth < 5 else 5)
    if kind < 3:
        return chance.choice([None, True, False, 0, -1, 1.5, 1e20, 2**70])
    if kind < 5:
        return "".join(chance.choice('ab"\\[]{}:,é\n\u2028😀') for _ in range(chance.randrange(12)))
    if kind == 5:
        return [made_up(chance, depth + 1) for _ in range(chance.randrange(5))]
    return {str(made_up(chance, 9)): made_up(chance, depth + 1) for _ in range(chance.randrange(5))}


def read_fields(stream: Readable) -> dict[str, Any]:
    reader, found = JsonReader(stream), dict[str, Any]()
    for name in reader.fields():
        found[name] = reader.value()
    reader.end()
    return found


def stands_for(value: Any, read: Any) -> bool:
    if isinstance(value, dict | list):
        return read is (Skipped.OBJECT if isinstance(value, dict) else Skipped.LIST)
    return read is Skipped.TEXT if read is Skipped.TEXT and isinstance(value, str) else bool(read == value)


@pytest.mark.usefixtures("small_pieces")
def test_it_agrees_with_reading_at_once() -> None:
    chance = random.Random(1)
    for _ in range(400):
        document = {f"k{n}": made_up(chance) for n in range(3)}
        data = json.dumps(document, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1])).encode()
        found = read_fields(Dripping(data, chance.choice([1, 3, 1000])))
        assert list(found) == list(document)
        assert all(stands_for(document[name], found[name]) for name in document), (data, found)


@pytest.mark.usefixtures("small_pieces")
def test_values_are_read_whole_up_to_a_size() -> None:
    chance = random.Random(3)
    for _ in range(200):
        values = [made_up(chance) for _ in range(4)]
        texts = [json.dumps(value, separators=(",", ":")) for value in values]
        reader = JsonReader(Dripping(f"[{','.join(texts)}]".encode(), chance.choice([1, 7, 1000])))
        for (number, text), _ in zip(enumerate(texts), reader.items(), strict=False):
            read, size = reader.whole(40)
            assert size == (len(text) if len(text) <= 40 else 0)
            assert read == values[number] if size else stands_for(values[number], read)


@pytest.mark.usefixtures("small_pieces")
def test_ids_are_found_in_tasks_of_any_size() -> None:
    chance = random.Random(2)
    for _ in range(200):
        tasks = [{"a": made_up(chance), "id": n + 1, "b": {"id": 99}, "c": made_up(chance)} for n in range(4)]
        body = {"x": made_up(chance), "tasks": tasks, "project": 7, "label_config": "<View/>" * 9, "y": made_up(chance)}
        read = parse_predict(Dripping(json.dumps(body).encode(), chance.choice([1, 7, 1000])))
        assert (read.tasks, read.label_config) == ((1, 2, 3, 4), "<View/>" * 9)
        hook = {"tasks": tasks, "action": "A", "annotation": made_up(chance), "project": {"x": tasks, "id": 7}}
        assert parse_webhook(io.BytesIO(json.dumps(hook).encode())).tasks == (1, 2, 3, 4)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "data",
    [
        b'{"a":[1,"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx',
        b'{"a":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[',
        b'{"a":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\\',
        b'{"a":{"b":1',
        b'{"a":[1]]}',
        b'{"a":12345678901234567',
        b'{"a":[1],',
        b'{"a":"\xff"}',
        b"{",
    ],
)
def test_what_is_cut_off_is_refused(data: bytes) -> None:
    for most in (1, 1000):
        with pytest.raises(JobError, match="JSON"):
            read_fields(Dripping(data, most))


@pytest.mark.parametrize(
    ("start", "piece", "end"),
    [
        pytest.param(b'{"a":[', b"[],", b"1],", id="empty lists"),
        pytest.param(b'{"a":[', b'{"b":{}},', b"1],", id="empty objects"),
        pytest.param(b'{"a":[', b'"",', b"1],", id="empty texts"),
        pytest.param(b'{"a":[', b"[" * 64 + b"]" * 64 + b",", b"1],", id="deep lists"),
        pytest.param(b'{"a":"', b'\\"', b'",', id="a text of quotes"),
        pytest.param(b'{"a":"', "é".encode(), b'",', id="a text"),
        pytest.param(b'{"a', b"a", b'":1,', id="a name"),
        pytest.param(b"{", b" ", b"", id="space"),
        pytest.param(b'{"annotation":[', b'{"result":[{"rle":[0,1,2,255]}]},', b"1],", id="annotations"),
        pytest.param(b'{"tasks":[', b"[],", b"1],", id="tasks that are none"),
    ],
)
def test_large_fields_that_nobody_asks_for_cost_no_memory(start: bytes, piece: bytes, end: bytes) -> None:
    body = Endless(start, piece, 1, end + b'"action":"A","project":7}')
    tracemalloc.start()
    try:
        read = parse_webhook(body)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (read.action, read.project) == ("A", 7)
    assert most < 8 * 1024 * 1024  # some pieces of text, at up to four bytes a sign


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b'{"action":"A","project":1,"project":2}', "has project twice", id="one name twice"),
        pytest.param(b'{"a":NaN,"action":"A","project":1}', "not a JSON", id="NaN"),
        pytest.param(b'{"a":-Infinity,"action":"A","project":1}', "not a JSON", id="infinity"),
        pytest.param(b'{"a":' + b"9" * 100_000 + b',"action":"A","project":1}', "not a JSON", id="digits without end"),
        pytest.param(b'{"a":' + b"[" * 300_000 + b',"action":"A","project":1}', "nested", id="brackets without end"),
        pytest.param(b'{"a":' + b'{"b":' * 300_000, "nested", id="objects without end"),
        pytest.param(b'{"a":"\x01","action":"A","project":1}', "not a JSON", id="control character"),
        pytest.param(b'\xef\xbb\xbf\xef\xbb\xbf{"action":"A","project":1}', "JSON", id="two marks"),
        pytest.param('{"action":"A","project":1}'.encode("utf-16"), "not a JSON", id="UTF-16"),
        pytest.param(b'{"action":"\\ud800","project":1}', "action", id="half a sign"),
        pytest.param(b'{"action":"A","project":1e999}', "project", id="1e999"),
        pytest.param(b'{"action":"A","project":1.0}', "project", id="a fraction"),
        pytest.param(b"{" + b'"a":1,' * 2000 + b'"action":"A","project":1}', "fields", id="fields without end"),
    ],
)
def test_odd_json_is_refused_with_a_sentence(body: bytes, says: str) -> None:
    with pytest.raises(JobError, match=says):
        parse_webhook(io.BytesIO(body))


def test_what_people_send_passes() -> None:
    odd = b'\xef\xbb\xbf{"a":1e999,"b":18446744073709551616,"c":"\\ud800","d":"\\u0000","action":"A","project":"7.1"}'
    assert parse_webhook(io.BytesIO(odd)).project == 7


def test_too_many_tasks_and_too_long_a_config_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.payloads._MAX_TASKS", 1000)
    tasks = Endless(b'{"tasks":[', b'{"id":1},', 1, b"1]}")
    with pytest.raises(JobError, match="more than 1000 tasks"):
        parse_predict(tasks)
    config = Endless(b'{"label_config":"', b"x", 5, b'"}')
    with pytest.raises(JobError, match="text of more than"):
        parse_predict(config)
