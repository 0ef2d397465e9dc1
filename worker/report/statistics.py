"""Estimates with 95 % intervals: shares of regions, medians and means of times. Small samples get wide ones or none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 6
"""Values from which a median or a mean gets an interval: the smallest and the largest of 5 enclose the median of what
they were drawn from in 94 % of all cases only."""

_Z = 1.959964  # 97.5 % of a normal distribution lies below
_RESAMPLES, _RESAMPLES_OF_MEAN = 10_000, 1_000
_MOST_RESAMPLED = 5_000  # values; the two intervals of more differ in the third digit at most
_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        value: None where there is nothing to take it from.
        low, high: ends of the interval; None where there are too few values for one.
        n: of values, for shares of regions.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


NOTHING = Estimate(None, None, None, 0)


def estimate_share(counts: Iterable[tuple[int, int]]) -> Estimate:
    """Estimate a share of regions that come in images: the regions of one image are alike, and count for less.

    Wilson's interval (1927) for as many independent regions as the variance between images leaves: Kish's design
    effect, as in Korn and Graubard (1998). Where all or no regions count, each image counts as one.

    Args:
        counts: of each image, how many regions count and how many there are.
    """
    rows = [(k, n) for k, n in counts if n]
    total = sum(n for _, n in rows)
    if not total:
        return NOTHING
    share = sum(k for k, _ in rows) / total
    effect = total / len(rows)
    if len(rows) > 1 and 0 < share < 1:
        between = len(rows) / (len(rows) - 1) * sum((k - share * n) ** 2 for k, n in rows) / total**2
        effect = max(1.0, between * (total - 1) / (share * (1 - share)))
    low, high = _wilson(share, max(1.0, total / effect))
    return Estimate(share, low, high, total)


def estimate_median(values: Sequence[float]) -> Estimate:
    """Estimate a median, with the percentile bootstrap's interval (Efron, 1979)."""
    if not len(values):
        return NOTHING
    middle = float(np.median(values))
    if len(values) < FEWEST:
        return Estimate(middle, None, None, len(values))
    low, high = np.percentile(_resampled_medians(values, np.random.default_rng(_SEED)), (2.5, 97.5))
    return Estimate(middle, float(low), float(high), len(values))


def estimate_difference(ones: Sequence[float], others: Sequence[float]) -> Estimate:
    """Estimate the median of `ones` less the median of `others`, of two groups that have nothing to do with each other;
    n is of both.
    """
    n = len(ones) + len(others)
    if not len(ones) or not len(others):
        return Estimate(None, None, None, n)
    difference = float(np.median(ones) - np.median(others))
    if min(len(ones), len(others)) < FEWEST:
        return Estimate(difference, None, None, n)
    rng = np.random.default_rng(_SEED)
    drawn = _resampled_medians(ones, rng) - _resampled_medians(others, rng)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(difference, float(low), float(high), n)


def estimate_mean(values: Sequence[float]) -> Estimate:
    """Estimate a mean, with the percentile bootstrap's interval; of very many values, with the normal one."""
    if not len(values):
        return NOTHING
    given = np.asarray(values, dtype=np.float64)
    if len(given) < FEWEST:
        return Estimate(float(given.mean()), None, None, len(given))
    if len(given) > _MOST_RESAMPLED:
        half = _Z * float(given.std(ddof=1)) / math.sqrt(len(given))
        return Estimate(float(given.mean()), float(given.mean()) - half, float(given.mean()) + half, len(given))
    rng = np.random.default_rng(_SEED)
    drawn = [given[rng.integers(len(given), size=len(given))].mean() for _ in range(_RESAMPLES_OF_MEAN)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(float(given.mean()), float(low), float(high), len(given))


def _wilson(share: float, n: float) -> tuple[float, float]:
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _resampled_medians(values: Sequence[float], rng: np.random.Generator) -> NDArray[np.float64]:
    """Medians of samples drawn with replacement, without drawing them: the rank of the middle one of n draws is that of
    the middle one of n uniform numbers, which has a beta distribution.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    middle = (n + 1) // 2
    rank = rng.beta(middle, n - middle + 1, size=_RESAMPLES)
    lower = ordered[np.minimum((rank * n).astype(int), n - 1)]
    if n % 2:
        return np.asarray(lower)
    after = rank + (1 - rank) * rng.beta(1, n - middle, size=_RESAMPLES)
    return np.asarray((lower + ordered[np.minimum((after * n).astype(int), n - 1)]) / 2)
