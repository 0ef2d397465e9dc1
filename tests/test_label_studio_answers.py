"""Answers of Label Studio that would cost too much: packed, endless, deep, or far too many."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from plugin_config.errors import AnswerTooLarge, ImageUnavailable, LabelStudioError, LabelStudioFailing
from plugin_config.label_studio.client import LabelStudio
from tests.http_server import Answer, Asked, Server, as_json, serving
from worker.label_studio.image_address import address_in

PROJECT = {"id": 1, "title": "one", "label_config": "<View/>"}
LEGACY, PERSONAL = "0123456789abcdef", "personal.access.token"
BOMB = Answer(200, gzip.compress(gzip.compress(bytes(20_000_000))), {"Content-Encoding": "gzip, gzip"})
HUGE = Answer(200, b"{", {"Content-Length": "70000000"}, pieces=1, pause_s=60)  # the rest never comes


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda asked: as_json(PROJECT)) as found:
        yield found


def asked_by(server: Server, key: str = LEGACY) -> LabelStudio:
    return LabelStudio(server.url, key, timeout_s=5)


def test_every_request_asks_for_the_answer_as_it_is(server: Server) -> None:
    server.answer = lambda asked: as_json({"access": "bought"} if "refresh" in asked.path else PROJECT)
    with asked_by(server, PERSONAL) as label_studio:
        label_studio.project(1)
        label_studio.stream(label_studio.address("/data/a.png"), task=1, project=1).close()
    assert [asked.headers["Accept-Encoding"] for asked in server.asked] == ["identity"] * 3


def test_a_packed_answer_is_told_and_not_unpacked(server: Server) -> None:
    server.answer = lambda asked: BOMB
    with (
        asked_by(server) as label_studio,
        pytest.raises(LabelStudioError, match=r"in the coding gzip.*compression off"),
    ):
        label_studio.project(1)


@pytest.mark.parametrize("status", [400, 403])
def test_a_packed_refusal_is_still_a_refusal(status: int, server: Server) -> None:
    server.answer = lambda asked: Answer(status, BOMB.body, BOMB.headers)
    with asked_by(server) as label_studio, pytest.raises(LabelStudioError, match=f"HTTP {status}") as caught:
        label_studio.project(1)
    assert caught.value.status == status


def test_a_packed_outage_is_still_an_outage(server: Server) -> None:
    server.answer = lambda asked: Answer(503, BOMB.body, BOMB.headers)
    with asked_by(server) as label_studio, pytest.raises(LabelStudioFailing, match="HTTP 503"):
        label_studio.project(1)


@pytest.mark.parametrize("part", ["the traded token", "the refusal in between"])
@pytest.mark.parametrize("answer", [BOMB, HUGE], ids=["packed", "endless"])
def test_what_is_read_while_signing_is_bounded_too(part: str, answer: Answer, server: Server) -> None:
    """httpx would read these whole by itself."""

    def answer_to(asked: Asked) -> Answer:
        if "refresh" in asked.path:
            return answer if part == "the traded token" else as_json({"access": "bought"})
        return Answer(401, answer.body, answer.headers, pieces=answer.pieces, pause_s=answer.pause_s)

    server.answer = answer_to
    with asked_by(server, PERSONAL) as label_studio, pytest.raises(LabelStudioError):
        label_studio.project(1)
    assert 1 <= len(server.asked) <= 4


def test_an_endless_answer_is_left_by_its_own_word(server: Server) -> None:
    server.answer = lambda asked: HUGE
    with asked_by(server) as label_studio, pytest.raises(AnswerTooLarge, match="more than 64 MB"):
        label_studio.project(1)


def test_an_answer_that_does_not_say_how_long_it_is_is_counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugin_config.label_studio.transport.MOST_ANSWER_BYTES", 1_000_000)
    server.answer = lambda asked: Answer(raw=b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 3_000_000, pieces=2, pause_s=60)
    with asked_by(server) as label_studio, pytest.raises(AnswerTooLarge, match="more than 1 MB"):
        label_studio.project(1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"[" * 200_000 + b"]" * 200_000, "not JSON", id="deep"),
        pytest.param(b'{"a":' * 100_000, "not JSON", id="deep and cut off"),
        pytest.param(b"[" + b"[]," * 2_000_001 + b"1]", "more than 2000000 lists", id="millions of empty lists"),
        pytest.param(b"\xff\xfe", "not JSON", id="no UTF-8"),
        pytest.param(b"1" * 100_000, "not JSON", id="a number without end"),
        pytest.param(b'{"id": 1, "title": "", "label_config": "", "task_number": 1e999}', "as expected", id="infinity"),
        pytest.param(b'{"id": 1, "title": "", "label_config": "", "task_number": NaN}', "as expected", id="no number"),
    ],
)
def test_hostile_json_is_an_error_of_ours(body: bytes, message: str, server: Server) -> None:
    server.answer = lambda asked: Answer(200, body)
    with asked_by(server) as label_studio, pytest.raises(LabelStudioError, match=message):
        label_studio.project(1)


def one_is_too_large(heavy: int) -> Callable[[Asked], Answer]:
    """A project in which one task's data is more than can be read."""

    def answer(asked: Asked) -> Answer:
        query = parse_qs(urlsplit(asked.path).query)
        ids = json.loads(query["query"][0])["selectedItems"]["included"]
        if heavy in ids and "data" in query["include"][0].split(","):
            return HUGE
        rows = [{"id": task, "data": {"image": f"/{task}.png"}, "predictions_model_versions": "a"} for task in ids]
        return as_json({"tasks": rows, "total": len(rows)})

    return answer


@pytest.mark.parametrize("heavy", [1, 6, 8])
def test_a_task_too_large_to_be_read_holds_up_no_other(heavy: int, server: Server) -> None:
    server.answer = one_is_too_large(heavy)
    with asked_by(server) as label_studio:
        found = {task.id: task for task in label_studio.tasks(1, list(range(1, 9)))}
    assert sorted(found) == list(range(1, 9))
    assert [task.id for task in found.values() if task.unreadable] == [heavy]
    assert all(address_in(task, "$image") == f"/{task.id}.png" for task in found.values() if task.id != heavy)
    assert found[heavy].versions == {"a"}
    with pytest.raises(ImageUnavailable, match=rf"image of task {heavy}: .*more than 64 MB.*far too large"):
        address_in(found[heavy], "$image")
    assert len(server.asked) <= 8
