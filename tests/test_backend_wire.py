"""What the bytes of a request cannot do to the backend: many in one piece, two ends, no body, tiny chunks."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.client import HTTPResponse

import pytest
from redis import Redis
from waitress.channel import ClientDisconnected

from backend.access import AccessControl
from backend.server.connections import Channel
from backend.server.server import Server
from plugin_config.local.supervisor import free_port
from plugin_config.settings import Settings
from tests.served_backend import Backend, backend, read_answer, signing_in

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
SETUP = b"POST /setup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
def running(settings: Settings, redis: Redis) -> Iterator[Backend]:
    with backend(settings) as running:
        yield running


def answers(running: Backend, sent: bytes) -> bytes:
    """All that comes back until the server ends the connection."""
    received = b""
    with running.connect() as connection:
        connection.sendall(sent)
        while part := connection.recv(65536):
            received += part
    return received


def test_of_requests_in_one_piece_the_first_is_answered(running: Backend) -> None:
    received = answers(running, (HEALTH + b"\r\n") * 1000)
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in received


def test_line_ends_around_a_request_are_none(running: Backend) -> None:
    with running.connect() as connection:
        for _ in range(2):
            connection.sendall(b"\r\n" * 2000 + HEALTH + b"\r\n" + b"\r\n")
            response = HTTPResponse(connection)
            response.begin()
            answer = read_answer(response)  # to its end: headers and body may come in two pieces
            assert (answer.status, answer.headers.get("connection")) == (200, None)


def test_a_thread_never_waits_to_wake_the_loop(settings: Settings) -> None:
    server = Server(AccessControl(settings), Settings(port=free_port()))
    try:
        (listener,) = server._listeners
        assert not os.get_blocking(listener.trigger.trigger)
        for _ in range(200_000):  # a pipe holds 65,536
            listener.pull_trigger()
    finally:
        server.close()


@pytest.mark.parametrize("reads", [True, False], ids=["gone while answered", "gone before it may go on"])
def test_who_has_gone_away_is_no_error(settings: Settings, monkeypatch: pytest.MonkeyPatch, reads: bool) -> None:
    def gone(_: bytes) -> None:
        raise ClientDisconnected

    server = Server(AccessControl(settings), Settings(port=free_port()))
    here, there = socket.socketpair()
    try:
        (listener,) = server._listeners
        channel = Channel(listener, here, ("127.0.0.1", 1), listener.adj, map={})
        if reads:
            monkeypatch.setattr(listener, "add_task", lambda _: None)
            monkeypatch.setattr(channel, "write_soon", gone)
            channel.received(b"GARBAGE\r\n\r\n")
            channel.service()
        there.close()
        channel.received(SETUP + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        channel.handle_close()
    finally:
        there.close()
        server.close()


def test_what_is_dear_to_read_comes_in_small_pieces(settings: Settings) -> None:
    server = Server(AccessControl(settings), Settings(port=free_port()))
    here, there = socket.socketpair()
    try:
        (listener,) = server._listeners
        channel = Channel(listener, here, ("127.0.0.1", 1), listener.adj, map={})
        there.sendall(b" " * 20_000)
        assert len(channel.recv(65536)) <= 4096
        channel.received(SETUP + b"Transfer-Encoding: chunked\r\n\r\n")
        assert len(channel.recv(65536)) <= 4096
        channel.request = None
        channel.received(SETUP + b"Content-Length: 99999\r\n\r\n")
        assert len(channel.recv(65536)) > 4096
        channel.handle_close()
    finally:
        there.close()
        server.close()


def test_requests_that_hang_hold_up_the_end_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.server.server._FINISH_S", 1.0, raising=False)
    hanging, release, port = threading.Semaphore(0), threading.Event(), free_port()

    def app(_: object, start: Callable[..., object]) -> list[bytes]:
        hanging.release()
        release.wait()
        start("200 OK", [("Content-Length", "0")])
        return []

    settings = replace(settings, port=port, max_body_mb=4)
    server = Server(AccessControl(settings), settings)
    loop = threading.Thread(target=server.run, args=(app,))
    loop.start()
    large = SETUP.replace(b"/setup", b"/predict") + b"Content-Length: 1200000\r\n\r\n" + b" " * 1_200_000
    try:
        with ExitStack() as opened:
            for sent in (HEALTH + b"\r\n", HEALTH.replace(b"/health", b"/") + b"\r\n", large):
                opened.enter_context(Backend(port).connect()).sendall(sent)
                hanging.acquire()  # a lane each
            began = time.monotonic()
            server.stop()
            loop.join()
            assert time.monotonic() - began < 9, "a supervisor waits for 10 s"
    finally:
        release.set()


def test_who_asks_to_go_on_and_has_nothing_to_send_is_answered(running: Backend) -> None:
    assert answers(running, HEALTH + b"Expect: 100-continue\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(SETUP + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", id="both"),
        pytest.param(
            SETUP.replace(b"1.1", b"1.0")
            + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            id="chunks in HTTP/1.0",
        ),
    ],
)
def test_a_body_has_one_end(running: Backend, sent: bytes) -> None:
    received = answers(running, sent)
    assert received.split(b"\r\n")[0].endswith(b" 400 Bad Request")
    assert b"Connection: close" in received and received.count(b"HTTP/1") == 1


def test_tiny_chunks_are_refused(running: Backend) -> None:
    head = SETUP + b"Transfer-Encoding: chunked\r\n\r\n"
    assert b"Too many tiny chunks" in answers(running, head + b"1\r\n \r\n" * 5000)
    few = answers(running, head.replace(b"Host", b"Connection: close\r\nHost") + b"1\r\n \r\n" * 1000 + b"0\r\n\r\n")
    assert b"is not a JSON object" in few


@pytest.mark.parametrize("path", [b"/x%0a2026%20CRITICAL%20forged", b"/%1b%5b31m", b"/%85"])
def test_a_path_brings_no_signs_into_the_log(running: Backend, path: bytes) -> None:
    received = answers(running, b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert received.split(b"\r\n")[0].endswith(b" 400 Bad Request")


def test_a_method_brings_no_text_into_the_log(running: Backend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert b" 400 " in answers(running, b"FORGED" * 1000 + b" /health HTTP/1.1\r\nHost: localhost\r\n\r\n\r\nx")
    assert "FORGED" not in caplog.text


@pytest.mark.parametrize("path", ["/health", "/", "/metrics", "/nothing"])
def test_where_no_body_is_read_none_is_kept(settings: Settings, path: str) -> None:
    for each in (settings, signing_in(settings)):
        assert AccessControl(each).body_limit({"PATH_INFO": path, "HTTP_HOST": "localhost"}) == 0
