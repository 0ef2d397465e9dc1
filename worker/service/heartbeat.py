"""A thread beside the jobs that does short duties again and again: lease renewal, sign of life, sweeps.

A job may take minutes; its lease must not run out meanwhile.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plugin_config.background import Duty, DutyWatch
from plugin_config.errors import QueueUnavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PeriodicDuty:
    """One thing a heartbeat does.

    Attributes:
        name: what it is, for people; shown in `zeromask status` when it fails.
        run: does it once.
        every_s: the least time between the starts of two runs that succeeded, seconds; 0 = at every beat.
        longest_pause_s: the longest pause after failures, seconds.
    """

    name: str
    run: Callable[[], object]
    every_s: float = 0.0
    longest_pause_s: float = 60.0


class Heartbeat(threading.Thread):
    """Does all duties at every beat, in their order. A failure of one leaves the others done; while Redis is away, all
    wait for the next beat.

    Attributes:
        leave: see below.

    Args:
        duties: what to do.
        every_s: the time between two beats, seconds.
        watch: of this process; it reports duties that fail, and this thread if it ends.
        leave: called once at the end, after the last beat.
    """

    def __init__(
        self, duties: Sequence[PeriodicDuty], *, every_s: float, watch: DutyWatch, leave: Callable[[], object]
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._every_s = every_s
        self._watch = watch
        self.leave = leave
        self._stopped = threading.Event()
        self._duties = [(watch.duty(duty.name, longest_pause_s=duty.longest_pause_s), duty) for duty in duties]
        self._not_before = [-math.inf] * len(duties)

    def run(self) -> None:
        """Beat until stopped."""
        self._watch.expect_alive([self])
        while not self._stopped.is_set():
            self.beat()
            self._stopped.wait(self._every_s)

    def beat(self) -> None:
        """Do all duties that are due."""
        try:
            for number, (duty, periodic) in enumerate(self._duties):
                self._do(number, duty, periodic)
        except QueueUnavailable as error:  # Redis is away: the next beat tries again
            log.warning("%s", error)

    def stop(self) -> None:
        """End the thread, then leave."""
        self._watch.release([self])
        self._stopped.set()
        self.join(timeout=5)
        try:
            self.leave()
        except QueueUnavailable as error:
            log.warning("%s", error)

    def _do(self, number: int, duty: Duty, periodic: PeriodicDuty) -> None:
        started = time.monotonic()
        if started >= self._not_before[number] and duty.run(periodic.run):
            self._not_before[number] = started + periodic.every_s
