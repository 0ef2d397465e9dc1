"""The backend on a real port in a thread of the tests, with limits that tests can wait for."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from backend.access import AccessControl
from backend.app import create_app
from backend.queue_client import QueueClient
from backend.server.connections import ConnectionLimits
from backend.server.server import Server
from plugin_config.local.supervisor import free_port
from plugin_config.settings import Settings

USER, PASSWORD, SECRET = "studio", "a long password", "a secret of webhooks"
SHORT = ConnectionLimits(headers_s=0.6, silence_s=0.6, idle_s=1.2, connections=200)


def signing_in(settings: Settings) -> Settings:
    """The settings with a sign-in."""
    return replace(settings, user=USER, password=PASSWORD, webhook_secret=SECRET)


@dataclass(frozen=True)
class Answer:
    """An answer, and its body as JSON where it is."""

    status: int
    reason: str
    headers: dict[str, str]
    content: Any


@dataclass(frozen=True)
class Backend:
    """Where a backend listens."""

    port: int

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request; header names are written with `_` for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, sent)
            return read_answer(connection.getresponse())
        finally:
            connection.close()


def read_answer(response: HTTPResponse) -> Answer:
    """Read an answer to its end."""
    text = response.read()
    is_json = (response.getheader("Content-Type") or "").startswith("application/json")
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, response.reason, headers, json.loads(text) if is_json and text else text)


@contextmanager
def backend(settings: Settings, *, limits: ConnectionLimits = SHORT) -> Iterator[Backend]:
    """Serve as long as the `with` block lasts."""
    settings = replace(settings, port=free_port())
    access = AccessControl(settings)
    with closing(Server(access, settings, limits=limits)) as server, closing(QueueClient(settings)) as queues:
        thread = threading.Thread(target=server.run, args=(create_app(settings, queues, access),))
        thread.start()
        try:
            yield Backend(settings.port)
        finally:
            server.stop()
            thread.join()
