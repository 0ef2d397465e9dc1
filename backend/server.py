"""Waitress, made to answer whatever connections do that never finish a request.

One thread holds all connections; requests that are there in full are answered by three lanes of threads: /health has
one of its own, and large bodies, which take seconds, wait for each other and for nobody else. It must not know what
the routes do.
"""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.task import ThreadedTaskDispatcher

from backend.access import Doors
from backend.connections import ACCEPTED_AT_ONCE, Channel, Limits, Listener, Patience
from backend.request_bodies import Body, LargeBodies
from plugin_config.errors import EnvironmentBroken
from plugin_config.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_THREADS = 16
_LARGE_THREADS = 2
_HEALTH_THREADS = 2
_MOST_LARGE = 24
_MB = 1024 * 1024
_DRAINED_MB = 64  # of a body past its limit are received and forgotten
_MOST_HEADERS = 32 * 1024  # bytes; Label Studio sends less than one thousand
_RECEIVED_AT_ONCE = 64 * 1024  # bytes
_FINISH_S = 5.0  # for the requests in hand when it ends
_FILES_A_CONNECTION = 3  # its socket, the file of its body, that of its answer
_OTHER_FILES = 64


class Server:
    """Listens; `run` serves until SystemExit or `stop`, and then finishes the requests in hand.

    Args:
        app: what answers.
        doors: asked for each body how much of it will be read.
        settings: `host`, `port` and `max_body_mb`.
        patience: how long connections may take.

    Raises:
        EnvironmentBroken: the address cannot be listened on.
    """

    def __init__(
        self, app: WSGIApplication, doors: Doors, settings: Settings, *, patience: Patience | None = None
    ) -> None:
        self._patience = patience or Patience()
        self._stopped = threading.Event()
        self._channels: dict[int, Any] = {}
        self._lanes = _Lanes()
        try:
            adjustments = Adjustments(
                listen=f"{settings.host}:{settings.port}", ident="zeromask", recv_bytes=_RECEIVED_AT_ONCE,
                max_request_header_size=_MOST_HEADERS, max_request_body_size=(settings.max_body_mb + _DRAINED_MB) * _MB,
                log_socket_errors=False,
            )  # fmt: skip
            limits = Limits(self._patience, _connections(self._patience.connections), doors, LargeBodies(_MOST_LARGE))
            # A name such as "localhost" may stand for several addresses: then there is a listener for each.
            for address in adjustments.listen:
                listener = Listener(app, self._channels, dispatcher=self._lanes, adj=adjustments, sockinfo=address)
                listener.limits = limits
        except (OSError, ValueError) as error:
            self.close()
            problem = f"cannot listen on port {settings.port} ({getattr(error, 'strerror', None) or error})"
            remedy = "Set ZEROMASK_HOST and ZEROMASK_PORT."
            raise EnvironmentBroken(f"address {settings.host}", problem, remedy) from error

    def run(self) -> None:
        """Serve until SystemExit, or until another thread calls `stop`."""
        look_s = min(1.0, self._patience.headers_s / 10)
        with contextlib.suppress(SystemExit):
            while not self._stopped.is_set():
                wasyncore.loop(look_s, use_poll=True, map=self._channels, count=1)
        self.close()

    def stop(self) -> None:
        """Let `run` return within a second."""
        self._stopped.set()

    def close(self) -> None:
        """Finish the requests in hand, and close all connections."""
        self._lanes.shutdown()
        wasyncore.close_all(self._channels)


class _Lanes:
    """Stands in for waitress' one queue of requests."""

    def __init__(self) -> None:
        self._usual, self._large, self._health = (ThreadedTaskDispatcher() for _ in range(3))
        for lane, threads in ((self._usual, _THREADS), (self._large, _LARGE_THREADS), (self._health, _HEALTH_THREADS)):
            lane.set_thread_count(threads)

    def add_task(self, channel: Channel) -> None:
        request = channel.requests[0]
        body: Body | None = request.body
        if body is not None and body.is_large:
            self._large.add_task(channel)
        elif getattr(request, "path", "") == "/health":
            self._health.add_task(channel)
        else:
            self._usual.add_task(channel)

    def shutdown(self) -> None:
        lanes = (self._usual, self._large, self._health)
        for lane in lanes:
            lane.set_thread_count(0)  # all at once, and one wait for all: whoever stops us has little more patience
        ends = time.monotonic() + _FINISH_S
        for lane in lanes:
            lane.shutdown(timeout=max(0.0, ends - time.monotonic()))


def _connections(most: int) -> int:
    """How many connections this process has descriptors for, after it has taken as many of those as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most * _FILES_A_CONNECTION + _OTHER_FILES
    enough = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
        soft = enough
    have = most if soft == resource.RLIM_INFINITY else (soft - _OTHER_FILES) // _FILES_A_CONNECTION
    return max(ACCEPTED_AT_ONCE * 2, min(most, have))
