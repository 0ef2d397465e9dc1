"""Under which names the backend answers: a page that points a name of its own at it reads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPResponse

import pytest
from redis import Redis

from plugin_config.settings import Settings
from tests.backend_client import patient_fixture
from tests.served_backend import SHORT, Backend, backend

__all__ = ["patient_fixture"]  # pytest finds fixtures by their being here


@pytest.fixture(scope="module")
def running(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("hosts")
    settings = Settings(
        redis_url=redis_url, model="builtin", state_dir=str(folder), allowed_hosts="zeromask, Masks.Example.com."
    )
    with backend(settings, limits=replace(SHORT, idle_s=5.0)) as running:
        yield running


def answer(running: Backend, request: bytes) -> tuple[int, bytes]:
    with running.connect() as connection:
        connection.sendall(request)
        response = HTTPResponse(connection)
        response.begin()
        return response.status, response.reason.encode() + b"\n" + response.read()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.0.0.1:9090", "localhost", "LocalHost:1", "localhost.", "app.localhost:80", "[::1]",
        "[::1]:9090", "192.168.0.7:9090", "8.8.8.8", "zeromask:9090", "ZEROMASK", "masks.example.com",
        "masks.example.com.:443",
    ],
)  # fmt: skip
def test_our_own_names_are_answered(running: Backend, host: str) -> None:
    assert answer(running, f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "rebind.evil.example", "evil.example:9090", "localhost.evil.example", "notlocalhost", "zeromask.evil.example",
        "xmasks.example.com", "127.0.0.1.evil.example", "127.1", "0x7f000001", "2130706433", "127.0.0.1.nip.io",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/health", "/versions", "/status", "/nothing"])
def test_other_names_are_refused_with_the_remedy(running: Backend, host: str, path: str) -> None:
    status, text = answer(running, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert status == 421
    assert text.count(b"ZEROMASK_ALLOWED_HOSTS") == 2, "in the status line as well"


@pytest.mark.parametrize(
    "lines",
    [
        b"", b"Host: \r\n", b"Host: :9090\r\n", b"Host: localhost\r\nHost: localhost\r\n", b"Host: localhost:x\r\n",
        b"Host: localhost\r\nHost: evil.example\r\n", b"Host: a@localhost\r\n", b"Host: localhost/x\r\n",
        b"Host: [::1\r\n", b"Host: loc alhost\r\n", b"Host: \xc3\xa9.localhost\r\n", b"Host: http://localhost\r\n",
        b"Host: localhost:123456\r\n", b"Host: " + b"a" * 300 + b"\r\n", b"Host: [localhost]\r\n", b"Host: ::1\r\n",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused(running: Backend, lines: bytes) -> None:
    assert answer(running, b"GET /health HTTP/1.1\r\n" + lines + b"\r\n")[0] == 400


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost:9090/health", 200),
        ("http://evil.example/health", 421),
        ("http://a@localhost/health", 400),
        ("http:///health", 400),
        ("http://[/health", 400),
        ("//evil.example/health", 404),
    ],
)
def test_a_whole_address_counts_as_well(running: Backend, target: str, status: int) -> None:
    assert answer(running, f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())[0] == status


def test_proxies_are_not_believed(running: Backend) -> None:
    for name in ("X-Forwarded-Host", "X-Forwarded-Server", "Forwarded", "X-Original-Host"):
        request = f"GET /health HTTP/1.1\r\nHost: evil.example\r\n{name}: localhost\r\n\r\n"
        assert answer(running, request.encode())[0] == 421
        request = f"GET /health HTTP/1.1\r\nHost: localhost\r\n{name}: evil.example\r\n\r\n"
        assert answer(running, request.encode())[0] == 200


def test_the_host_listened_on_is_ours(settings: Settings, redis: Redis, patient: None) -> None:
    with backend(replace(settings, host="localhost")) as running:
        assert answer(running, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200
