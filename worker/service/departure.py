"""How a process that predicts ends when it is asked to, whatever its main thread is at: a reconcile may take minutes.

Tasks that have not been in the model are given back at once, the others are finished or given back within seconds. Then
the process leaves, in good order or not, before a supervisor kills it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from worker.service.pipeline import Pipeline

log = logging.getLogger(__name__)

_GRACE_S = 5.0
_LONGEST_S = 8.0  # a supervisor kills after ten seconds, Kubernetes after thirty
_HURRIED_S, _LEAVE_S = 2.0, 1.0
_LOOK_S = 0.05


class Departure(threading.Thread):
    """Closes the pipeline once the process is to end, and ends the process where its main thread does not.

    Args:
        pipeline: holds the tasks.
        stopping: set by the first signal.
        hurried: set by a second one: what is in the model goes back, too.
        leave: notes that the process is gone; called only where the main thread does not come to it.
    """

    def __init__(
        self, pipeline: Pipeline, *, stopping: threading.Event, hurried: threading.Event, leave: Callable[[], object]
    ) -> None:
        super().__init__(name="departure", daemon=True)
        self._pipeline = pipeline
        self._stopping, self._hurried = stopping, hurried
        self._leave = leave
        self._closed, self._over = threading.Event(), threading.Event()

    def run(self) -> None:
        """Wait for the signal, then close the pipeline."""
        self._stopping.wait()
        threading.Thread(target=self._end_in_time, name="departure-end", daemon=True).start()
        self._pipeline.close(grace_s=_GRACE_S, hurried=self._hurried)
        self._closed.set()

    def wait_closed(self) -> None:
        """Close the pipeline now, if no signal did; return when every task is settled."""
        self._stopping.set()
        self._closed.wait()

    def end(self) -> None:
        """Note that the main thread has come to its end."""
        self._over.set()

    def _end_in_time(self) -> None:
        """A thread of its own: while Redis is away, giving a task back takes long, too."""
        asked = time.monotonic()
        while time.monotonic() < asked + _LONGEST_S and not self._hurried.is_set():
            if self._over.wait(_LOOK_S):
                return
        if self._hurried.is_set():
            self._closed.wait(_HURRIED_S)
        log.warning("ending without waiting any longer; what this worker was at, another one begins anew")
        leaving = threading.Thread(target=self._leave, daemon=True)
        leaving.start()
        leaving.join(_LEAVE_S)
        os._exit(0)
