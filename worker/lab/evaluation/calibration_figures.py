"""Are scores probabilities? Figures of predicted regions whose IoU with the truth is known, before and after a map.

Expected calibration error (ECE) after Guo et al. (ICML 2017), in bins of equal counts (Nguyen and O'Connor, EMNLP
2015): at most 15, each of twenty regions or more. Rank correlation after Spearman (1904).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr

from worker.lab.metrics import ACCEPTABLE_IOU
from worker.learning.acceptance import Calibration, JudgedScore, fit_calibration, fit_versions

_MOST_BINS, _FEWEST_OF_BIN = 15, 20

Map = Callable[[str, float], float]
"""(label, raw score) -> score"""


@dataclass(frozen=True)
class JudgedRegion:
    """A predicted region: its label, its raw score, and its IoU with the true region of its label that it fits best."""

    label: str
    score: float
    iou: float

    @property
    def accepted(self) -> bool:
        """Whether an annotator would leave it as it is."""
        return self.iou >= ACCEPTABLE_IOU


@dataclass(frozen=True)
class JudgedImage:
    """What was predicted for one image.

    Attributes:
        regions: predicted.
        missed: how many true regions no predicted one has an IoU of 0.5 with.
        score: of the whole prediction as it is served without a history.
    """

    regions: tuple[JudgedRegion, ...]
    missed: int
    score: float

    @property
    def accepted(self) -> bool:
        """Whether an annotator would leave all of it as it is, and add nothing."""
        return not self.missed and all(region.accepted for region in self.regions)


@dataclass(frozen=True)
class CalibrationRun:
    """One project: what annotators have seen, version by version, and what the last version predicts afterwards.

    Attributes:
        history: the images corrected of each version, oldest first; the last version may have none.
        held_out: predicted by the last version, seen by nobody.
    """

    history: Mapping[str, Sequence[JudgedImage]]
    held_out: Sequence[JudgedImage]


def summarise(runs: Sequence[CalibrationRun]) -> dict[str, Any]:
    """Figures of held-out predictions, those of several runs together, each run with the maps of its own history.

    Returns:
        `images` corrected and `regions` seen per run, the held-out predictions' counts; figures `before` any history
        and `after` it; `variants`: the ECE of other maps from the same history; `whole`: of ways to score a prediction
        with regions, after it; `empty`: of predictions without.
    """
    seen = [[region for images in run.history.values() for image in images for region in image.regions] for run in runs]
    found: dict[str, Any] = {
        "runs": len(runs),
        "images": _mean([sum(map(len, run.history.values())) for run in runs]),
        "regions": _mean([len(regions) for regions in seen]),
        "held_out_images": sum(len(run.held_out) for run in runs),
        "before": _figures(runs, [_identity] * len(runs)),
        "after": _figures(runs, [_served(run) for run in runs]),
    }
    others = {"one map of all versions": _pooled, "isotonic": _isotonic, "offset of each label": _per_label}
    found["variants"] = {
        name: _figures(runs, [make(regions) for regions in seen])["ece"] for name, make in others.items()
    }
    return found | {"whole": _whole(runs), "empty": _empty(runs)}


def equal_mass_bins(scores: Sequence[float], right: Sequence[bool]) -> list[dict[str, float]]:
    """Reliability diagram in bins of equal counts: count, mean score and share that was right of each."""
    order = np.argsort(scores, kind="stable")
    bins = max(1, min(_MOST_BINS, len(order) // _FEWEST_OF_BIN))
    values, outcomes = np.asarray(scores, dtype=float), np.asarray(right, dtype=float)
    return [
        {"count": len(part), "score": float(values[part].mean()), "right": float(outcomes[part].mean())}
        for part in np.array_split(order, bins)
        if len(part)
    ]


def expected_error(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """ECE of some scores; None without any."""
    rows = equal_mass_bins(scores, right)
    return sum(abs(row["score"] - row["right"]) * row["count"] for row in rows) / len(scores) if rows else None


def ranking(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """The chance that a right one has a higher score than a wrong one (AUC); None where all are alike."""
    values, outcomes = np.asarray(scores, dtype=float), np.asarray(right, dtype=bool)
    good, bad = values[outcomes], values[~outcomes]
    if not good.size or not bad.size:
        return None
    return float((good[:, None] > bad).mean() + (good[:, None] == bad).mean() / 2)


def _figures(runs: Sequence[CalibrationRun], maps: Sequence[Map]) -> dict[str, Any]:
    pairs = [(region, to(region.label, region.score)) for run, to in zip(runs, maps, strict=True)
             for image in run.held_out for region in image.regions]  # fmt: skip
    scores, right = [score for _, score in pairs], [region.accepted for region, _ in pairs]
    ious = [region.iou for region, _ in pairs]
    varied = len(set(scores)) > 1 and len(set(ious)) > 1
    return {
        "predictions": len(pairs),
        "ece": _rounded(expected_error(scores, right)),
        "spearman": _rounded(float(spearmanr(scores, ious).statistic)) if varied else None,
        "mean_score": _mean(scores),
        "accepted": _mean(right),
        "reliability": [
            {name: round(value, 4) for name, value in row.items()} for row in equal_mass_bins(scores, right)
        ],
    }


def _whole(runs: Sequence[CalibrationRun]) -> dict[str, Any]:
    """Ways to score a prediction with regions from their calibrated scores: AUC and ECE of "all of it is accepted"."""
    ways: Mapping[str, Callable[[NDArray[np.float64]], float]] = {
        "least": lambda s: float(s.min()), "mean": lambda s: float(s.mean()), "product": lambda s: float(s.prod()),
    }  # fmt: skip
    images = [(image, _served(run)) for run in runs for image in run.held_out if image.regions]
    right = [image.accepted for image, _ in images]
    found: dict[str, Any] = {}
    for name, way in ways.items():
        scores = [way(np.array([to(region.label, region.score) for region in image.regions])) for image, to in images]
        found[name] = {"auc": _rounded(ranking(scores, right)), "ece": _rounded(expected_error(scores, right))}
    return found


def _empty(runs: Sequence[CalibrationRun]) -> dict[str, Any]:
    images = [image for run in runs for image in run.held_out if not image.regions]
    scores, right = [image.score for image in images], [image.accepted for image in images]
    return {"images": len(images), "mean_score": _mean(scores), "right": _mean(right),
            "ece": _rounded(expected_error(scores, right))}  # fmt: skip


def _identity(label: str, score: float) -> float:
    return score


def _of(calibration: Calibration) -> Map:
    return lambda label, score: calibration.probability(score)


def _served(run: CalibrationRun) -> Map:
    """The map as the service fits it."""
    history = [(name, _judged([region for image in images for region in image.regions]))
               for name, images in run.history.items()]  # fmt: skip
    maps = list(fit_versions(history).values())
    return _of(maps[-1]) if maps else _identity


def _pooled(regions: Sequence[JudgedRegion]) -> Map:
    return _of(fit_calibration(_judged(regions)))


def _isotonic(regions: Sequence[JudgedRegion]) -> Map:
    if not regions:
        return _identity
    ordered = sorted(regions, key=lambda region: region.score)
    scores = np.array([region.score for region in ordered])
    fitted = isotonic_regression([float(region.accepted) for region in ordered]).x
    return lambda label, score: float(np.interp(score, scores, fitted))


def _per_label(regions: Sequence[JudgedRegion]) -> Map:
    """Of each label a map that starts from the one of all."""
    whole = fit_calibration(_judged(regions))
    labels = {region.label for region in regions}
    own = {label: fit_calibration(_judged([one for one in regions if one.label == label]), whole) for label in labels}
    return lambda label, score: own.get(label, whole).probability(score)


def _judged(regions: Sequence[JudgedRegion]) -> list[JudgedScore]:
    return [JudgedScore(region.score, region.accepted) for region in regions]


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
