"""The queues before the stages of the pipeline: urgent items first, then owners in turns by what they have cost."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from worker.label_studio.fair_share import FairOrder, FairSlots

T = TypeVar("T")


@dataclass(frozen=True)
class _Waiting(Generic[T]):
    item: T
    owner: Hashable
    urgent: bool
    size: int
    number: int


class Inbox(Generic[T]):
    """A queue with two priorities, bounded in bytes. Safe to share between threads.

    Args:
        most_bytes: above this, `put` waits until an item was taken; one item always fits. An urgent item waits for
            urgent ones only, and not at all while its owner has none here: no owner waits because of another.
        whose: the owner of an item; None = all have one owner and keep their order.
    """

    def __init__(self, most_bytes: float = float("inf"), *, whose: Callable[[T], Hashable] | None = None) -> None:
        self._most_bytes = most_bytes
        self._whose = whose or (lambda item: None)
        self._order = FairOrder()
        self._bytes = 0
        self._items: list[_Waiting[T]] = []
        self._number = itertools.count()
        self._lock = threading.Lock()  # two conditions, so that an item wakes one taker and not all of them
        self._came, self._went = threading.Condition(self._lock), threading.Condition(self._lock)

    def put(self, item: T, *, urgent: bool, size: int = 0, waits: bool = True) -> None:
        """Add an item of `size` bytes; without room this waits, unless `waits` is False."""
        owner = self._whose(item)
        with self._went:
            if waits:
                self._went.wait_for(lambda: self._fits(owner, size, urgent=urgent))
            if all(row.owner != owner for row in self._items):
                self._order.enter(owner)
            self._bytes += size
            self._items.append(_Waiting(item, owner, urgent, size, next(self._number)))
            self._came.notify()

    def full(self) -> bool:
        """Whether the bound in bytes is reached."""
        with self._lock:
            return self._bytes >= self._most_bytes

    def has_room(self, owner: Hashable, *, size: int, urgent: bool) -> bool:
        """Whether `put` would add an owner's item at once."""
        with self._lock:
            return self._fits(owner, size, urgent=urgent)

    def _fits(self, owner: Hashable, size: int, *, urgent: bool) -> bool:
        if not urgent:
            return not self._items or self._bytes + size <= self._most_bytes
        alike = [row for row in self._items if row.urgent]
        own = any(row.owner == owner for row in alike)
        return not own or sum(row.size for row in alike) + size <= self._most_bytes

    def get(
        self,
        most: int = 1,
        *,
        timeout_s: float,
        alike: Callable[[T], Hashable] | None = None,
        only_urgent: Callable[[T], bool] | None = None,
    ) -> list[T]:
        """Take the next item and up to `most - 1` others with the same `alike` key; an empty list after the time. With
        `only_urgent`, take only urgent items of which it is true.
        """
        with self._came:
            if not self._came.wait_for(lambda: bool(self._offered(only_urgent)), timeout=timeout_s):
                return []
            offered = sorted(self._offered(only_urgent), key=self._place)
            first = offered[0]
            self._order.take(first.owner)
            kind = alike(first.item) if alike and most > 1 else None
            same = (row for row in offered if alike is None or alike(row.item) == kind)
            taken = list(itertools.islice(same, most)) if most > 1 else [first]
            numbers = {row.number for row in taken}
            self._items = [row for row in self._items if row.number not in numbers]
            self._bytes -= sum(row.size for row in taken)
            self._went.notify_all()
            return [row.item for row in taken]

    def charge(self, item: T, cost: float) -> None:
        """Charge an item's owner with what the item has cost, in a unit of the caller's."""
        with self._lock:
            self._order.charge(self._whose(item), cost)

    def _offered(self, only_urgent: Callable[[T], bool] | None) -> list[_Waiting[T]]:
        if only_urgent is None:
            return self._items
        return [row for row in self._items if row.urgent and only_urgent(row.item)]

    def _place(self, row: _Waiting[T]) -> tuple[bool, float, int]:
        return not row.urgent, self._order.position(row.owner), row.number


class SharedInbox(Generic[T]):
    """A queue with two priorities for threads that mostly wait for the network: an owner whose items hang occupies its
    share of the threads, not all of them. Safe to share between threads.

    Args:
        threads: how many take items.
        reserved: how many of these are for urgent items.
        whose: the owner of an item, and the part of the owner that may hang by itself (a host).
    """

    def __init__(self, threads: int, *, reserved: int, whose: Callable[[T], tuple[Hashable, Hashable]]) -> None:
        self._slots = FairSlots(threads, reserved=reserved)
        self._whose = whose
        self._items: list[tuple[bool, int, T]] = []
        self._number = itertools.count()
        self._changed = threading.Condition()

    def put(self, item: T, *, urgent: bool) -> None:
        """Add an item."""
        with self._changed:
            self._items.append((not urgent, next(self._number), item))
            self._items.sort(key=lambda row: row[:2])
            self._changed.notify()

    @contextmanager
    def taken(self, *, timeout_s: float) -> Iterator[T | None]:
        """Take the first item whose owner has a thread of its share left; None after the time. The thread is the
        owner's until the `with` block ends.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._first() is not None, timeout=timeout_s)
            row = self._first()
            if row is not None:
                self._items.remove(row)
                self._slots.acquire(*self._whose(row[2]), urgent=not row[0])
        try:
            yield None if row is None else row[2]
        finally:
            if row is not None:
                with self._changed:
                    self._slots.release(*self._whose(row[2]), urgent=not row[0])
                    self._changed.notify()  # another thread; this one looks for an item by itself

    def _first(self) -> tuple[bool, int, T] | None:
        free = (row for row in self._items if self._slots.available(*self._whose(row[2]), urgent=not row[0]))
        return next(free, None)
