"""Two predictions of the same images, compared: confusions, mean IoU, and a paired bootstrap of the difference.

Classes are the labels and, last, the background.
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
    """A candidate against a baseline, on the same U units (images, or quarters of images).

    Attributes:
        baseline: (U, C, C) confusions.
        candidate: (U, C, C) confusions.
    """

    baseline: Confusion
    candidate: Confusion

    @classmethod
    def of(cls, baseline: Sequence[Confusion], candidate: Sequence[Confusion]) -> Comparison:
        """Pair the confusions of each unit; units without evaluated pixels are left out."""
        kept = [k for k, unit in enumerate(baseline) if unit.sum()]
        return cls(np.stack([baseline[k] for k in kept]), np.stack([candidate[k] for k in kept]))

    @cached_property
    def ious(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """IoU of each class by the baseline and the candidate, all units pooled; NaN for classes not in the truth."""
        return class_ious(self.baseline.sum(axis=0)), class_ious(self.candidate.sum(axis=0))

    @property
    def mean_ious(self) -> tuple[float, float]:
        """Mean IoU of the baseline and the candidate, over the classes in the truth, background included."""
        baseline, candidate = self.ious
        return float(np.nanmean(baseline)), float(np.nanmean(candidate))

    @cached_property
    def resampled_gains(self) -> NDArray[np.float64]:
        """(RESAMPLES, C) gain of each class's IoU when units are resampled with replacement, the same for both sides
        (paired bootstrap, Efron and Tibshirani 1993); NaN where a resample does not have the class.
        """
        units = len(self.baseline)
        weights = np.random.default_rng(0).multinomial(units, np.full(units, 1 / units), size=RESAMPLES).astype(float)
        ious = []
        for confusions in (self.baseline, self.candidate):
            hits = weights @ np.diagonal(confusions, axis1=1, axis2=2)
            ious.append(iou_of_counts(hits, weights @ confusions.sum(axis=2), weights @ confusions.sum(axis=1)))
        return np.asarray(ious[1] - ious[0])

    def lower_bound(self, share: float) -> float:
        """Gain of mean IoU that all but `share` of the resamples reach, of those that have a label at all."""
        return float(np.quantile(self._mean_gains, share))

    @property
    def standard_error(self) -> float:
        """Of the gain of mean IoU: standard deviation over the same resamples."""
        return float(np.std(self._mean_gains))

    @cached_property
    def _mean_gains(self) -> NDArray[np.float64]:
        """Gain of mean IoU of each resample that has a label; of each, if none has."""
        with_label = ~np.isnan(self.resampled_gains[:, :-1]).all(axis=1)
        gains = self.resampled_gains[with_label] if with_label.any() else self.resampled_gains
        return np.asarray(np.nanmean(gains, axis=1))

    @property
    def class_standard_errors(self) -> NDArray[np.float64]:
        """(C,) standard error of the gain of each class's IoU: standard deviation over the resamples that have the
        class; NaN where none has.
        """
        has = ~np.isnan(self.resampled_gains)
        counts = has.sum(axis=0)
        gains = np.where(has, self.resampled_gains, 0.0)
        means = gains.sum(axis=0) / np.maximum(counts, 1)
        squares = np.where(has, (gains - means) ** 2, 0.0).sum(axis=0)
        return np.where(counts > 0, np.sqrt(squares / np.maximum(counts, 1)), np.nan)

    def harmed(self, *, drop: float, share: float) -> list[int]:
        """Classes whose IoU falls by more than `drop`, and falls at all in at least `share` of the resamples."""
        baseline, candidate = self.ious
        dropped = np.flatnonzero(np.nan_to_num(baseline - candidate) > drop)
        falls = {int(k): self.resampled_gains[:, k][~np.isnan(self.resampled_gains[:, k])] < 0 for k in dropped}
        return [label for label, fell in falls.items() if fell.size and fell.mean() >= share]
