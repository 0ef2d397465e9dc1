"""Keeps a worker's leases alive, shows that it lives, and looks after what others left.

Runs beside the jobs so that a long forward costs no lease. It must not know how a task is predicted.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable

from plugin_config.background import Duty
from plugin_config.errors import QueueUnavailable
from worker.service.context import Resident
from worker.service.pipeline import Pipeline

log = logging.getLogger(__name__)

_LONGEST_BEAT_S = 3.0
# A forward or a shape that takes this long will never end, and nothing in this process can end it.
_STUCK_S = 600.0
_STUCK_STATUS = 70


class Keeper(threading.Thread):
    """Renews leases, gives signs of life, puts back what dead workers held, asks for a look at every project now and
    then. A Redis that is away is waited for, and a fault in one of these duties costs none of the others.
    """

    def __init__(self, resident: Resident, pipeline: Pipeline) -> None:
        super().__init__(name="keeper", daemon=True)
        self._resident = resident
        self._pipeline = pipeline
        self._stopped = threading.Event()
        self._beat_s = min(_LONGEST_BEAT_S, resident.settings.lease_s / 4)
        self._reconciled = -math.inf  # at once: what Redis knows of the versions served may be old, or nothing
        duty = resident.watch.duty
        self._duties: list[tuple[Duty, Callable[[], None]]] = [
            (duty("the renewal of leases", longest_pause_s=self._beat_s), self._resident.leases.renew),
            (duty("the sign of life", longest_pause_s=self._beat_s), self._show),
            (duty("the sweep"), self._sweep),
            (duty("the periodic look"), self._reconcile),
        ]

    def run(self) -> None:
        """Beat until stopped."""
        self._resident.watch.expect_alive([self])
        while not self._stopped.is_set():
            if self._pipeline.stuck_s() > _STUCK_S:
                log.critical("the model has been at one batch for %.0f s: ending, so that the tasks go to another "
                             "worker", _STUCK_S)  # fmt: skip
                os._exit(_STUCK_STATUS)
            self.beat()
            self._stopped.wait(self._beat_s)

    def beat(self) -> None:
        """One round of all duties."""
        try:
            for duty, work in self._duties:
                duty.run(work)
        except QueueUnavailable as error:  # leases must go on being renewed
            log.warning("%s", error)

    def stop(self) -> None:
        """End the thread and say goodbye."""
        self._resident.watch.release([self])
        self._stopped.set()
        self.join(timeout=5)
        try:
            self._resident.presence.remove(self._resident.name)
        except QueueUnavailable as error:
            log.warning("%s", error)

    def _show(self) -> None:
        self._resident.presence.heartbeat(self._resident.name, self._resident.about())

    def _sweep(self) -> None:
        for ref in self._resident.pending.sweep():
            log.warning("task %d: its worker is gone, it is queued again (version %s)", ref.task, ref.version)

    def _reconcile(self) -> None:
        if time.monotonic() - self._reconciled >= self._resident.settings.reconcile_s:
            self._reconciled = time.monotonic()
            for project in self._resident.pending.projects():
                self._resident.hints.request_refresh(project)
