"""What waits before a stage of the assembly line: urgent tasks first, then the others as they came.

It must not know the stages.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue in two classes, bounded in bytes. Safe to share between threads.

    Args:
        most_bytes: above this, `put` waits until something was taken; one item always fits.
    """

    def __init__(self, most_bytes: float = float("inf")) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._items: list[tuple[bool, int, int, T]] = []
        self._number = itertools.count()
        lock = threading.Lock()  # two conditions, so that an item wakes one taker and not all of them
        self._came, self._went = threading.Condition(lock), threading.Condition(lock)

    def put(self, item: T, *, urgent: bool, size: int = 0) -> None:
        """Add an item of `size` bytes; an urgent one never waits for room."""
        with self._went:
            self._went.wait_for(lambda: urgent or not self._items or self._bytes + size <= self._most_bytes)
            self._bytes += size
            heapq.heappush(self._items, (not urgent, next(self._number), size, item))
            self._came.notify()

    def get(self, most: int = 1, *, timeout_s: float, alike: Callable[[T], Hashable] | None = None) -> list[T]:
        """Take the first item and up to `most - 1` others that are `alike`; nothing when none came in time."""
        with self._came:
            if not self._came.wait_for(lambda: bool(self._items), timeout=timeout_s):
                return []
            first = heapq.heappop(self._items)
            taken = [first]
            if most > 1:
                kind = alike(first[3]) if alike else None
                same = (row for row in sorted(self._items) if alike is None or alike(row[3]) == kind)
                taken += itertools.islice(same, most - 1)
                numbers = {row[1] for row in taken}
                self._items = [row for row in self._items if row[1] not in numbers]
                heapq.heapify(self._items)
            self._bytes -= sum(row[2] for row in taken)
            self._went.notify_all()
            return [row[3] for row in taken]
