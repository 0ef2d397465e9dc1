"""Requests as they arrive, one at a time on each connection; of a body only what will be read is kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.receiver import FixedStreamReceiver

from backend.access import AccessControl
from backend.responses import JSON, SAFE_HEADERS, error_body, request_sentence
from backend.server.request_bodies import Body, BoundedChunks, LargeBodies

_CREDENTIALS = ("HTTP_HOST", "HTTP_AUTHORIZATION", "HTTP_X_ZEROMASK_SECRET")


class RequestParser(HTTPRequestParser):  # type: ignore[misc]
    """Waitress' parser, stricter where a body ends, and with errors in JSON.

    Args:
        adjustments: waitress' settings.
        access: decides how much of a body will be read.
        large_bodies: must admit large ones.
        peer: address of the client.
        abort: ends the connection.
    """

    error: Any
    body_rcv: Any
    path = ""  # of a request that cannot be parsed: waitress logs it when the client is gone before the answer

    def __init__(
        self, adjustments: Adjustments, *, access: AccessControl, large_bodies: LargeBodies, peer: str,
        abort: Callable[[], None],
    ) -> None:  # fmt: skip
        super().__init__(adjustments)
        self._access = access
        self._large_bodies = large_bodies
        self._peer = peer
        self._abort = abort
        self.body: Body | None = None

    def received(self, data: bytes) -> int:
        """Parse what arrived; returns how many bytes are used up."""
        consumed: int = super().received(data)
        if self.error is not None and not isinstance(self.error, _JsonError):
            self.error = _JsonError(self.error)
        if self.completed and self.body is not None:
            self.body.arriving = False
        return self._drop_pipelined(data, consumed) if self.completed else consumed

    def _drop_pipelined(self, data: bytes, consumed: int) -> int:
        """One request at a time: thousands in one piece would hold up the event loop, and then its threads. A client
        that sends more without waiting for the answer gets this one, and the connection ends; clients send the others
        again.
        """
        rest = data[consumed:].lstrip(b"\r\n")  # some clients end a body with these
        if self.empty or not rest:
            return len(data) - len(rest)
        self.headers["CONNECTION"] = "close"
        self.connection_close = True
        return len(data)

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the headers, and make room for the body that they announce."""
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # a Content-Length of more digits than Python reads
            raise ParsingError("Content-Length is invalid") from error
        if "TRANSFER_ENCODING" in self.headers or (self.chunked and "CONTENT_LENGTH" in self.headers):
            # A proxy before us might see the end of this body elsewhere, and what follows as another client's request.
            raise ParsingError("The length of the body is given in two ways, or in one that this HTTP version lacks")
        if not self.path.isprintable():  # no route of ours; waitress would log it as it is, line ends and all
            raise ParsingError("The path has characters that no path here has")
        if self.body_rcv is None:
            self.expect_continue = False  # no body will come: waitress would wait for one
            return
        environ = {name: self.headers.get(name.removeprefix("HTTP_"), "") for name in _CREDENTIALS}
        path = "/" + self.path.lstrip("/")  # as waitress hands it on
        limit = self._access.body_limit({**environ, "PATH_INFO": path, "REQUEST_URI": self.request_uri,
                                         "REMOTE_ADDR": self._peer})  # fmt: skip
        self.body_rcv.getbuf().close()
        self.body = Body(limit, self._large_bodies, self._abort)
        receiver = BoundedChunks if self.chunked else functools.partial(FixedStreamReceiver, self.content_length)
        self.body_rcv = receiver(self.body)


class _JsonError:
    """An error that waitress answers before the app sees a request: a broken header, a body far too large."""

    def __init__(self, error: Any) -> None:
        self._error = error

    def to_response(self, ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:
        error = self._error
        body = error_body(error.code, request_sentence(str(error.body), "Send requests as HTTP clients do"))
        return f"{error.code} {error.reason}", [("Content-Type", JSON), *SAFE_HEADERS.items()], body
