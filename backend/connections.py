"""Connections of the server: how long each may keep it waiting, and which give way when there are too many.

The classes are waitress' own, told to know since when they wait and for what. It must not know what the routes do.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.receiver import FixedStreamReceiver
from waitress.server import TcpWSGIServer

from backend.access import Doors
from backend.request_bodies import Body, BoundedChunks, LargeBodies
from backend.responses import JSON, SAFE_HEADERS, error_body

ACCEPTED_AT_ONCE = 64
_DEAR_AT_ONCE = 2 * 1024  # bytes
_RECEIVED_AT_END = 256 * 1024  # bytes
_WARNING_S = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long connections may take, in seconds, and how many there may be."""

    headers_s: float = 10.0  # from the first byte of a request, or from the connection, to the end of its headers
    silence_s: float = 10.0  # without a byte of a body
    idle_s: float = 30.0  # between two requests
    least_rate: float = 16 * 1024  # bytes per second of a body or an answer, over `silence_s`
    connections: int = 512


@dataclass(frozen=True)
class Limits:
    """What all connections of a server share."""

    patience: Patience
    connections: int
    doors: Doors
    large: LargeBodies


class _JsonRefusal:
    """What waitress answers before it has a request to hand on: a broken header, a body far too large."""

    def __init__(self, error: Any) -> None:
        self._error = error

    def to_response(self, ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:
        error = self._error
        body = error_body(error.code, f"{error.reason}: {error.body}")
        return f"{error.code} {error.reason}", [("Content-Type", JSON), *SAFE_HEADERS.items()], body


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """A request as it arrives; of its body only what will be read is kept."""

    error: Any
    body_rcv: Any
    path = ""  # of a request that cannot be read: waitress names it when nobody waits for the answer

    def __init__(
        self, adjustments: Adjustments, *, limits: Limits, peer: str, give_way: Callable[[], None]
    ) -> None:
        super().__init__(adjustments)
        self._give_way = give_way
        self._limits = limits
        self._peer = peer
        self.body: Body | None = None

    def received(self, data: bytes) -> int:
        consumed: int = super().received(data)
        if self.error is not None and not isinstance(self.error, _JsonRefusal):
            self.error = _JsonRefusal(self.error)
        if self.completed and self.body is not None:
            self.body.arriving = False
        return self._pass_over(data, consumed) if self.completed else consumed

    def _pass_over(self, data: bytes, consumed: int) -> int:
        """One request at a time: thousands in one piece would hold up the loop, and then its threads. Who sends on
        without waiting for an answer gets this one, and the connection ends; clients send the others again.
        """
        rest = data[consumed:].lstrip(b"\r\n")  # some clients end a body with these
        if self.empty or not rest:
            return len(data) - len(rest)
        self.headers["CONNECTION"] = "close"
        self.connection_close = True
        return len(data)

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # a Content-Length of more digits than Python reads
            raise ParsingError("Content-Length is invalid") from error
        if "TRANSFER_ENCODING" in self.headers or (self.chunked and "CONTENT_LENGTH" in self.headers):
            # A proxy before us might see the end of this body elsewhere, and what follows as somebody else's request.
            raise ParsingError("The end of the body is told in two ways, or in one that this HTTP version lacks")
        if not self.path.isprintable():  # no route of ours; waitress would log it as it is, line ends and all
            raise ParsingError("The path has signs that no path here has")
        if self.body_rcv is None:
            self.expect_continue = False  # nothing to go on with: waitress would wait for a body that never comes
            return
        told = {name: self.headers.get(name.removeprefix("HTTP_"), "") for name in (
            "HTTP_HOST", "HTTP_AUTHORIZATION", "HTTP_X_ZEROMASK_SECRET")}  # fmt: skip
        path = "/" + self.path.lstrip("/")  # as waitress hands it on
        limit = self._limits.doors.body_limit({**told, "PATH_INFO": path, "REQUEST_URI": self.request_uri,
                                               "REMOTE_ADDR": self._peer})  # fmt: skip
        self.body_rcv.getbuf().close()
        self.body = Body(limit, self._limits.large, self._give_way)
        receiver = BoundedChunks if self.chunked else functools.partial(FixedStreamReceiver, self.content_length)
        self.body_rcv = receiver(self.body)


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection that knows since when it keeps us waiting, and for what."""

    server: Listener
    request: _Parser | None

    def __init__(self, server: Listener, sock: Any, addr: Any, adj: Adjustments, map: dict[int, Any]) -> None:
        self.parser_class = functools.partial(_Parser, limits=server.limits, peer=addr[0], give_way=self.give_way)
        now = time.monotonic()
        self.since = now  # when the connection or a request began, or the last request was answered
        self.heard = now  # when the last byte came
        self.sent = 0  # bytes of answers
        self.pace: tuple[float, int] | None = None  # when it was looked at, and bytes moved until then
        self.answered = False  # at least one request
        super().__init__(server, sock, addr, adj, map=map)

    def received(self, data: bytes) -> bool:
        before = self.request
        self.heard = time.monotonic()
        taken: bool = super().received(data)
        if self.request is not before and (self.answered or before is not None or self.request is None):
            self.since = self.heard  # but a new connection's first request has begun with the connection
            self.pace = None
        return taken

    def recv(self, buffer_size: int) -> bytes:
        """Headers and chunks, which cost the loop much for each byte, come in smaller pieces than other bodies: all
        connections have their turn between two.
        """
        dear = self.request is None or self.request.body is None or self.request.chunked
        data: bytes = super().recv(min(buffer_size, _DEAR_AT_ONCE) if dear else buffer_size)
        return data

    def send(self, data: bytes, do_close: bool = True) -> int:
        sent: int = super().send(data, do_close=do_close)
        self.sent += sent or 0
        return sent

    def service(self) -> None:
        super().service()
        self.since = self.heard = time.monotonic()
        self.answered = True
        self.pace = None

    def handle_close(self) -> None:
        if self.request is not None:
            self.request.close()  # and kept: waitress may be at it, and find out by this that nobody listens any more
        if self.socket is not None:  # or it is closed already
            with contextlib.suppress(OSError):  # closed on unread bytes, it would take back the answer on its way
                self.socket.recv(_RECEIVED_AT_END)
        super().handle_close()

    def give_way(self) -> None:
        """End the connection. The loop closes it: a descriptor closed here might be in use again before the loop has
        handled all it was told about the old one.
        """
        self.will_close = True
        with contextlib.suppress(OSError, AttributeError):  # closed, and gone
            self.socket.shutdown(socket.SHUT_RDWR)  # or the loop would wait until somebody takes the answer

    @property
    def unfinished(self) -> bool:
        """Whether we wait for a request of it, and nothing else is going on."""
        return not (self.requests or self.total_outbufs_len or self.will_close)

    @property
    def body(self) -> Body | None:
        """What arrives."""
        request = self.request  # once: another thread may close the connection
        return None if request is None else request.body

    def rate(self, now: float) -> float:
        """Bytes per second of the body that arrives; infinite when none does."""
        body = self.body
        return float("inf") if body is None else body.rate(now)

    def overdue(self, now: float) -> bool:
        """Whether it has kept us waiting for too long."""
        patience, body = self.server.limits.patience, self.body
        if self.total_outbufs_len:
            return self._too_slow(now, self.sent)
        if self.requests:
            self.pace = None
            return False
        if body is not None:
            return self._too_slow(now, body.received) or now - self.heard > patience.silence_s
        self.pace = None
        idle = self.answered and self.request is None
        return now - self.since > (patience.idle_s if idle else patience.headers_s)

    def _too_slow(self, now: float, moved: int) -> bool:
        """Whether too few bytes moved since the last look that was some time ago; `moved` counts them all."""
        patience = self.server.limits.patience
        since, before = self.pace or (now, moved)
        took = now - since
        if took > patience.silence_s:
            if moved - before < took * patience.least_rate:
                return True
            since, before = now, moved
        self.pace = since, before
        return False


class Listener(TcpWSGIServer):  # type: ignore[misc]
    """A listening socket: near the limit of connections, the oldest that have not sent a request give way."""

    channel_class = Channel
    limits: Limits
    next_channel_cleanup: float
    next_warning = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        os.set_blocking(self.trigger.trigger, False)

    def pull_trigger(self) -> None:
        """Wake the loop. A thread must not wait here for room in the pipe: it may hold what the loop waits for. A full
        one wakes the loop just as well.
        """
        with contextlib.suppress(BlockingIOError):
            super().pull_trigger()

    def readable(self) -> bool:
        now = time.monotonic()
        if now >= self.next_channel_cleanup:
            self.next_channel_cleanup = now + self.limits.patience.headers_s / 10
            for channel in self._all():
                if channel.overdue(now) and not channel.will_close:
                    channel.give_way()
        return bool(self.accepting) and self._has_room(now)

    def handle_accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):  # as many as may have come since the last look, or a flood holds up all
            before = len(self._map)
            super().handle_accept()
            if len(self._map) == before:
                return

    def _has_room(self, now: float) -> bool:
        excess = len(self._map) + ACCEPTED_AT_ONCE - self.limits.connections
        if excess <= 0:
            return True
        if now > self.next_warning:
            self.next_warning = now + _WARNING_S
            logger.warning("%d connections: the oldest that have not sent a request give way", len(self._map))
        waiting = [channel for channel in self._all() if channel.unfinished]
        heads = sorted((each for each in waiting if each.body is None), key=lambda each: each.since)
        bodies = sorted((each for each in waiting if each.body is not None), key=lambda each: each.rate(now))
        # Neither kind may crowd out the other: requests that begin and bodies that arrive have half of the room each.
        crowd = max(0, len(bodies) - self.limits.connections // 2)
        for channel in [*bodies[:crowd], *heads, *bodies[crowd:]][:excess]:
            channel.give_way()
        return len(self._map) < self.limits.connections

    def _all(self) -> list[Channel]:
        return [channel for channel in list(self._map.values()) if isinstance(channel, Channel)]  # threads change it
