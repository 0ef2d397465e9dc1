"""What connections cannot do to the backend: half requests, slow ones, endless ones, many at once."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from redis import Redis

from backend.clicks import MOST_WAITING
from backend.json_stream import Readable
from backend.payloads import PredictPayload, parse_predict
from backend.server.connections import ConnectionLimits
from backend.server.request_bodies import Body, LargeBodies
from plugin_config.settings import Settings
from tests.backend_client import VERSION, patient_fixture, predict_body, setup_body
from tests.house import PATIENCE_S, wait_until
from tests.served_backend import SHORT, Backend, backend, signing_in

__all__ = ["patient_fixture"]  # pytest finds fixtures by their being here

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MB = 1024 * 1024
LASTING = replace(SHORT, headers_s=3600.0, silence_s=3600.0, idle_s=3600.0)
"""What is answered is so because others give way, not because they end: whoever asks here waits for half a minute."""


@pytest.fixture
def running(settings: Settings, redis: Redis, patient: None) -> Iterator[Backend]:
    with backend(replace(settings, max_body_mb=8)) as running:
        yield running


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /health HT", id="half a line"),
        pytest.param(HEAD, id="no end of headers"),
        pytest.param(HEAD + b"Content-Length: 100\r\n\r\n{", id="the start of a body"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", id="the first chunk"),
        pytest.param(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", id="a request, and then nothing"),
    ],
)
def test_a_connection_that_falls_silent_ends(running: Backend, sent: bytes) -> None:
    with running.connect() as connection:
        connection.sendall(sent)
        while connection.recv(65536):
            pass  # a test that fails hangs here until the socket's timeout


def test_a_body_that_trickles_ends(running: Backend) -> None:
    with running.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
        ended = threading.Event()
        trickle = threading.Thread(target=_trickle, args=(connection, ended))
        trickle.start()
        try:
            with pytest.raises(ConnectionError):
                while connection.recv(1) == b"":
                    raise ConnectionError
        finally:
            ended.set()
            trickle.join()


def _trickle(connection: socket.socket, ended: threading.Event) -> None:
    while not ended.wait(0.05):
        try:
            connection.sendall(b" ")
        except OSError:
            return


def test_a_reader_who_takes_no_answers_ends(running: Backend) -> None:
    body = json.dumps(predict_body(1, params=None)).encode()  # asks 800,000 times for one task: 3 MB of empty lists
    body = body.replace(b'"tasks": [', b'"tasks": [' + b'{"id":1},' * 800_000)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE_S)
        connection.connect(("127.0.0.1", running.port))
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        with pytest.raises(ConnectionError):  # the server takes no more from it, then ends it
            for _ in range(6000):
                connection.sendall(b" ")
                time.sleep(0.05)
    assert running.ask("GET", "/health").status == 200


def test_any_number_of_half_open_connections_leaves_room_for_the_next(settings: Settings, redis: Redis) -> None:
    with ExitStack() as opened, backend(settings, limits=LASTING) as running:
        for number in range(600):
            connection = opened.enter_context(running.connect())
            connection.sendall((b"", b"GET /", HEAD + b"Content-Length: 9\r\n\r\n{")[number % 3])
            if number % 100 == 99:
                assert running.ask("GET", "/health").status == 200
        assert running.ask("GET", "/versions").status == 200


def test_bodies_that_trickle_do_not_crowd_out_requests(settings: Settings, redis: Redis) -> None:
    with ExitStack() as opened, backend(settings, limits=LASTING) as running:
        for number in range(600):
            opened.enter_context(running.connect()).sendall(HEAD + b"Content-Length: 99\r\n\r\n{")
            if number % 100 == 99:
                with running.connect() as slow:  # its request comes in two pieces, with others between
                    slow.sendall(b"GET /health HTTP/1.1\r\n")
                    for _ in range(20):
                        opened.enter_context(running.connect()).sendall(HEAD + b"Content-Length: 99\r\n\r\n{")
                    slow.sendall(b"Host: localhost\r\n\r\n")
                    assert slow.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_request_in_hand_does_not_give_way(settings: Settings, redis: Redis, patient: None) -> None:
    body = json.dumps(predict_body(*range(1, 2000))).encode()
    with ExitStack() as opened, backend(settings, limits=LASTING) as running:
        early = opened.enter_context(running.connect())
        early.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        for _ in range(300):
            opened.enter_context(running.connect())
        assert early.recv(65536).startswith(b"HTTP/1.1 200")


def test_nobody_waits_for_large_bodies_and_health_for_nobody(
    settings: Settings, redis: Redis, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, begun, statuses = threading.Event(), list[str](), list[int]()

    def slow(stream: Readable) -> PredictPayload:
        body = parse_predict(stream)
        begun.append(body.label_config)
        released.wait(60)
        return body

    monkeypatch.setattr("backend.views.parse_predict", slow)
    large = json.dumps(predict_body(1)).encode() + b" " * 2 * MB
    with backend(replace(settings, max_body_mb=8), limits=ConnectionLimits()) as running:

        def ask(body: bytes) -> threading.Thread:
            thread = threading.Thread(
                target=lambda: statuses.append(running.ask("POST", "/predict", body).status), daemon=True
            )
            thread.start()
            return thread

        asking = [ask(large) for _ in range(6)]
        wait_until(lambda: len(begun) == 2)
        assert running.ask("POST", "/setup", setup_body()).status == 200, "large ones wait for each other only"
        usual = 16 + MOST_WAITING
        asking += [ask(large[: -2 * MB]) for _ in range(usual + 4)]
        wait_until(lambda: len(begun) == 2 + usual)
        assert running.ask("GET", "/health").status == 200, "and /health not for forty others either"
        released.set()
        for thread in asking:
            thread.join()
    assert statuses == [200] * (6 + usual + 4)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000, 431, id="headers without end"),
        pytest.param(b"GET /health HTTP/1.1\r\nHost: localhost\r\nBad Header : x\r\n\r\n", 400, id="no header"),
        pytest.param(HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400, id="length without end"),
        pytest.param(HEAD + b"Content-Length: 9999999999\r\n\r\n", 413, id="ten gigabytes"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 40_000, 400, id="chunk header without end"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"x" * 40_000, 400, id="trailer without end"),
        pytest.param(HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 501, id="unknown encoding"),
    ],
)
def test_what_is_no_request_is_refused_in_json(running: Backend, sent: bytes, status: int) -> None:
    with running.connect() as connection:
        connection.sendall(sent)
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert json.loads(body)["status"] == status
    assert b"nosniff" in head


@pytest.mark.parametrize(
    ("route", "length", "status"),
    [("/setup", 2 * MB, 400), ("/setup", 2 * MB + 1, 413), ("/webhook", 3 * MB, 400), ("/predict", 9 * MB, 413)],
)
def test_only_routes_that_need_it_take_large_bodies(running: Backend, route: str, length: int, status: int) -> None:
    assert running.ask("POST", route, b" " * length).status == status


def test_the_body_of_a_stranger_is_not_kept(
    settings: Settings, redis: Redis, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    close = Body.close

    def noting(body: Body) -> None:
        if body._kept is not None:
            kept.append(len(body._kept))
        close(body)

    monkeypatch.setattr(Body, "close", noting)
    with backend(signing_in(replace(settings, max_body_mb=8))) as running:
        assert running.ask("POST", "/predict", b" " * 4 * MB).status == 401
        assert running.ask("POST", "/predict", b" " * 4 * MB, Host="evil.example").status == 421
    assert max(kept) == 0


def test_the_slowest_of_too_many_large_bodies_gives_way() -> None:
    large, ended = LargeBodies(2), list[str]()
    slow, fast, late = (
        Body(8 * MB, large, lambda name=name: ended.append(name)) for name in ("slow", "fast", "late")  # type: ignore[misc]
    )
    slow.append(b"x" * MB)
    slow.append(b"x")
    fast.append(b"x" * 2 * MB)
    late.append(b"x" * 2 * MB)
    assert ended == ["slow"]
    fast.arriving = late.arriving = False
    newcomer = Body(8 * MB, large, lambda: None)
    newcomer.append(b"x" * 2 * MB)
    assert newcomer.is_large is False, "those that wait to be read are not given up for one that begins"
    fast.close()
    again = Body(8 * MB, large, lambda: None)
    again.append(b"x" * 2 * MB)
    assert again.is_large


def test_answers_are_not_for_pages_of_others(running: Backend) -> None:
    for path in ("/health", "/nothing", "/openapi.json"):
        headers = running.ask("GET", path, Origin="http://evil.example").headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in headers if name.startswith("access-control")]
    assert VERSION.encode() not in headers.get("server", "").encode()
