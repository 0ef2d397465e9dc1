"""A real HTTP proxy before Label Studio that fails as proxies and overloaded servers do.

Every fault hits the posting of predictions, where a lost or repeated request would show.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx

from tests.http_server import listening

# What happens to a post: (fault, share). The rest goes through.
FAULTS = (
    ("500 instead of storing it", 0.10),
    ("stored, answered 500", 0.10),
    ("stored, connection cut", 0.10),
    ("connection cut, stored two seconds later", 0.10),
)
_HOP = {"connection", "transfer-encoding", "content-length", "content-encoding", "host", "keep-alive"}


class FaultyProxy:
    """What was done to posts so far, how many of them are not stored yet, and whether any fault is still done."""

    def __init__(self, target: str, *, seed: int) -> None:
        self.url = ""
        self.done: Counter[str] = Counter()
        self.posts_on_their_way = 0
        self.failing = True
        self._target = target
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._client = httpx.Client(timeout=120, trust_env=False, limits=httpx.Limits(max_connections=None))

    @contextmanager
    def post(self) -> Iterator[str]:
        """What happens to the next post, which is on its way as long as the `with` block lasts."""
        with self._lock:
            self.posts_on_their_way += 1
        try:
            yield self._fault()
        finally:
            with self._lock:
                self.posts_on_their_way -= 1

    def _fault(self) -> str:
        with self._lock:
            drawn, fault = self._random.random(), "passed"
            for name, share in FAULTS if self.failing else ():
                if drawn < share:
                    fault = name
                    break
                drawn -= share
            self.done[fault] += 1
            return fault

    def forward(self, method: str, path: str, headers: Any, body: bytes) -> httpx.Response:
        """Ask Label Studio."""
        kept = {name: value for name, value in headers.items() if name.lower() not in _HOP}
        return self._client.request(method, self._target + path, headers=kept, content=body)


@contextmanager
def faulty_proxy(target: str, *, seed: int) -> Iterator[FaultyProxy]:
    """Serve on a free loopback port as long as the `with` block lasts."""
    proxy = FaultyProxy(target, seed=seed)
    with listening(_handler(proxy)) as port:
        proxy.url = f"http://127.0.0.1:{port}"
        yield proxy


def _handler(proxy: FaultyProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            posting = self.command == "POST" and self.path.startswith("/api/predictions")
            with proxy.post() if posting else nullcontext("passed") as fault:
                self._pass_on(body, fault)

        def _pass_on(self, body: bytes, fault: str) -> None:
            if fault == "500 instead of storing it":
                self._answer(500, b"{}")
            elif fault == "connection cut, stored two seconds later":
                self._cut()
                time.sleep(2)
                proxy.forward(self.command, self.path, self.headers, body)
            else:
                response = proxy.forward(self.command, self.path, self.headers, body)
                if fault == "stored, answered 500":
                    self._answer(500, b"{}")
                elif fault == "stored, connection cut":
                    self._cut()
                else:
                    self._answer(response.status_code, response.content, response.headers.get("location", ""))

        def do_POST(self) -> None:
            self.do_GET()

        def do_PATCH(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def _answer(self, status: int, content: bytes, location: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if location:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(content)

        def _cut(self) -> None:
            self.close_connection = True
            self.connection.shutdown(2)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing on the terminal."""

    return Handler
