"""Which corrections are never learned from, so that what was learned can be judged on them. It must not know models."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from worker.learning.interfaces import Example

HOLD_OUT_FROM = 20
"""Corrected images from which a part is held out; with fewer, each is needed to learn from, and the gate judges by
cross-validation instead."""

_SHARE = 0.2


def split(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Part examples into those to learn from and those held out: nothing held out below HOLD_OUT_FROM, then one of
    five.

    The key alone decides, so an example never changes sides when others come in, whoever asks and whenever. Hence no
    example is moved to balance the labels; the gate sees to it that labels missing among the held out are judged all
    the same, by cross-validation (`worker.learning.gate.splits`).

    Returns:
        (learn, hold_out), each in the order given.
    """
    if len(examples) < HOLD_OUT_FROM:
        return list(examples), []
    return [e for e in examples if not is_held_out(e.key)], [e for e in examples if is_held_out(e.key)]


def is_held_out(key: str) -> bool:
    """Whether an example with this key is held out, once there are enough of them."""
    return hash_share(key) < _SHARE


def hash_share(key: str) -> float:
    """A number in [0, 1) that looks random and is the same for ever."""
    return int.from_bytes(hashlib.sha256(f"hold out {key}".encode()).digest()[:6]) / 2**48
