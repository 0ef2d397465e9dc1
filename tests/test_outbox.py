"""The outbox, of requests made while Redis was away: whatever its file holds, the backend starts and sends the rest."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend import outbox_file
from backend.outbox import Outbox
from backend.outbox_file import OutboxFile
from backend.task_queue import PredictionRequest
from plugin_config.errors import JobError, QueueFull
from tests.backend_client import no_more_threads
from tests.house import wait_until

GOOD = [PredictionRequest(7, "v1", (1, 2)), PredictionRequest(8, "v1", (3,))]
ODD_LINES = [
    pytest.param(b"\xff\xfe", id="not UTF-8"),
    pytest.param(b"[" * 100_000, id="deep"),
    pytest.param(b'{"a":' * 100_000, id="deep objects"),
    pytest.param(b'{"project": 7, "version": "v1", "tasks": [1e999]}', id="infinite"),
    pytest.param(b'{"project": 7, "version": "v1", "tasks": [NaN]}', id="not a number"),
    pytest.param(b'{"project": 7, "version": "v1", "tasks": [' + b"9" * 50 + b"]}", id="huge id"),
    pytest.param(b'{"project": 7, "version": "v1", "tasks": [' + b"9" * 9000 + b"]}", id="endless id"),
    pytest.param(b'{"project": true, "version": "v1", "tasks": [1]}', id="bool"),
    pytest.param(b'{"project": 0, "version": "v1", "tasks": [1]}', id="project zero"),
    pytest.param(b'{"project": 7, "version": "a|b", "tasks": [1]}', id="no version"),
    pytest.param(b'{"project": 7, "version": 3, "tasks": [1]}', id="number for version"),
    pytest.param(b'{"project": 7, "version": "v1", "tasks": {"1": 1}}', id="object for tasks"),
    pytest.param(b'{"project": 7, "version": "v1", "tasks": 5}', id="number for tasks"),
    pytest.param(b'{"project": 7}', id="too little"),
    pytest.param(b"null", id="null"),
    pytest.param(b"", id="empty"),
    pytest.param(b'{"project": 7, "version": "v1", "tasks": [1, 2', id="cut off"),
]


class Sent:
    """Takes the requests that the outbox sends, and refuses some as often as a test wants."""

    def __init__(self) -> None:
        self.requests: list[PredictionRequest] = []
        self.refusals: dict[int, list[Exception]] = {}

    def __call__(self, request: PredictionRequest) -> None:
        if self.refusals.get(request.project):
            raise self.refusals[request.project].pop(0)
        self.requests.append(request)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "asked.jsonl"


@pytest.fixture
def sent() -> Iterator[Sent]:
    yield Sent()


def run(path: Path, sent: Sent, *, put: tuple[PredictionRequest, ...] = ()) -> None:
    """A backend starts, puts more into its outbox, and has sent all of it."""
    outbox = Outbox(path, sent)
    try:
        for request in put:
            assert outbox.put(request)
        sender = outbox._sender
        if sender is not None:
            sender.join(timeout=60)
        assert outbox.task_count() == 0
    finally:
        outbox.close()


def row(request: PredictionRequest) -> bytes:
    return json.dumps({"project": request.project, "version": request.version, "tasks": request.tasks}).encode() + b"\n"


def test_files_keep_their_format(path: Path, sent: Sent) -> None:
    """A file that an earlier release wrote is sent by this one, and the other way round."""
    written = (
        b'{"project": 7, "version": "builtin-zeroshot-4f2a", "tasks": [3, 1, 2]}\n'
        b'{"project": 12, "version": "builtin-a3-123456-99aa", "tasks": [9223372036854775807]}\n'
    )
    path.write_bytes(written)
    requests = OutboxFile(path).read()
    run(path, sent)
    assert sent.requests == requests == [
        PredictionRequest(7, "builtin-zeroshot-4f2a", (3, 1, 2)),
        PredictionRequest(12, "builtin-a3-123456-99aa", (9223372036854775807,)),
    ]
    for request in requests:
        OutboxFile(path).append(request)
    assert path.read_bytes() == written


def test_a_file_that_is_rewritten_is_private(path: Path) -> None:
    path.write_bytes(row(GOOD[0]) + b"\xff\n")
    path.chmod(0o644)
    OutboxFile(path).read()
    assert path.read_bytes() == row(GOOD[0])
    assert path.stat().st_mode & 0o777 == 0o600
    assert {found.name for found in path.parent.iterdir()} == {"asked.jsonl", "asked.jsonl.odd"}, "nothing else is left"


@pytest.mark.parametrize("line", ODD_LINES)
def test_an_odd_line_costs_itself_and_is_set_aside(
    path: Path, sent: Sent, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(row(GOOD[0]) + line + b"\n" + row(GOOD[1]) + line)
    run(path, sent)
    assert sent.requests == GOOD
    assert "line 2, cannot be read" in caplog.text
    kept = path.with_name("asked.jsonl.odd").read_bytes()
    assert kept.startswith(line[:60_000])
    assert not path.exists()


def test_odd_lines_are_told_once_and_not_at_every_start(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(row(GOOD[0]) + b"\xff\n" + row(GOOD[1]))
    assert OutboxFile(path).read() == GOOD
    caplog.clear()
    assert OutboxFile(path).read() == GOOD
    assert caplog.text == ""


def test_what_is_set_aside_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_file, "_MAX_ODD", 1000)
    monkeypatch.setattr(outbox_file, "_MAX_ODD_LINE", 100)
    path.write_bytes((b"x" * 150 + b"\n") * 100)
    assert OutboxFile(path).read() == []
    assert 0 < path.with_name("asked.jsonl.odd").stat().st_size <= 1100


def test_a_line_longer_than_any_of_ours_is_read_in_parts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_file, "_MAX_LINE", 100)
    path.write_bytes(row(GOOD[0]) + b"1" * 1000 + b"\n" + row(GOOD[1]) + b"2" * 100)
    assert OutboxFile(path).read() == GOOD


@pytest.mark.parametrize("kept", [-1, -5], ids=["whole but for its end", "cut off"])
def test_a_line_that_was_cut_off_takes_the_next_one_not_along(path: Path, kept: int) -> None:
    """A disk that was full for a moment, or a kill."""
    file = OutboxFile(path)
    file.append(PredictionRequest(7, "v1", (1, 2)))
    path.write_bytes(path.read_bytes()[:kept])
    file.append(PredictionRequest(8, "v1", (3,)))
    file.append(PredictionRequest(9, "v1", (4,)))
    found = OutboxFile(path).read()
    assert found[-2:] == [PredictionRequest(8, "v1", (3,)), PredictionRequest(9, "v1", (4,))]
    assert found[:-2] == ([PredictionRequest(7, "v1", (1, 2))] if kept == -1 else [])


def test_many_tasks_are_written_in_lines_that_are_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_file, "_TASKS_PER_LINE", 10)
    OutboxFile(path).append(PredictionRequest(7, "v1", tuple(range(1, 36))))
    found = OutboxFile(path).read()
    assert len(found) == 4
    assert [task for request in found for task in request.tasks] == list(range(1, 36))


def test_a_folder_or_a_pipe_in_its_place_is_moved_away(path: Path, sent: Sent, tmp_path: Path) -> None:
    path.mkdir()
    run(path, sent)
    os.mkfifo(path)
    run(path, sent)
    assert {found.name for found in tmp_path.iterdir()} == {f"asked.jsonl.unreadable-{number}" for number in (1, 2)}
    run(path, sent, put=(GOOD[0],))
    assert sent.requests == [GOOD[0]]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_rights_is_moved_away(path: Path, sent: Sent) -> None:
    path.write_bytes(row(GOOD[0]))
    path.chmod(0)
    run(path, sent)
    assert path.with_name("asked.jsonl.unreadable-1").exists()


def test_a_full_project_keeps_no_other_waiting(path: Path, sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.outbox._RETRY_S", 0.05)
    path.write_bytes(b"".join(map(row, GOOD)))
    sent.refusals[7] = [QueueFull("project 7", "waits", "Ask again.")] * 2
    run(path, sent)
    assert sent.requests == GOOD[::-1]


@pytest.mark.parametrize(
    "error", [JobError("task", "is none", "Look."), RuntimeError("whatever")], ids=["ours", "unexpected"]
)
def test_what_can_never_be_sent_is_set_aside(
    path: Path, sent: Sent, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugin_config.background._FIRST_PAUSE_S", 0.01)
    path.write_bytes(b"".join(map(row, GOOD)))
    sent.refusals[7] = [error] * 9
    run(path, sent)
    assert sent.requests == [GOOD[1]]
    assert path.with_name("asked.jsonl.odd").read_bytes() == row(GOOD[0])


def test_what_fails_unexpectedly_once_is_sent_all_the_same(
    path: Path, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugin_config.background._FIRST_PAUSE_S", 0.01)
    path.write_bytes(row(GOOD[0]))
    sent.refusals[7] = [RuntimeError("once")]
    run(path, sent)
    assert sent.requests == [GOOD[0]]


def test_a_machine_that_gives_no_more_threads_for_a_moment_loses_no_request(
    path: Path, sent: Sent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(path, sent)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more_threads)
        assert outbox.put(GOOD[0])
    assert "outbox: 2 task(s) are sent later: can't start new thread" in caplog.text
    assert outbox.put(GOOD[1])
    wait_until(lambda: outbox.task_count() == 0)
    outbox.close()
    assert sent.requests == GOOD
