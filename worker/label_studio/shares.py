"""Who is next, and who has enough: places given out so that somebody can always come in, turns by what each has cost.

It must not know what is shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

_MOST_REMEMBERED = 1000


class Places:
    """Counts who holds how many places. Nobody gets more than half of what the others leave, so that some are left
    whoever holds his for ever; an owner's part (an image host of a project) gets three quarters of its owner's at most.
    For one thread at a time.

    Args:
        count: all there are.
        reserved: of these, kept for what is urgent.
    """

    def __init__(self, count: int, *, reserved: int) -> None:
        self._count, self._reserved = count, reserved
        self._held: Counter[Hashable] = Counter()
        self._taken = 0

    def free(self, owner: Hashable, part: Hashable = None, *, urgent: bool) -> bool:
        """Whether the owner may take one more."""
        mine = self._held[owner, urgent]
        left = self._count - (0 if urgent else self._reserved) - (self._taken - mine)
        most = -(-left // 2)
        return mine < most and self._held[owner, part, urgent] < -(-3 * most // 4)

    def take(self, owner: Hashable, part: Hashable = None, *, urgent: bool) -> None:
        """One more is held."""
        self._held.update([(owner, urgent), (owner, part, urgent)])
        self._taken += 1

    def give_back(self, owner: Hashable, part: Hashable = None, *, urgent: bool) -> None:
        """One fewer is held."""
        for key in ((owner, urgent), (owner, part, urgent)):
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
        self._taken -= 1


class Turns:
    """Reckons what each has cost, so that the one with the least comes next: whose things take ten times as long gets a
    tenth as many. Who comes (back) begins where the others are. For one thread at a time.
    """

    def __init__(self) -> None:
        self._spent: dict[Hashable, float] = {}
        self._now = 0.0

    def came(self, owner: Hashable) -> None:
        """It wants something, and wanted nothing before."""
        if len(self._spent) >= _MOST_REMEMBERED:
            self._spent = {key: spent for key, spent in self._spent.items() if spent > self._now}
        self._spent[owner] = self.place(owner)

    def place(self, owner: Hashable) -> float:
        """The lower, the sooner."""
        return max(self._spent.get(owner, 0.0), self._now)

    def went(self, owner: Hashable) -> None:
        """It has its turn."""
        self._now = self.place(owner)

    def charge(self, owner: Hashable, cost: float) -> None:
        """What its turn has cost."""
        self._spent[owner] = self._spent.get(owner, self._now) + cost
