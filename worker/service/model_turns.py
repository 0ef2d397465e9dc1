"""Turns at the model: a click goes before the next batch, and never waits for more than the one that has begun."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST_S = 2.0  # clicks without end must not stop the batches


class ModelTurns:
    """Safe to share between threads.

    Attributes:
        heads: held by whoever scores an image with what was learned, or prepares one for clicks: the caches of towers
            and of the photograph network are for one thread at a time.
    """

    def __init__(self) -> None:
        self.heads = threading.Lock()
        self._clicks, self._since = 0, 0.0
        self._changed = threading.Condition()

    @contextmanager
    def click(self) -> Iterator[None]:
        """Work for an annotator who waits."""
        with self._changed:
            if not self._clicks:
                self._since = time.monotonic()
            self._clicks += 1
        try:
            yield
        finally:
            with self._changed:
                self._clicks -= 1
                self._changed.notify_all()

    def let_clicks_go_first(self) -> None:
        """Wait before a batch until no click is being worked on, for the first two seconds of one at most: an image
        that is long in coming holds up one batch and not each.
        """
        with self._changed:
            left = self._since + _LONGEST_S - time.monotonic()
            self._changed.wait_for(lambda: not self._clicks, timeout=max(0.0, left))
