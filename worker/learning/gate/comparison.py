"""Two predictions of the same pixels, compared in pairs: confusions, mean IoU, and how sure the difference is.

It must not know models or images. Classes are the labels and, last, the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from worker.segmentation.metrics import Confusion, class_ious, iou_of_counts

RESAMPLES = 1000


@dataclass(frozen=True)
class Comparison:
    """A candidate and what it would replace, judged on the same units (photographs, or quarters of them).

    Attributes:
        before: (U, C, C) confusions of what is there.
        after: (U, C, C) confusions of the candidate.
    """

    before: Confusion
    after: Confusion

    @classmethod
    def of(cls, before: Sequence[Confusion], after: Sequence[Confusion]) -> Comparison:
        """Pair the confusions of each unit; units that show nothing are left out."""
        told = [k for k, unit in enumerate(before) if unit.sum()]
        return cls(np.stack([before[k] for k in told]), np.stack([after[k] for k in told]))

    @cached_property
    def ious(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """IoU of each class before and after, all units pooled; NaN for classes the truth does not show."""
        return class_ious(self.before.sum(axis=0)), class_ious(self.after.sum(axis=0))

    @property
    def means(self) -> tuple[float, float]:
        """Mean IoU before and after, over the classes that the truth shows, background included."""
        before, after = self.ious
        return float(np.nanmean(before)), float(np.nanmean(after))

    @cached_property
    def resampled(self) -> NDArray[np.float64]:
        """(RESAMPLES, C) gain of each class's IoU when units are drawn anew with replacement, the same for both (paired
        bootstrap, Efron and Tibshirani 1993); NaN where a resample does not show the class.
        """
        units = len(self.before)
        weights = np.random.default_rng(0).multinomial(units, np.full(units, 1 / units), size=RESAMPLES).astype(float)
        gains = []
        for confusions in (self.before, self.after):
            hits = weights @ np.diagonal(confusions, axis1=1, axis2=2)
            gains.append(iou_of_counts(hits, weights @ confusions.sum(axis=2), weights @ confusions.sum(axis=1)))
        return np.asarray(gains[1] - gains[0])

    def worst_gain(self, share: float) -> float:
        """Gain of mean IoU that all but `share` of the resamples reach, of those that show a label at all."""
        telling = ~np.isnan(self.resampled[:, :-1]).all(axis=1)
        gains = self.resampled[telling] if telling.any() else self.resampled
        return float(np.quantile(np.nanmean(gains, axis=1), share))

    def harmed(self, *, drop: float, share: float) -> list[int]:
        """Classes whose IoU falls by more than `drop`, and falls at all in at least `share` of the resamples."""
        before, after = self.ious
        candidates = np.flatnonzero(np.nan_to_num(before - after) > drop)
        falls = {int(k): self.resampled[:, k][~np.isnan(self.resampled[:, k])] < 0 for k in candidates}
        return [label for label, fell in falls.items() if fell.size and fell.mean() >= share]
