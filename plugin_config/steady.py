"""Work that must go on whatever happens: a fault nobody foresaw is logged, told, and followed by a growing pause.

A thread that ends silently with an exception would take what it looks after along. It must not know what the work is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from plugin_config.errors import QueueDamaged, QueueUnavailable

log = logging.getLogger(__name__)

TOLD_S = 600.0
"""How long a fault is told after it was met last, seconds."""
_FIRST_REST_S, _LONGEST_REST_S = 0.5, 60.0
_MOST_TOLD = 5  # the threads of one step have the same to tell


class Steady:
    """One piece of work that is done again and again. For one thread; `trouble` may be read by any.

    Args:
        name: what the work is, for people.
        longest_rest_s: the longest pause after faults; each is twice as long as the one before.
    """

    def __init__(self, name: str, *, longest_rest_s: float = _LONGEST_REST_S) -> None:
        self.name = name
        self.faults = 0
        self._longest_rest_s = longest_rest_s
        self._in_a_row = 0
        self._not_before = 0.0
        self._last = ""
        self._last_at = 0.0

    def run(self, work: Callable[[], object]) -> bool:
        """Do the work, unless it rests after a fault. Returns whether it was done, and met none.

        Raises:
            QueueUnavailable: Redis is away, which is no fault.
        """
        if self.rest_s() > 0:
            return False
        try:
            work()
        except QueueDamaged as error:
            self.met(error)
            return False
        except QueueUnavailable:
            raise
        except Exception as error:  # the last resort: it must go on, and somebody must see it
            if self.met(error):
                log.exception("%s: unexpected; it goes on", self.name)
            return False
        self._in_a_row = 0
        return True

    def met(self, error: Exception) -> bool:
        """Note a fault and rest. Returns whether it is another one than the last, and so worth a traceback."""
        told = f"{type(error).__name__}: {str(error)[:300]}"
        if time.monotonic() - self._last_at > TOLD_S:  # what was before has nothing to do with it
            self._in_a_row, self._last = 0, ""
        another = told != self._last
        log.error("%s met a fault: %s", self.name, told)
        self.faults += 1
        rest_s = min(self._longest_rest_s, _FIRST_REST_S * 2**self._in_a_row)
        self._in_a_row = min(self._in_a_row + 1, 30)
        self._not_before = time.monotonic() + rest_s
        self._last_at, self._last = time.monotonic(), told
        return another

    def rest_s(self) -> float:
        """How long it still rests, seconds."""
        return max(0.0, self._not_before - time.monotonic())

    @property
    def trouble(self) -> str:
        """The fault met of late, for people; "" = none."""
        if not self._last or time.monotonic() - self._last_at > TOLD_S:
            return ""
        return f"{self.name}: {self._last} ({self.faults} times so far); the log tells where"


class Watch:
    """Holds the steady works of a process and the threads they run in, and tells which are in trouble. Thread-safe."""

    def __init__(self) -> None:
        self._works: list[Steady] = []
        self._threads: list[threading.Thread] = []

    def steady(self, name: str, *, longest_rest_s: float = _LONGEST_REST_S) -> Steady:
        """A work to look after."""
        work = Steady(name, longest_rest_s=longest_rest_s)
        self._works.append(work)
        return work

    def must_live(self, threads: list[threading.Thread]) -> None:
        """Threads that have been started, and are not to end before `let_go`."""
        self._threads += threads

    def let_go(self, threads: list[threading.Thread]) -> None:
        """These may end now."""
        self._threads = [thread for thread in self._threads if thread not in threads]

    def trouble(self) -> str:
        """What to tell people; "" = nothing."""
        dead = [f"thread {thread.name} has ended: restart this process" for thread in self._threads
                if not thread.is_alive()]  # fmt: skip
        met = [work.trouble for work in self._works if work.trouble]
        return "; ".join([*dict.fromkeys(dead), *dict.fromkeys(met)][:_MOST_TOLD])
