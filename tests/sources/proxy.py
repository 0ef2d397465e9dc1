"""A reverse proxy before Label Studio, as nginx is set up: below a path, or with TLS."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

import httpx

from tests.http_server import listening

_HOP = {"connection", "transfer-encoding", "content-length", "host", "keep-alive"}


@dataclass
class ReverseProxy:
    """Where it listens, where it leads, and which token it refuses.

    Attributes:
        url: the public address.
        target: where Label Studio listens; set once that is known.
        below: the path of `url`, which Label Studio is not shown.
        last: the `Authorization` of the last request.
        dead: the `Authorization` that is answered 401, as Label Studio does after an access token's end.
        refused: how many requests were.
    """

    url: str = ""
    target: str = ""
    below: str = ""
    last: str = ""
    dead: str = ""
    refused: int = 0


@contextmanager
def reverse_proxy(*, below: str = "", tls: ssl.SSLContext | None = None) -> Iterator[ReverseProxy]:
    """Serve on a free loopback port as long as the `with` block lasts.

    Args:
        below: path under which Label Studio is to be found, "/label-studio".
        tls: with the certificate for localhost.
    """
    proxy = ReverseProxy(below=below)
    with (
        httpx.Client(timeout=120, trust_env=False) as client,
        listening(_handler(proxy, client), tls=tls) as port,
    ):
        proxy.url = f"{'https' if tls else 'http'}://localhost:{port}{below}"
        yield proxy


def _handler(proxy: ReverseProxy, client: httpx.Client) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not self.path.startswith(f"{proxy.below}/"):
                self._answer(httpx.Response(404, content=b"this is not Label Studio"))
                return
            given = self.headers.get("Authorization", "")
            proxy.last = given or proxy.last
            if given and given == proxy.dead:
                proxy.refused += 1
                self._answer(httpx.Response(401, json={"detail": "Given token not valid for any token type"}))
                return
            kept = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            kept["Host"] = httpx.URL(proxy.url).netloc.decode()
            kept["X-Forwarded-Proto"] = httpx.URL(proxy.url).scheme
            path = self.path.removeprefix(proxy.below)
            self._answer(client.request(self.command, proxy.target + path, headers=kept, content=body))

        def do_POST(self) -> None:
            self.do_GET()

        def _answer(self, response: httpx.Response) -> None:
            self.send_response(response.status_code)
            for name, value in response.headers.items():
                if name not in _HOP | {"date", "server"}:
                    self.send_header(name, value)
            if response.status_code != 304:
                self.send_header("Content-Length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing on the terminal."""

    return Handler
