"""A network cable between a worker and a server that can be cut: a TCP proxy that forwards nothing meanwhile.

What was sent before the cut and did not arrive is kept and arrives when the link is whole again, as TCP sends it again:
a request may reach its server minutes after its sender has given up.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PIECE = 65536
_PATIENCE_S = 60.0  # longer than a worker waits for an answer of Redis


class Link:
    """Made by `link`. `port`: where it is reached; `held`: how many bytes wait for the cable now."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        self._target = target
        self._whole = threading.Event()
        self._whole.set()
        self._closed = False
        self._lock = threading.Lock()
        self.held = 0
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, name="link", daemon=True).start()

    def cut(self) -> None:
        """Forward nothing from now on, in neither direction; nobody is told."""
        self._whole.clear()

    def mend(self) -> None:
        """Forward what waits, and everything from now on."""
        self._whole.set()

    def close(self) -> None:
        """End everything."""
        self._closed = True
        self._whole.set()
        for one in (self._listening, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        self._sockets.append(near)
        self._whole.wait()
        try:
            if isinstance(self._target, str):
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._target)
            else:
                far = socket.create_connection(self._target, timeout=_PATIENCE_S)
                far.settimeout(None)
        except OSError:
            near.close()
            return
        self._sockets.append(far)
        threading.Thread(target=self._pump, args=(far, near), daemon=True).start()
        self._pump(near, far)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Forward one direction until its sender has ended."""
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                self._wait_whole(len(piece))
                sink.sendall(piece)
            self._wait_whole(0)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _wait_whole(self, size: int) -> None:
        with self._lock:
            self.held += size
        self._whole.wait()
        with self._lock:
            self.held -= size
        if self._closed:
            raise OSError("the link is closed")


@contextmanager
def link(target: tuple[str, int] | str) -> Iterator[Link]:
    """A link to a server, an address or the path of a Unix socket, for as long as the `with` block lasts."""
    made = Link(target)
    try:
        yield made
    finally:
        made.close()
