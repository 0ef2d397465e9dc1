"""The outbox: requests that came while Redis was away, kept in memory and on disk, and sent when it is back.

Label Studio counts tasks as requested once it has an answer. So no request may be lost while Redis is away, nor when
this process is restarted meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from backend.outbox_file import MAX_TASKS, OutboxFile
from backend.task_queue import PredictionRequest
from plugin_config.background import Duty
from plugin_config.errors import QueueDamaged, QueueFull, QueueUnavailable, ZeromaskError

_RETRY_S = 0.5
_CLOSE_S = 1.0
_MAX_TRIES = 5

logger = logging.getLogger(__name__)


class Outbox:
    """Holds requests until `send` takes them, or until it is closed. Safe to share between threads.

    Sending begins at once with what an earlier backend left in the file.

    Args:
        path: file that keeps the requests over a restart; one backend at a time writes it.
        send: sends one request; raises QueueUnavailable while Redis is away. Called from a thread of the outbox, in
            the order of the requests, again and again until it succeeds, so sending twice must do no harm. Where it
            raises QueueFull, the other requests go first.
    """

    def __init__(self, path: Path, send: Callable[[PredictionRequest], None]) -> None:
        self._file = OutboxFile(path)
        self._send = send
        self._duty = Duty("sending the outbox")
        self._tries: dict[PredictionRequest, int] = {}
        self._lock = threading.Lock()
        self._requests: deque[PredictionRequest] = deque(self._file.read())
        self._task_count = sum(len(request.tasks) for request in self._requests)
        self._sender: threading.Thread | None = None
        self._closed = threading.Event()
        if self._requests:
            logger.info("outbox: %d task(s) from before the last stop are still to be sent", self._task_count)
            with self._lock:
                self._start()

    def put(self, request: PredictionRequest) -> bool:
        """Keep a request and send it as soon as Redis is back; False when the outbox is full."""
        with self._lock:
            if self._task_count + len(request.tasks) > MAX_TASKS:
                return False
            self._task_count += len(request.tasks)
            self._requests.append(request)
            self._file.append(request)
            self._start()
        return True

    def task_count(self) -> int:
        """How many tasks wait for Redis."""
        with self._lock:
            return self._task_count

    def close(self) -> None:
        """Send no more: what is left stays in the file, for the next backend to send.

        Waits a second for a request that is on its way. The file is kept whole, so what was sent out of it meanwhile
        is sent twice.
        """
        self._closed.set()
        with self._lock:
            sender = self._sender
        if sender is not None:
            sender.join(timeout=_CLOSE_S)

    def _start(self) -> None:
        """Start the sender where there is none. The lock is held: it does not end before it is noted."""
        if self._sender is None and not self._closed.is_set():
            sender = threading.Thread(target=self._run, name="outbox", daemon=True)
            try:
                sender.start()
            except RuntimeError as error:  # the machine gives no more threads now: the next request tries again
                logger.warning("outbox: %d task(s) are sent later: %s", self._task_count, error)
                return
            self._sender = sender

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._requests:
                    self._sender = None
                    self._file.delete()
                    return
                if self._closed.is_set():
                    return
                request = self._requests[0]
            if not self._is_settled(request):
                continue
            with self._lock:
                self._requests.popleft()
                self._task_count -= len(request.tasks)

    def _is_settled(self, request: PredictionRequest) -> bool:
        """Send the first request. Returns whether it is sent or given up; pauses where it is neither."""
        try:
            self._send(request)
        except (QueueFull, QueueDamaged) as error:  # of this project, most likely
            logger.warning("%s", error)
            self._put_last(_RETRY_S)
        except QueueUnavailable:
            self._closed.wait(_RETRY_S)
        except ZeromaskError as error:  # it can never be sent: the others must not wait for it for ever
            self._give_up(request, error)
            return True
        except Exception as error:  # the last resort: whatever it is, the others must not wait for it for ever
            if self._duty.record_fault(error):
                logger.exception("project %d: unexpected", request.project)
            self._tries[request] = self._tries.get(request, 0) + 1
            if self._tries[request] >= _MAX_TRIES:
                self._give_up(request, error)
                return True
            self._put_last(self._duty.pause_s())
        else:
            self._tries.pop(request, None)
            logger.info("project %d: %d task(s) kept while Redis was away are sent", request.project,
                        len(request.tasks))  # fmt: skip
            return True
        return False

    def _put_last(self, pause_s: float) -> None:
        with self._lock:
            self._requests.rotate(-1)
        self._closed.wait(pause_s)

    def _give_up(self, request: PredictionRequest, error: Exception) -> None:
        self._tries.pop(request, None)
        self._file.reject(request)
        logger.error("project %d: a request kept while Redis was away cannot be sent and is set aside. %s",
                     request.project, error)  # fmt: skip
