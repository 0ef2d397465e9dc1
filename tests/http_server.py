"""A real HTTP server in a thread, for tests of clients: it answers what the test says and keeps what it was asked."""

from __future__ import annotations

import json
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request as the server saw it; `path` with its query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What to send back. `pieces` are written one by one, `pause_s` apart, in place of `body`."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: int = 0
    pause_s: float = 0.0
    raw: bytes = b""


@dataclass
class Server:
    """A running server: where it is, what it was asked, and the function that answers (a test may replace it)."""

    url: str
    answer: Callable[[Asked], Answer]
    asked: list[Asked] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def paths(self) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked]


def as_json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


@contextmanager
def serving(
    answer: Callable[[Asked], Answer], *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Serve on a free loopback port as long as the `with` block lasts; `tls`: over TLS, with its certificate."""
    server = Server("", answer)
    with listening(_handler(server), tls=tls) as port:
        server.url = f"{'https' if tls else 'http'}://{host}:{port}"
        try:
            yield server
        finally:
            server.closing.set()


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler], *, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Listen in a thread as long as the `with` block lasts; the loopback port is chosen by the system."""
    listener = _Listener(("127.0.0.1", 0), handler)
    if tls:  # the handshake is done by the thread of the connection: a slow client holds up nobody
        listener.socket = tls.wrap_socket(listener.socket, server_side=True, do_handshake_on_connect=False)
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield listener.server_port
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


class _Listener(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that cut its connection is nobody's fault; anything else is told as usual."""
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = Asked(self.command, self.path, dict(self.headers.items()), body)
            server.asked.append(asked)
            try:
                self._send(server.answer(asked))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def do_POST(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def do_HEAD(self) -> None:
            self.do_GET()

        def _send(self, answer: Answer) -> None:
            if answer.raw:  # bytes outside HTTP's shape, dripped
                self._drip(answer.raw, answer)
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if not {"Content-Length", "Transfer-Encoding"} & set(answer.headers):
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if answer.pieces:
                self._drip(answer.body, answer)
            elif self.command != "HEAD":
                self.wfile.write(answer.body)

        def _drip(self, content: bytes, answer: Answer) -> None:
            step = max(1, len(content) // max(1, answer.pieces or len(content)))
            for start in range(0, len(content), step):
                self.wfile.write(content[start : start + step])
                self.wfile.flush()
                if answer.pause_s and server.closing.wait(answer.pause_s):
                    return

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing on the terminal."""

    return Handler
