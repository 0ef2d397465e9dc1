"""Connections: how long each may keep the server waiting, and which are aborted when there are too many."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer

from backend.access import AccessControl
from backend.server.parser import RequestParser
from backend.server.request_bodies import Body, LargeBodies

ACCEPTED_AT_ONCE = 64
_EXPENSIVE_AT_ONCE = 2 * 1024  # bytes
_RECEIVED_AT_END = 256 * 1024  # bytes
_WARNING_S = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConnectionLimits:
    """How long connections may take, and how many there may be.

    Attributes:
        headers_s: seconds from the first byte of a request, or from the connection, to the end of its headers.
        silence_s: seconds without a byte of a body.
        idle_s: seconds between two requests.
        min_rate: bytes per second of a body or an answer, over `silence_s`.
        connections: how many there may be.
    """

    headers_s: float = 10.0
    silence_s: float = 10.0
    idle_s: float = 30.0
    min_rate: float = 16 * 1024
    connections: int = 512


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection that knows since when it keeps the server waiting, and for what."""

    server: Listener
    request: RequestParser | None

    def __init__(self, server: Listener, sock: Any, addr: Any, adj: Any, map: dict[int, Any]) -> None:
        self.parser_class = functools.partial(
            RequestParser, access=server.access, large_bodies=server.large_bodies, peer=addr[0], abort=self.abort
        )
        now = time.monotonic()
        self.since = now  # when the connection or a request began, or the last request was answered
        self.last_byte = now
        self.sent = 0  # bytes of answers
        self.pace: tuple[float, int] | None = None  # moment of the last check, and bytes moved until then
        self.answered = False  # at least one request
        super().__init__(server, sock, addr, adj, map=map)

    def received(self, data: bytes) -> bool:
        before = self.request
        self.last_byte = time.monotonic()
        taken: bool = super().received(data)
        if self.request is not before and (self.answered or before is not None or self.request is None):
            self.since = self.last_byte  # but a new connection's first request has begun with the connection
            self.pace = None
        return taken

    def recv(self, buffer_size: int) -> bytes:
        """Receive headers and chunks, which cost the event loop much for each byte, in smaller pieces than other
        bodies: all connections have their turn between two.
        """
        expensive = self.request is None or self.request.body is None or self.request.chunked
        data: bytes = super().recv(min(buffer_size, _EXPENSIVE_AT_ONCE) if expensive else buffer_size)
        return data

    def send(self, data: bytes, do_close: bool = True) -> int:
        sent: int = super().send(data, do_close=do_close)
        self.sent += sent or 0
        return sent

    def service(self) -> None:
        super().service()
        self.since = self.last_byte = time.monotonic()
        self.answered = True
        self.pace = None

    def handle_close(self) -> None:
        if self.request is not None:
            self.request.close()  # and kept: a thread of waitress may use it, and learns so that the client is gone
        if self.socket is not None:  # or it is closed already
            with contextlib.suppress(OSError):  # closed on unread bytes, it would take back the answer on its way
                self.socket.recv(_RECEIVED_AT_END)
        super().handle_close()

    def abort(self) -> None:
        """End the connection. The event loop closes it: a descriptor closed here might be in use again before the loop
        has handled all its events of the old one.
        """
        self.will_close = True
        with contextlib.suppress(OSError, AttributeError):  # closed, and gone
            self.socket.shutdown(socket.SHUT_RDWR)  # or the loop would wait until the client takes the answer

    @property
    def is_receiving(self) -> bool:
        """Whether the server waits for a request of it, and nothing else is going on."""
        return not (self.requests or self.total_outbufs_len or self.will_close)

    @property
    def body(self) -> Body | None:
        """The body that arrives."""
        request = self.request  # once: another thread may close the connection
        return None if request is None else request.body

    def rate(self, now: float) -> float:
        """Bytes per second of the body that arrives; infinite when none does."""
        body = self.body
        return float("inf") if body is None else body.rate(now)

    def is_overdue(self, now: float) -> bool:
        """Whether it has kept the server waiting for too long."""
        limits, body = self.server.limits, self.body
        if self.total_outbufs_len:
            return self._too_slow(now, self.sent)
        if self.requests:
            self.pace = None
            return False
        if body is not None:
            return self._too_slow(now, body.received) or now - self.last_byte > limits.silence_s
        self.pace = None
        idle = self.answered and self.request is None
        return now - self.since > (limits.idle_s if idle else limits.headers_s)

    def _too_slow(self, now: float, moved: int) -> bool:
        """Whether too few bytes moved since the last check that was some time ago; `moved` counts them all."""
        limits = self.server.limits
        since, before = self.pace or (now, moved)
        took = now - since
        if took > limits.silence_s:
            if moved - before < took * limits.min_rate:
                return True
            since, before = now, moved
        self.pace = since, before
        return False


class Listener(TcpWSGIServer):  # type: ignore[misc]
    """A listening socket: near the limit of connections, the oldest that have not sent a request are aborted.

    Args:
        access: decides how much of a body will be read.
        large_bodies: must admit large ones.
        limits: how long connections may take, and how many there may be.
        kwargs: those of waitress' server.
    """

    channel_class = Channel
    application: Any
    next_channel_cleanup: float
    next_warning = 0.0

    def __init__(
        self, *, access: AccessControl, large_bodies: LargeBodies, limits: ConnectionLimits, **kwargs: Any
    ) -> None:
        self.access = access
        self.large_bodies = large_bodies
        self.limits = limits
        super().__init__(application=None, **kwargs)  # the server sets it when it runs
        os.set_blocking(self.trigger.trigger, False)

    def pull_trigger(self) -> None:
        """Wake the event loop. A thread must not wait here for room in the pipe: it may hold what the loop waits for.
        A full one wakes the loop just as well.
        """
        with contextlib.suppress(BlockingIOError):
            super().pull_trigger()

    def readable(self) -> bool:
        now = time.monotonic()
        if now >= self.next_channel_cleanup:
            self.next_channel_cleanup = now + self.limits.headers_s / 10
            for channel in self._channels():
                if channel.is_overdue(now) and not channel.will_close:
                    channel.abort()
        return bool(self.accepting) and self._has_room(now)

    def handle_accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):  # as many as may have come since the last time, or a flood holds up all
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
            logger.warning("%d connections: the oldest that have not sent a request are aborted", len(self._map))
        receiving = [channel for channel in self._channels() if channel.is_receiving]
        headers = sorted((each for each in receiving if each.body is None), key=lambda each: each.since)
        bodies = sorted((each for each in receiving if each.body is not None), key=lambda each: each.rate(now))
        # Neither kind may crowd out the other: requests that begin and bodies that arrive have half of the room each.
        crowd = max(0, len(bodies) - self.limits.connections // 2)
        for channel in [*bodies[:crowd], *headers, *bodies[crowd:]][:excess]:
            channel.abort()
        return len(self._map) < self.limits.connections

    def _channels(self) -> list[Channel]:
        return [channel for channel in list(self._map.values()) if isinstance(channel, Channel)]  # threads change it
