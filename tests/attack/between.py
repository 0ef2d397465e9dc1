"""A real HTTP proxy between worker and Label Studio that writes down what it is asked and may answer itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx

from tests.http_server import Answer, listening

_HOP = {"connection", "transfer-encoding", "content-length", "content-encoding", "host", "keep-alive"}
Instead = Callable[[str], Answer | None]


@dataclass
class Between:
    """Where it is, and each request as "METHOD path" with whether it carried the token. `instead` may be replaced."""

    url: str
    instead: Instead
    asked: list[tuple[str, bool]] = field(default_factory=list)


@contextmanager
def between(target: str, instead: Instead = lambda path: None) -> Iterator[Between]:
    """Serve on a free loopback port as long as the `with` block lasts.

    Args:
        target: address of Label Studio.
        instead: path with its query -> what to answer in Label Studio's place, None = what Label Studio answers.
    """
    found = Between("", instead)
    limits = httpx.Limits(max_connections=None)
    with (
        httpx.Client(base_url=target, timeout=180, trust_env=False, limits=limits) as client,
        listening(_handler(found, client)) as port,
    ):
        found.url = f"http://localhost:{port}"
        yield found


def _handler(found: Between, client: httpx.Client) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.asked.append((f"{self.command} {self.path}", "Authorization" in self.headers))
            answer = found.instead(self.path)
            if answer is None:
                answer = self._passed_on(body)
            try:
                self.send_response(answer.status)
                for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _passed_on(self, body: bytes) -> Answer:
            kept = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            try:
                got = client.request(self.command, self.path, headers=kept, content=body)
            except (httpx.HTTPError, httpx.InvalidURL):
                return Answer(400)
            told = {name: got.headers[name] for name in ("content-type", "location") if name in got.headers}
            return Answer(got.status_code, got.content, told)

        def do_POST(self) -> None:
            self.do_GET()

        def do_PATCH(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing on the terminal."""

    return Handler
