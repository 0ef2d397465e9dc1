"""The server: one thread holds all connections; complete requests are answered by three thread pools.

/health has a pool of its own, and so have large bodies, which take seconds: they wait for each other only.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.task import ThreadedTaskDispatcher

from backend.access import AccessControl
from backend.clicks import MOST_LARGE_WAITING, MOST_WAITING
from backend.server.connections import ACCEPTED_AT_ONCE, Channel, ConnectionLimits, Listener
from backend.server.request_bodies import LARGE_READ_AT_ONCE, Body, LargeBodies
from plugin_config.errors import EnvironmentBroken
from plugin_config.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_THREADS = 16 + MOST_WAITING
_LARGE_THREADS = LARGE_READ_AT_ONCE + MOST_LARGE_WAITING
_HEALTH_THREADS = 2
_MAX_LARGE_BODIES = 24
_MB = 1024 * 1024
_DRAINED_MB = 64  # of a body past its limit are received and dropped
_MAX_HEADERS = 32 * 1024  # bytes; Label Studio sends less than one thousand
_RECEIVED_AT_ONCE = 64 * 1024  # bytes
_FINISH_S = 5.0  # for the requests being answered when it ends
_FILES_PER_CONNECTION = 3  # its socket, the file of its body, that of its answer
_OTHER_FILES = 64


class Server:
    """Listens from the start; `run` serves until SystemExit or `stop`, and then finishes the requests being answered.

    Args:
        access: decides how much of each body will be read.
        settings: `host`, `port` and `max_body_mb`.
        limits: how long connections may take, and how many there may be.

    Raises:
        EnvironmentBroken: the address cannot be listened on.
    """

    def __init__(self, access: AccessControl, settings: Settings, *, limits: ConnectionLimits | None = None) -> None:
        limits = limits or ConnectionLimits()
        self._limits = replace(limits, connections=_affordable_connections(limits.connections))
        self._stopped = threading.Event()
        self._closed = False
        self._channels: dict[int, Any] = {}
        self._listeners: list[Listener] = []
        self._pools = _ThreadPools()
        try:
            adjustments = Adjustments(
                listen=f"{settings.host}:{settings.port}", ident="zeromask", recv_bytes=_RECEIVED_AT_ONCE,
                max_request_header_size=_MAX_HEADERS, max_request_body_size=(settings.max_body_mb + _DRAINED_MB) * _MB,
                log_socket_errors=False,
            )  # fmt: skip
            large_bodies = LargeBodies(_MAX_LARGE_BODIES)
            # A name such as "localhost" may stand for several addresses: then there is a listener for each.
            for address in adjustments.listen:
                self._listeners.append(
                    Listener(access=access, large_bodies=large_bodies, limits=self._limits, map=self._channels,
                             dispatcher=self._pools, adj=adjustments, sockinfo=address)
                )  # fmt: skip
        except (OSError, ValueError) as error:
            self.close()
            problem = f"cannot listen on port {settings.port} ({getattr(error, 'strerror', None) or error})"
            remedy = "Set ZEROMASK_HOST to an address of this machine, and ZEROMASK_PORT to a port that it may open."
            if getattr(error, "errno", None) == errno.EADDRINUSE:
                remedy = "Stop the program that has it, perhaps an earlier Zeromask, or set ZEROMASK_PORT to another."
            raise EnvironmentBroken(f"address {settings.host}", problem, remedy) from error

    def run(self, app: WSGIApplication) -> None:
        """Serve an app until SystemExit, or until another thread calls `stop`."""
        for listener in self._listeners:
            listener.application = app
        check_s = min(1.0, self._limits.headers_s / 10)
        with contextlib.suppress(SystemExit):
            while not self._stopped.is_set():
                wasyncore.loop(check_s, use_poll=True, map=self._channels, count=1)
        self.close()

    def stop(self) -> None:
        """Let `run` return within a second."""
        self._stopped.set()

    def close(self) -> None:
        """Finish the requests being answered, and close all connections."""
        if not self._closed:
            self._closed = True
            self._pools.shutdown()
            wasyncore.close_all(self._channels)


class _ThreadPools:
    """Stands in for waitress' one queue of requests."""

    def __init__(self) -> None:
        self._usual, self._large, self._health = (ThreadedTaskDispatcher() for _ in range(3))
        for pool, threads in ((self._usual, _THREADS), (self._large, _LARGE_THREADS), (self._health, _HEALTH_THREADS)):
            pool.set_thread_count(threads)

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
        pools = (self._usual, self._large, self._health)
        for pool in pools:
            pool.set_thread_count(0)  # all at once, and one wait for all: a supervisor kills what takes much longer
        ends = time.monotonic() + _FINISH_S
        for pool in pools:
            pool.shutdown(timeout=max(0.0, ends - time.monotonic()))


def _affordable_connections(most: int) -> int:
    """How many connections this process has descriptors for, after it has raised its limit of those if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most * _FILES_PER_CONNECTION + _OTHER_FILES
    enough = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
        soft = enough
    have = most if soft == resource.RLIM_INFINITY else (soft - _OTHER_FILES) // _FILES_PER_CONNECTION
    return max(ACCEPTED_AT_ONCE * 2, min(most, have))
