"""What was asked for while Redis was away: kept in memory and on disk, and asked for when Redis is back.

Label Studio believes that what it asked for is asked for, and its user is told nothing else; so nothing may be lost
when the queue's server is away, nor when this process is restarted meanwhile. It must not know Redis.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from backend.outbox_file import MOST_TASKS, Ask, AskedFile
from plugin_config.background import Duty
from plugin_config.errors import QueueDamaged, QueueFull, QueueUnavailable, ZeromaskError

_AGAIN_S = 0.5
_CLOSE_S = 1.0
_MOST_TRIES = 5

logger = logging.getLogger(__name__)


class Spool:
    """Holds asks until `send` takes them, or until it is closed. Safe to share between threads.

    Args:
        path: file that keeps them over a restart; one backend writes it.
        send: asks Redis; raises QueueUnavailable while it is away. Called from a thread of the spool's own, in the
            order of the asks, again and again until it succeeds. Asking twice must do no harm. Where it raises
            QueueFull, the others go first.
    """

    def __init__(self, path: Path, send: Callable[[Ask], None]) -> None:
        self._file = AskedFile(path)
        self._send = send
        self._duty = Duty("asking for what was asked for while Redis was away")
        self._tries: dict[Ask, int] = {}
        self._lock = threading.Lock()
        self._asks: deque[Ask] = deque(self._file.read())
        self._held = sum(len(ask.tasks) for ask in self._asks)
        self._sender: threading.Thread | None = None
        self._closed = threading.Event()
        if self._asks:
            logger.info("%d task(s) asked for before the last stop are still to be asked for", self._held)
            self._start()

    def keep(self, ask: Ask) -> bool:
        """Ask for these as soon as Redis is back; False when there are too many by now."""
        with self._lock:
            if self._held + len(ask.tasks) > MOST_TASKS:
                return False
            self._held += len(ask.tasks)
            self._asks.append(ask)
            self._file.add(ask)
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
                    self._file.forget()
                    return
                if self._closed.is_set():
                    return
                ask = self._asks[0]
            if not self._is_over(ask):
                continue
            with self._lock:
                self._asks.popleft()
                self._held -= len(ask.tasks)

    def _is_over(self, ask: Ask) -> bool:
        """Ask for the first of them. Returns whether it is asked for, or given up; pauses where it is neither."""
        try:
            self._send(ask)
        except (QueueFull, QueueDamaged) as error:  # of this project, most likely
            logger.warning("%s", error)
            self._put_last(_AGAIN_S)
        except QueueUnavailable:
            self._closed.wait(_AGAIN_S)
        except ZeromaskError as error:  # a damaged file; the others must not wait behind it for ever
            self._give_up(ask, error)
            return True
        except Exception as error:  # the last resort: whatever it is, the others must not wait behind it for ever
            if self._duty.record_fault(error):
                logger.exception("project %d: unexpected", ask.project)
            self._tries[ask] = self._tries.get(ask, 0) + 1
            if self._tries[ask] >= _MOST_TRIES:
                self._give_up(ask, error)
                return True
            self._put_last(self._duty.pause_s())
        else:
            self._tries.pop(ask, None)
            logger.info("project %d: %d task(s) asked for while Redis was away are asked for", ask.project,
                        len(ask.tasks))  # fmt: skip
            return True
        return False

    def _put_last(self, pause_s: float) -> None:
        with self._lock:
            self._asks.rotate(-1)
        self._closed.wait(pause_s)

    def _give_up(self, ask: Ask, error: Exception) -> None:
        self._tries.pop(ask, None)
        self._file.give_up(ask)
        logger.error("project %d: what was asked for while Redis was away is set aside. %s", ask.project, error)
