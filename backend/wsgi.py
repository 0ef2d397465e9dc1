"""The web half as a WSGI app with a cap on bodies in front, and `python -m backend`, which serves it.

It must not know what the routes do.
"""

from __future__ import annotations

import argparse
import io
import logging
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import MultiSocketServer, create_server
from werkzeug.exceptions import RequestEntityTooLarge

from backend.metrics import RequestCounter
from backend.model import ProjectManager, framework_app
from backend.queues import WebQueues
from backend.views import Views, error_body, install
from plugin_config.errors import EnvironmentBroken, ZeromaskError
from plugin_config.private_files import keep_private
from plugin_config.settings import Settings

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from _typeshed.wsgi import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

_THREADS = 16
_MB = 1024 * 1024
# A body this far past the cap is still read (to disk) and dropped: a sender who is cut off in the middle of a body
# sees a broken connection, not the answer that tells why.
_DRAINED_MB = 64

logger = logging.getLogger(__name__)


def create_app(settings: Settings, queues: WebQueues) -> WSGIApplication:
    """The web half, for any WSGI server. One per process: the framework behind it has one app.

    Args:
        settings: all settings.
        queues: of the same settings; to be closed when the app is served no more.
    """
    manager = ProjectManager(settings, queues)
    counter = RequestCounter()
    app = framework_app(manager)
    install(app, Views(manager, queues, counter), counter)
    return BodyCap(app, settings.max_body_mb * _MB, counter)


class BodyCap:
    """Refuses bodies of more than `most` bytes, whether their length is told or not (Werkzeug 2.0 does neither)."""

    def __init__(self, app: WSGIApplication, most: int, counter: RequestCounter) -> None:
        self._app = app
        self._most = most
        self._counter = counter

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        length = environ.get("CONTENT_LENGTH") or "0"
        if not (length.isascii() and length.isdecimal()):
            return self._refuse(start_response, "400 Bad Request", "Content-Length must be a whole number")
        if int(length) > self._most:
            return self._refuse(start_response, "413 Request Entity Too Large", _too_large(self._most))
        environ["wsgi.input"] = _CappedInput(environ["wsgi.input"], self._most)
        return self._app(environ, start_response)

    def _refuse(self, start_response: StartResponse, status: str, detail: str) -> Iterable[bytes]:
        code = int(status[:3])
        body = error_body(code, detail)
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        self._counter.count_request("none", code)
        logger.info("refused before reading: %d %s", code, detail)
        return [body]


class _CappedInput(io.RawIOBase):
    """A request body of unknown length: reading past the cap ends the request with 413."""

    def __init__(self, stream: InputStream, most: int) -> None:
        super().__init__()
        self._stream = stream
        self._most = most
        self._left = most

    def readable(self) -> bool:
        return True

    def readall(self) -> bytes:
        parts = []
        while part := self._take(self._left + 1):
            parts.append(part)
        return b"".join(parts)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        part = self._take(min(len(view), self._left + 1))
        view[: len(part)] = part
        return len(part)

    def _take(self, size: int) -> bytes:
        part = self._stream.read(size)
        self._left -= len(part)
        if self._left < 0:
            raise RequestEntityTooLarge(_too_large(self._most))
        return part


class _JsonRefusal:
    """What waitress answers before it has a request to hand on: a broken header, a body past the cap."""

    def __init__(self, error: Any) -> None:
        self._error = error

    def to_response(self, ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:
        error = self._error
        body = error_body(error.code, f"{error.reason}: {error.body}")
        return f"{error.code} {error.reason}", [("Content-Type", "application/json")], body


class _JsonParser(HTTPRequestParser):  # type: ignore[misc]
    error: Any

    def received(self, data: bytes) -> int:
        consumed: int = super().received(data)
        if self.error is not None and not isinstance(self.error, _JsonRefusal):
            self.error = _JsonRefusal(self.error)
        return consumed


class _JsonChannel(HTTPChannel):  # type: ignore[misc]
    parser_class = _JsonParser


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code: 0 after a signal, 2 when it could not start."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = _parse(arguments, environ).require("redis_url")
        keep_private(settings.state_path)
        with closing(WebQueues(settings)) as queues:
            _serve(settings, queues)
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask backend: {error}\n")
        return 2
    logger.info("stopped")
    return 0


def _serve(settings: Settings, queues: WebQueues) -> None:
    server = _listen(settings, queues)
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell starts background jobs with SIGINT ignored
        signal.signal(number, _stop)
    logger.info("listening on %s:%d, model %s", settings.host, settings.port, settings.model)
    server.run()  # ends on SystemExit, after the requests in hand
    server.close()


def _parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    settings = Settings.from_env(environ)
    parser = argparse.ArgumentParser(prog="zeromask backend", description="The web half; settings: README.md.")
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    return replace(settings, model=parser.parse_args(arguments).model)


def _listen(settings: Settings, queues: WebQueues) -> Any:
    app = create_app(settings, queues)
    most = (settings.max_body_mb + _DRAINED_MB) * _MB
    try:
        server = create_server(
            app, host=settings.host, port=settings.port, threads=_THREADS, max_request_body_size=most, ident="zeromask"
        )
    except OSError as error:
        problem = f"cannot listen on port {settings.port} ({error.strerror or error})"
        raise EnvironmentBroken(f"address {settings.host}", problem, "Set ZEROMASK_HOST and ZEROMASK_PORT.") from error
    # A name such as "localhost" may stand for several addresses: then there is a server for each, in `map`.
    for each in server.map.values() if isinstance(server, MultiSocketServer) else [server]:
        each.channel_class = _JsonChannel
    return server


def _stop(signum: int, _: Any) -> None:
    raise SystemExit(128 + signum)


def _too_large(most: int) -> str:
    return f"the body is larger than {most // _MB} MB; raise ZEROMASK_MAX_BODY_MB or ask for fewer tasks at a time"
