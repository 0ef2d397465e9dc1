"""What was asked for while Redis was away: kept in memory and on disk, and asked for when Redis is back.

Label Studio believes that what it asked for is asked for, and its user is told nothing else; so nothing may be lost
when the queue's server is away, nor when this process is restarted meanwhile. It must not know Redis.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plugin_config.errors import QueueUnavailable, ZeromaskError

_AGAIN_S = 0.5
_CLOSE_S = 1.0
# Ten million ids are some 100 MB: whoever asks for more while Redis is away asks again.
_MOST_TASKS = 10_000_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ask:
    """Tasks wanted of a project at a version."""

    project: int
    version: str
    tasks: tuple[int, ...]


class Spool:
    """Holds asks until `send` takes them, or until it is closed. Safe to share between threads.

    Args:
        path: file that keeps them over a restart; one backend writes it.
        send: asks Redis; raises QueueUnavailable while it is away. Called from a thread of the spool's own, in the
            order of the asks, again and again until it succeeds. Asking twice must do no harm.
    """

    def __init__(self, path: Path, send: Callable[[Ask], None]) -> None:
        self._path = path
        self._send = send
        self._lock = threading.Lock()
        self._asks: deque[Ask] = deque(_read(path))
        self._held = sum(len(ask.tasks) for ask in self._asks)
        self._sender: threading.Thread | None = None
        self._closed = threading.Event()
        if self._asks:
            logger.info("%d task(s) asked for before the last stop are still to be asked for", self._held)
            self._start()

    def keep(self, ask: Ask) -> bool:
        """Ask for these as soon as Redis is back; False when there are too many by now."""
        with self._lock:
            if self._held + len(ask.tasks) > _MOST_TASKS:
                return False
            self._held += len(ask.tasks)
            self._asks.append(ask)
            self._write_on(ask)
            self._start()
        return True

    def waiting(self) -> int:
        """How many tasks wait for Redis."""
        with self._lock:
            return self._held

    def close(self) -> None:
        """Send no more: what waits stays in the file, for the next backend to ask for.

        Waits a second for an ask that is on its way. The file is kept whole, so what was sent out of it meanwhile is
        asked for twice.
        """
        self._closed.set()
        with self._lock:
            sender = self._sender
        if sender is not None:
            sender.join(timeout=_CLOSE_S)

    def _start(self) -> None:
        if self._sender is None and not self._closed.is_set():
            self._sender = threading.Thread(target=self._run, name="spool", daemon=True)
            self._sender.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._asks:
                    self._sender = None
                    self._forget()
                    return
                if self._closed.is_set():
                    return
                ask = self._asks[0]
            try:
                self._send(ask)
            except QueueUnavailable:
                self._closed.wait(_AGAIN_S)
                continue
            except ZeromaskError as error:  # a damaged file; the others must not wait behind it for ever
                logger.error("project %d: what was asked for while Redis was away is dropped. %s", ask.project, error)
            with self._lock:
                self._asks.popleft()
                self._held -= len(ask.tasks)
            logger.info("project %d: %d task(s) asked for while Redis was away are asked for", ask.project,
                        len(ask.tasks))  # fmt: skip

    def _forget(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("file %s cannot be removed (%s): a restart would ask for it all again", self._path, error)

    def _write_on(self, ask: Ask) -> None:
        row = json.dumps({"project": ask.project, "version": ask.version, "tasks": ask.tasks})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(row + "\n")
        except OSError as error:  # a full disk: what is in memory still counts
            logger.warning("file %s cannot be written (%s): a restart now would lose %d task(s)", self._path, error,
                           len(ask.tasks))  # fmt: skip


def _read(path: Path) -> list[Ask]:
    asks = []
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
            asks.append(Ask(int(row["project"]), str(row["version"]), tuple(int(task) for task in row["tasks"])))
        except (ValueError, KeyError, TypeError):  # the last line of a process that was killed while writing
            logger.warning("file %s has a line that cannot be read", path)
    return asks
