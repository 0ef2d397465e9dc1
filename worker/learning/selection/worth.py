"""What correcting an image is worth by what is predicted there: uncertainty times rarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

from worker.learning.selection.candidates import Candidate

UNCERTAIN, NOT_PREDICTED = "uncertain", "not predicted yet"
"""Reasons; with a rare label there is its name too."""

_UNKNOWN_MARGIN = 0.5  # where no candidate has one


@dataclass(frozen=True)
class Rarities:
    """How rare each label is among what annotators kept or drew: 1 / sqrt(1 + regions of it).

    Attributes:
        of_label: label key -> rarity in (0, 1].
    """

    of_label: Mapping[str, float]

    @classmethod
    def of(cls, corrected_counts: Mapping[str, int], candidates: Sequence[Candidate]) -> Rarities:
        """Rarities of the labels that are counted, and of those that are predicted and not counted, which are 1."""
        predicted = dict.fromkeys((label for one in candidates for label in one.labels), 0)
        counts = {**predicted, **corrected_counts}
        return cls({label: 1 / sqrt(1 + max(0, count)) for label, count in counts.items()})

    @property
    def least(self) -> float:
        """Rarity of the commonest label; 1 without labels."""
        return min(self.of_label.values(), default=1.0)

    def of_image(self, labels: Mapping[str, float]) -> tuple[float, str]:
        """Rarity of an image: that of the label predicted there for which score times rarity is highest, that product,
        but at least that of the commonest label, which an image without any counts for.

        Returns:
            the rarity in (0, 1], and the label; "" = it counts for the commonest.
        """
        found = [(min(1.0, score) * self.of_label[label], label) for label, score in labels.items() if isfinite(score)]
        rarity, label = max(found, default=(0.0, ""), key=lambda one: one[0])
        return (rarity, label) if rarity > self.least else (self.least, "")


@dataclass(frozen=True)
class Worth:
    """What correcting each of n candidates is worth.

    Attributes:
        values: (n,) float64, uncertainty times rarity, in [0, 1].
        reasons: of each, for a person.
    """

    values: NDArray[np.float64]
    reasons: Sequence[str]


def worth_of(candidates: Sequence[Candidate], corrected_counts: Mapping[str, int]) -> Worth:
    """Uncertainty (1 - margin) times rarity. A margin that is not known counts as the median of the others."""
    margins = np.clip(np.array([one.margin for one in candidates], dtype=np.float64), 0, 1)
    known = np.isfinite(margins)
    margins[~known] = np.median(margins[known]) if known.any() else _UNKNOWN_MARGIN
    rarities = Rarities.of(corrected_counts, candidates)
    found = [rarities.of_image(one.labels) for one in candidates]
    reasons = [
        NOT_PREDICTED if not is_known else f"rare label {label!r}, {UNCERTAIN}" if label else UNCERTAIN
        for (_, label), is_known in zip(found, known, strict=True)
    ]
    return Worth((1 - margins) * np.array([rarity for rarity, _ in found]), reasons)
