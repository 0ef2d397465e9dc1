"""Queues drains again that this process takes nothing of, as it cannot use what their projects are served with.

Another worker that waits for a job gets such a drain at once. Where all others are busy it comes back to this one,
which then lets a moment pass, without waiting itself: its other jobs go on.
"""

from __future__ import annotations

import logging
import threading
import time

from plugin_config.errors import QueueUnavailable
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.slots import URGENT_SLOT

log = logging.getLogger(__name__)

_PAUSE_S = 0.1


class Handover:
    """Passes drains on, of a project ten times a second at most. Safe to share between threads."""

    def __init__(self, pending: PendingTasks) -> None:
        self._pending = pending
        self._passed: dict[int, float] = {}  # project -> when, of `time.monotonic`
        self._later: dict[int, bool] = {}  # project -> whether somebody waits for one of its tasks
        self._lock = threading.Lock()

    def pass_on(self, project: int, slot: int) -> None:
        """Free the slot of a drain and queue the drains that are due, one that somebody waits for ahead of all others.

        Raises:
            QueueUnavailable: Redis does not answer; a sweep queues them.
        """
        self._pending.free_drain(project, slot)
        urgent = slot == URGENT_SLOT
        with self._lock:
            wait_s = _PAUSE_S - (time.monotonic() - self._passed.get(project, -_PAUSE_S))
            if wait_s > 0:
                if project not in self._later:
                    timer = threading.Timer(wait_s, self._queue_later, (project,))
                    timer.daemon = True
                    timer.start()
                self._later[project] = urgent or self._later.get(project, False)
                return
            self._passed[project] = time.monotonic()
        self._pending.ensure_drains(project, urgent=urgent)

    def _queue_later(self, project: int) -> None:
        with self._lock:
            urgent = self._later.pop(project)
        try:
            self._pending.ensure_drains(project, urgent=urgent)
        except QueueUnavailable as error:  # a sweep queues them
            log.warning("project %d: %s", project, error)
