"""Threads beside the jobs that do short duties again and again: lease renewal, sign of life, sweeps.

A job may take minutes; its lease must not run out meanwhile. Nor may it while thousands of projects are swept: what
goes through all projects has a thread of its own.
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

_STOP_S = 5.0


@dataclass(frozen=True)
class PeriodicDuty:
    """One thing a heartbeat does.

    Attributes:
        name: what it is, for people; shown in `zeromask status` when it fails.
        run: does it once.
        every_s: the least time between the starts of two runs that succeeded, seconds; 0 = at every beat.
        longest_pause_s: the longest pause after failures, seconds.
        all_projects: whether it goes through all projects, of which there may be thousands. Duties that do wait for
            each other, and the others do not wait for them.
    """

    name: str
    run: Callable[[], object]
    every_s: float = 0.0
    longest_pause_s: float = 60.0
    all_projects: bool = False


class Heartbeat:
    """Does all duties at every beat, in their order, those that go through all projects in a second thread. A failure
    of one leaves the others done; while Redis is away, all wait for the next beat.

    Attributes:
        leave: see below.

    Args:
        duties: what to do.
        every_s: the time between two beats, seconds.
        watch: of this process; it reports duties that fail, and a thread that ends.
        leave: called once at the end, after the last beat.
    """

    def __init__(
        self, duties: Sequence[PeriodicDuty], *, every_s: float, watch: DutyWatch, leave: Callable[[], object]
    ) -> None:
        self.leave = leave
        self._watch = watch
        self._stopped = threading.Event()
        short = [duty for duty in duties if not duty.all_projects]
        long = [duty for duty in duties if duty.all_projects]
        self._threads = [
            _BeatThread(name, those, every_s=every_s, watch=watch, stopped=self._stopped)
            for name, those in (("heartbeat", short), ("heartbeat of all projects", long))
            if those
        ]

    def start(self) -> None:
        """Beat until stopped."""
        for thread in self._threads:
            thread.start()
        self._watch.expect_alive([*self._threads])

    def beat(self) -> None:
        """Do all duties that are due, in this thread."""
        for thread in self._threads:
            thread.beat()

    def stop(self) -> None:
        """End the threads, then leave."""
        self._watch.release([*self._threads])
        self._stopped.set()
        until = time.monotonic() + _STOP_S
        for thread in self._threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))
        try:
            self.leave()
        except QueueUnavailable as error:
            log.warning("%s", error)


class _BeatThread(threading.Thread):
    """Does some duties at every beat, in their order."""

    def __init__(
        self, name: str, duties: Sequence[PeriodicDuty], *, every_s: float, watch: DutyWatch, stopped: threading.Event
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._every_s = every_s
        self._stopped = stopped
        self._duties = [(watch.duty(duty.name, longest_pause_s=duty.longest_pause_s), duty) for duty in duties]
        self._not_before = [-math.inf] * len(duties)

    def run(self) -> None:
        """Beat until stopped."""
        while not self._stopped.is_set():
            self.beat()
            self._stopped.wait(self._every_s)

    def beat(self) -> None:
        """Do those that are due."""
        try:
            for number, (duty, periodic) in enumerate(self._duties):
                self._do(number, duty, periodic)
        except QueueUnavailable as error:  # Redis is away: the next beat tries again
            log.warning("%s", error)

    def _do(self, number: int, duty: Duty, periodic: PeriodicDuty) -> None:
        started = time.monotonic()
        if started >= self._not_before[number] and duty.run(periodic.run):
            self._not_before[number] = started + periodic.every_s
