"""Raw acceptance scores -> how likely the annotators of a project accept a region as it is, from what they did so far.
And the chance that nothing is there, of predictions without regions, from how often that was right.

Platt's map (1999) in the log-odds of the raw score, slope and bias, fitted with a prior that holds it at the map
before: at first the identity, so that without a history nothing changes. Versions are fitted in the order they were
made, each from the map of the one before: what was learned about earlier masks is where those of a new version start.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from worker.segmentation.instances.acceptance import whole_score
from worker.segmentation.segmenter import Segmentation

log = logging.getLogger(__name__)

SLOPE_DEVIATION, BIAS_DEVIATION = 0.4, 1.0
"""Standard deviations of the prior around the map before. A region whose score is near 0.5 says as much about the bias
as a prior of deviation 2 would, so this prior is worth four of them: a handful of regions moves scores a little, fifty
decide. Wider ones follow the first regions too far, narrower ones leave too much of a wrong map after fifty."""

_LEAST_SLOPE = 0.05  # of the map: above 0, so that it never reverses the order of scores
_MOST_LOG_ODDS = 7.0  # of a raw score: beyond it (0.999) a single record would decide
_ROUNDS, _SMALL_STEP = 50, 1e-9  # of Newton's method


@dataclass(frozen=True)
class JudgedScore:
    """A predicted region, or a prediction without any, that an annotator has seen.

    Attributes:
        score: raw, in [0, 1].
        accepted: whether the region was left as it was, or nothing was added.
    """

    score: float
    accepted: bool


@dataclass(frozen=True)
class VersionHistory:
    """What annotators did with the predictions of one version.

    Attributes:
        regions: that were predicted.
        nothing: predictions without regions.
    """

    regions: Sequence[JudgedScore] = ()
    nothing: Sequence[JudgedScore] = ()


@dataclass(frozen=True)
class PlattMap:
    """A map of raw scores that keeps their order.

    Attributes:
        slope, bias: of the log-odds; 1 and 0 are the identity.
        records: how many judged scores it was fitted on, of all versions so far.
    """

    slope: float = 1.0
    bias: float = 0.0
    records: int = 0

    @property
    def is_identity(self) -> bool:
        """Whether it leaves all scores as they are."""
        return (self.slope, self.bias) == (1.0, 0.0)

    def probability(self, score: float) -> float:
        """The probability that a region of this raw score, in [0, 1], is accepted, or that nothing is there."""
        if self.is_identity:
            return score
        return float(1 / (1 + math.exp(-self.slope * _log_odds(score) - self.bias)))


@dataclass(frozen=True)
class Calibration(PlattMap):
    """How the raw scores of a version are mapped: the map itself is that of regions.

    Attributes:
        nothing: map of the chance that nothing is there, of predictions without regions.
    """

    nothing: PlattMap = PlattMap()

    def chance_of_nothing(self, score: float) -> float:
        """The probability that nothing is there, where nothing is predicted. A raw score of 0 stays: it is that of
        labels that the model cannot read.
        """
        return self.nothing.probability(score) if score else 0.0

    def applied(self, found: Segmentation) -> Segmentation:
        """What was found in an image, with probabilities as the scores of its segments and of all of them. Segments
        keep their raw scores beside these. Without segments it is the probability that nothing is there, where that is
        known.
        """
        if not found.segments:
            known = found.raw_nothing is not None and not self.nothing.is_identity
            return replace(found, score=self.chance_of_nothing(found.raw_nothing or 0.0)) if known else found
        if self.is_identity:
            return found
        segments = tuple(
            replace(segment, score=self.probability(segment.score), raw_score=segment.score)
            for segment in found.segments
        )
        return replace(found, segments=segments, score=whole_score([segment.score for segment in segments]))

    def to_json(self) -> dict[str, Any]:
        """The maps as a JSON object: that of regions, and within it `nothing`, which earlier releases pass over."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Any, *, subject: str) -> Calibration:
        """Read the maps; those that cannot be read are logged, naming their `subject`, and count as the identity, as
        does that of predictions without regions where an earlier release wrote none.
        """
        try:
            nothing = PlattMap(*_numbers(row["nothing"])) if "nothing" in row else PlattMap()
            return cls(*_numbers(row), nothing)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            log.warning("the calibration of %s cannot be read (%r): its scores stay as they are until the next "
                        "corrections are learned from", subject, error)  # fmt: skip
            return IDENTITY


