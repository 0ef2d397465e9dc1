"""Request bodies as they arrive at the server: kept in memory or on disk up to a limit, and dropped beyond it."""

from __future__ import annotations

import io
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, BinaryIO

from waitress.buffers import OverflowableBuffer
from waitress.receiver import ChunkedReceiver
from waitress.utilities import BadRequest

from plugin_config.errors import RequestRefused

LARGE = 1024 * 1024  # bytes; more takes so long to read that small requests should not wait behind it
LARGE_READ_AT_ONCE = 2
_IN_MEMORY = 512 * 1024  # bytes of a body; a larger one goes to disk
_DECODED_AT_ONCE = 2 * 1024  # bytes of a chunked body
# A body of more pieces than this must have this many bytes in each, on average: pieces of one byte cost the event loop
# a hundred times as much per byte.
_MANY_PIECES, _MIN_PIECE = 2048, 16
_MAX_CONTROL = 16 * 1024  # bytes of a line between chunks, and of the trailer; clients send 20


class LargeBodies:
    """The large bodies at one time: arriving, waiting to be read, or being read. Safe to share between threads.

    Args:
        most: how many there may be; each may be as large as its route takes, most of it on disk.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # Weakly: waitress drops the request of a broken connection without closing it.
        self._bodies: weakref.WeakSet[Body] = weakref.WeakSet()
        self._lock = threading.Lock()

    def admit(self, body: Body) -> bool:
        """Admit one more; where there are too many, abort the slowest of those that still arrive. Returns whether
        there is room. Called by the thread that receives them all.
        """
        with self._lock:
            bodies = list(self._bodies)
        if len(bodies) >= self._most:
            arriving = [each for each in bodies if each.arriving]
            if not arriving:
                return False
            slowest = min(arriving, key=lambda each: each.rate(time.monotonic()))
            slowest.close()
            slowest.abort()
        with self._lock:
            self._bodies.add(body)
        return True

    def release(self, body: Body) -> None:
        """Forget one that is read, or given up."""
        with self._lock:
            self._bodies.discard(body)


class Body:
    """The buffer that waitress' receivers write to: keeps up to `limit` bytes, and only counts those after.

    A client that is cut off in the middle of a body sees a broken connection, not the answer that says why; so bytes
    that will not be read are still received, and dropped at once.

    Args:
        limit: most bytes that will be read of it.
        large: must admit it when it grows large.
        abort: ends its connection.
    """

    def __init__(self, limit: int, large: LargeBodies, abort: Callable[[], None]) -> None:
        self._limit = limit
        self._large = large
        self._kept: Any = OverflowableBuffer(_IN_MEMORY)
        self.abort = abort
        self.begun = time.monotonic()
        self.received = 0
        self.pieces = 0  # in which it was received
        self.arriving = True

    def __len__(self) -> int:
        return self.received

    def rate(self, now: float) -> float:
        """Bytes per second so far."""
        return self.received / max(now - self.begun, 1.0)

    @property
    def is_large(self) -> bool:
        """Whether it takes long to read."""
        return self._kept is not None and self.received > LARGE

    def append(self, data: bytes) -> None:
        """Add what arrived."""
        was_large = self.received > LARGE
        self.received += len(data)
        self.pieces += 1
        if self._kept is None:
            return
        if self.received > self._limit or (self.is_large and not was_large and not self._large.admit(self)):
            self.close()
        else:
            self._kept.append(data)

    def getfile(self) -> BinaryIO:
        """The whole body, from its start; for one that was dropped, a stream that says so when it is read."""
        file: BinaryIO = _Dropped() if self._kept is None else self._kept.getfile()
        return file

    def close(self) -> None:
        """Drop what is kept."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None
            self._large.release(self)


class _Dropped(io.BytesIO):
    """The stream of a body that was dropped; it is only read if it was within its limit, but too many were large."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise RequestRefused("request body", "is one of too many large ones at a time", "Send it again soon.",
                             status=503, headers={"Retry-After": "5"})  # fmt: skip


class BoundedChunks(ChunkedReceiver):  # type: ignore[misc]
    """A chunked body with limits on what stands between chunks and on tiny chunks: waitress keeps any amount of the
    former, and copies all bytes not yet decoded with each chunk.
    """

    error: Any
    buf: Body

    def received(self, s: bytes) -> int:
        """Decode what arrived; returns how much of it belongs to the body."""
        taken = 0
        while taken < len(s) and not self.completed and self.error is None:
            taken += super().received(s[taken : taken + _DECODED_AT_ONCE])
            if max(len(self.control_line), len(self.trailer)) > _MAX_CONTROL and self.error is None:
                self.error = BadRequest("Too much between chunks")
            if self.buf.pieces > _MANY_PIECES and len(self.buf) < self.buf.pieces * _MIN_PIECE and self.error is None:
                self.error = BadRequest("Too many tiny chunks")
        return taken
