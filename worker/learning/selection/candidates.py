"""Images nobody has corrected yet, and the choice of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""(D,) of unit length: what an image looks like; see `worker.learning.selection.vectors.image_vector`."""


@dataclass(frozen=True)
class Candidate:
    """An image nobody has corrected yet.

    Attributes:
        key: of its task, as `worker.learning.interfaces.Example` has it; no two candidates share one.
        vector: what it looks like; None, or one that is not finite, zero or of another length than the others' = not
            known.
        margin: how sure the model is of what it predicts there, from 0 = undecided to 1 = certain; NaN = not known.
        labels: label key -> the highest score in [0, 1] of a region predicted with it. A label that is missing, or
            whose score is NaN, is not predicted there.
    """

    key: str
    vector: Vector | None = None
    margin: float = float("nan")
    labels: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """An image to correct.

    Attributes:
        key: of the candidate.
        reason: why it is next, for a person: a few words without a full stop.
        rank: its place, from 0.
    """

    key: str
    reason: str
    rank: int
