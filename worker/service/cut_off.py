"""Tells a worker that alone is cut off from Label Studio from a Label Studio that nobody reaches.

While nobody reaches it, drawn tasks wait where they are, and their masks are not drawn again. A worker that alone
cannot reach it must not keep its tasks from the others.
"""

from __future__ import annotations

import threading
import time

from plugin_config.errors import QueueUnavailable
from plugin_config.queue.totals import Totals

_LONG_S = 10.0  # a connection that is refused or broken for a moment is no reason to draw masks again


class CutOff:
    """Notes whether the posts of one worker reach Label Studio. Safe to share between threads.

    Args:
        totals: of all workers: what grows while this one stores nothing was stored by others.
    """

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self._lock = threading.Lock()
        self._since: tuple[float, int] | None = None

    def over(self) -> None:
        """A prediction was stored."""
        with self._lock:
            self._since = None

    def unreached(self) -> bool:
        """Note that Label Studio was not reached. Returns True when this worker stored nothing for ten seconds, and
        others did; False while Redis does not answer.
        """
        try:
            done = self._totals.ended()["done"]
        except QueueUnavailable:
            return False
        now_s = time.monotonic()
        with self._lock:
            if self._since is None:
                self._since = now_s, done
            since_s, done_then = self._since
            return now_s - since_s >= _LONG_S and done > done_then
