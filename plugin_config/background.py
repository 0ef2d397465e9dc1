"""Background duties that go on whatever happens: an unexpected error is logged, shown to people, and followed by a
growing pause.

A thread that ended silently with an exception would end everything it looks after.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from plugin_config.errors import QueueDamaged, QueueUnavailable

log = logging.getLogger(__name__)

FAULT_SHOWN_S = 600.0
"""How long after its last occurrence a fault is shown, seconds."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0
_MOST_SHOWN = 5  # the threads of one step have the same fault


class Duty:
    """One piece of work that is done again and again. For one thread; `trouble` may be read by any.

    Args:
        name: what the work is, for people.
        longest_pause_s: the longest pause after a fault; each is twice as long as the one before.
    """

    def __init__(self, name: str, *, longest_pause_s: float = _LONGEST_PAUSE_S) -> None:
        self.name = name
        self.faults = 0
        self._longest_pause_s = longest_pause_s
        self._in_a_row = 0
        self._not_before = 0.0
        self._last = ""
        self._last_at = 0.0

    def run(self, work: Callable[[], object]) -> bool:
        """Do the work, except during the pause after a fault. Returns whether it was done without one.

        Raises:
            QueueUnavailable: Redis does not answer, which is no fault.
        """
        if self.pause_s() > 0:
            return False
        try:
            work()
        except QueueDamaged as error:
            self.record_fault(error)
            return False
        except QueueUnavailable:
            raise
        except Exception as error:  # the last resort: the duty must go on, and somebody must see the fault
            if self.record_fault(error):
                log.exception("%s: unexpected; it goes on", self.name)
            return False
        self._in_a_row = 0
        return True

    def record_fault(self, error: Exception) -> bool:
        """Record a fault and begin a pause. Returns whether it differs from the last one and is worth a traceback."""
        text = f"{type(error).__name__}: {str(error)[:300]}"
        if time.monotonic() - self._last_at > FAULT_SHOWN_S:  # too long ago to be related
            self._in_a_row, self._last = 0, ""
        is_new = text != self._last
        log.error("%s met a fault: %s", self.name, text)
        self.faults += 1
        pause_s = min(self._longest_pause_s, _FIRST_PAUSE_S * 2**self._in_a_row)
        self._in_a_row = min(self._in_a_row + 1, 30)
        self._not_before = time.monotonic() + pause_s
        self._last_at, self._last = time.monotonic(), text
        return is_new

    def pause_s(self) -> float:
        """What is left of the pause, seconds."""
        return max(0.0, self._not_before - time.monotonic())

    @property
    def trouble(self) -> str:
        """The last fault of the last ten minutes, for people; "" = none."""
        if not self._last or time.monotonic() - self._last_at > FAULT_SHOWN_S:
            return ""
        return f"{self.name}: {self._last} ({self.faults} times so far); see the log"


class DutyWatch:
    """Holds the duties of a process and the threads they run in, and knows which are in trouble. Thread-safe."""

    def __init__(self) -> None:
        self._duties: list[Duty] = []
        self._threads: list[threading.Thread] = []

    def duty(self, name: str, *, longest_pause_s: float = _LONGEST_PAUSE_S) -> Duty:
        """Make a duty and watch it."""
        duty = Duty(name, longest_pause_s=longest_pause_s)
        self._duties.append(duty)
        return duty

    def expect_alive(self, threads: list[threading.Thread]) -> None:
        """Watch threads that were started and must not end before `release`."""
        self._threads += threads

    def release(self, threads: list[threading.Thread]) -> None:
        """Allow threads to end."""
        self._threads = [thread for thread in self._threads if thread not in threads]

    def trouble(self) -> str:
        """Ended threads and duties with faults, for people; "" = none."""
        ended = [f"thread {thread.name} has ended: restart this process" for thread in self._threads
                 if not thread.is_alive()]  # fmt: skip
        faults = [duty.trouble for duty in self._duties if duty.trouble]
        return "; ".join([*dict.fromkeys(ended), *dict.fromkeys(faults)][:_MOST_SHOWN])
