"""Which examples are held out from training, so that what was learned can be evaluated on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from worker.learning.interfaces import Example

HOLD_OUT_FROM = 20
"""Number of corrected images from which a part is held out; with fewer, all are needed for training, and the gate
evaluates by cross-validation instead."""

_SHARE = 0.2


def split(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Split examples into training and held-out ones: none held out below HOLD_OUT_FROM, then one in five.

    The hash of the key alone decides, so an example never changes sides when others are added or removed. Hence no
    example is moved to balance the labels; labels missing among the held-out examples are evaluated by
    cross-validation instead (`worker.learning.gate.splits`).

    Returns:
        (train, hold_out), each in the order given.
    """
    if len(examples) < HOLD_OUT_FROM:
        return list(examples), []
    return [e for e in examples if not is_held_out(e.key)], [e for e in examples if is_held_out(e.key)]


def is_held_out(key: str) -> bool:
    """Whether an example with this key is held out, once there are enough of them."""
    return hash_share(key) < _SHARE


def hash_share(key: str) -> float:
    """Hash a key to a pseudo-random number in [0, 1) that never changes."""
    return int.from_bytes(hashlib.sha256(f"hold out {key}".encode()).digest()[:6]) / 2**48