IDENTITY = Calibration()


def fit_calibration(records: Sequence[JudgedScore], before: PlattMap = IDENTITY) -> Calibration:
    """Fit the map of regions to what annotators did; that of predictions without regions is the identity."""
    found = fit_map(records, before)
    return Calibration(found.slope, found.bias, found.records)


def fit_map(records: Sequence[JudgedScore], before: PlattMap = IDENTITY) -> PlattMap:
    """Fit a map to what annotators did.

    Args:
        records: of one version.
        before: the map without these records.

    Returns:
        the most probable map under the prior around `before`; `before` itself without records.
    """
    if not records:
        return before
    inputs = np.array([[_log_odds(record.score), 1.0] for record in records])
    accepted = np.array([record.accepted for record in records], dtype=np.float64)
    precision = np.array([SLOPE_DEVIATION, BIAS_DEVIATION]) ** -2.0
    centre = np.array([before.slope, before.bias])
    found = centre.copy()
    for _ in range(_ROUNDS):  # the loss is convex; halved steps keep it falling
        right = 1 / (1 + np.exp(-inputs @ found))
        gradient = inputs.T @ (right - accepted) + precision * (found - centre)
        curvature = (inputs * (right * (1 - right))[:, None]).T @ inputs + np.diag(precision)
        step = np.linalg.solve(curvature, gradient)
        share = 1.0
        now = _loss(found, inputs, accepted, centre, precision)
        while share > _SMALL_STEP and _loss(found - share * step, inputs, accepted, centre, precision) > now:
            share /= 2
        found = found - share * step
        if float(np.abs(share * step).max()) < _SMALL_STEP:
            break
    return PlattMap(max(_LEAST_SLOPE, float(found[0])), float(found[1]), before.records + len(records))


def fit_versions(history: Iterable[tuple[str, VersionHistory]]) -> dict[str, Calibration]:
    """Fit the maps of each version from its own records and the maps of the version before.

    Args:
        history: names of versions and what annotators did with their predictions, oldest first.
    """
    fitted: dict[str, Calibration] = {}
    before = IDENTITY
    for name, seen in history:
        regions, nothing = fit_map(seen.regions, before), fit_map(seen.nothing, before.nothing)
        fitted[name] = before = Calibration(regions.slope, regions.bias, regions.records, nothing)
    return fitted


def _numbers(row: Any) -> tuple[float, float, int]:
    """Slope, bias and records of a map as JSON.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: it is none.
    """
    slope, bias, records = float(row["slope"]), float(row["bias"]), int(row["records"])
    if not (math.isfinite(bias) and _LEAST_SLOPE <= slope < math.inf and records >= 0):
        raise ValueError(f"slope {slope}, bias {bias}, {records} records")
    return slope, bias, records


def _loss(
    weights: np.ndarray[Any, Any], inputs: np.ndarray[Any, Any], accepted: np.ndarray[Any, Any],
    centre: np.ndarray[Any, Any], precision: np.ndarray[Any, Any],
) -> float:  # fmt: skip
    """Negative log of likelihood times prior."""
    odds = inputs @ weights
    likelihood = np.logaddexp(0.0, odds) - accepted * odds
    return float(likelihood.sum() + (precision * (weights - centre) ** 2).sum() / 2)


def _log_odds(score: float) -> float:
    least = 1 / (1 + math.exp(_MOST_LOG_ODDS))
    inside = min(max(score, least), 1 - least)
    return math.log(inside / (1 - inside))
