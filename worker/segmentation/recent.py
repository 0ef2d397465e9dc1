"""What was used last, up to a number of bytes. It must not know what is kept."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """Holds values by key; those used longest ago leave when there is no more room. For one thread.

    Args:
        most_bytes: of all that is kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, tuple[V, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> V | None:
        """The value, which is used last from now on; None = it is not here (any more)."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def keep(self, key: str, value: V, size: int) -> None:
        """Keep a value of so many bytes; one that is larger than all the room leaves at once."""
        self._kept[key] = (value, size)
        self._bytes += size
        while self._bytes > self._most_bytes:
            self._bytes -= self._kept.popitem(last=False)[1][1]
