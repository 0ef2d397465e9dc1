"""Fair sharing between owners: slots of which nobody can hold all, and an order by what each owner has cost so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

_MOST_REMEMBERED = 1000


class FairSlots:
    """Counts the slots that each owner holds. Not thread-safe.

    An owner gets at most half of the slots that the others leave, so that some stay free even if owners hold theirs for
    ever. A part of an owner (an image host of a project) gets at most three quarters of its owner's.

    Args:
        count: of all slots.
        reserved: of these, only for urgent use.
    """

    def __init__(self, count: int, *, reserved: int) -> None:
        self._count, self._reserved = count, reserved
        self._held: Counter[Hashable] = Counter()
        self._taken = 0

    def available(self, owner: Hashable, part: Hashable = None, *, urgent: bool) -> bool:
        """Whether the owner may acquire one more."""
        own = self._held[owner, urgent]
        left = self._count - (0 if urgent else self._reserved) - (self._taken - own)
        most = -(-left // 2)
        return own < most and self._held[owner, part, urgent] < -(-3 * most // 4)

    def acquire(self, owner: Hashable, part: Hashable = None, *, urgent: bool) -> None:
        """Count one more slot as held."""
        self._held.update([(owner, urgent), (owner, part, urgent)])
        self._taken += 1

    def release(self, owner: Hashable, part: Hashable = None, *, urgent: bool) -> None:
        """Count one slot as free again."""
        for key in ((owner, urgent), (owner, part, urgent)):
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
        self._taken -= 1


class FairOrder:
    """Orders owners by the cost of their work so far, the least first (fair queueing by virtual time): an owner whose
    items take ten times as long gets a tenth as many. An owner that comes (back) starts where the others are. Not
    thread-safe.
    """

    def __init__(self) -> None:
        self._spent: dict[Hashable, float] = {}
        self._now = 0.0

    def enter(self, owner: Hashable) -> None:
        """Add an owner that had no items before."""
        if len(self._spent) >= _MOST_REMEMBERED:
            self._spent = {key: spent for key, spent in self._spent.items() if spent > self._now}
        self._spent[owner] = self.position(owner)

    def position(self, owner: Hashable) -> float:
        """The owner with the lowest is served next."""
        return max(self._spent.get(owner, 0.0), self._now)

    def take(self, owner: Hashable) -> None:
        """Note that an item of the owner is taken."""
        self._now = self.position(owner)

    def charge(self, owner: Hashable, cost: float) -> None:
        """Add what an item of the owner has cost."""
        self._spent[owner] = self._spent.get(owner, self._now) + cost
