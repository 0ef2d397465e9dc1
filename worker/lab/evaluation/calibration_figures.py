"""Are scores probabilities? Figures of predicted regions whose IoU with the truth is known, before and after a map.

Expected calibration error (ECE) after Guo et al. (ICML 2017), in bins of equal counts (Nguyen and O'Connor, EMNLP
2015): at most 15, each of twenty regions or more. Rank correlation after Spearman (1904).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr

from worker.lab.metrics import ACCEPTABLE_IOU
from worker.learning.acceptance import (
    IDENTITY,
    Calibration,
    JudgedScore,
    VersionHistory,
    fit_calibration,
    fit_versions,
)

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
        with regions, after it; `empty`: as `empty_figures`.
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
    return found | {"whole": _whole(runs), "empty": empty_figures(runs)}


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


def empty_figures(runs: Sequence[CalibrationRun]) -> dict[str, Any]:
    """Figures of held-out predictions without regions, each run with the map of its own history.

    Returns:
        `images` held out, the share of them that was `right`, `mean_score` and `ece` before any history, the same
        `after` it, and `seen`, the predictions without regions in the history of a run.
    """
    pairs = [(image, _maps(run)) for run in runs for image in run.held_out if not image.regions]
    right = [image.accepted for image, _ in pairs]
    before = [image.score for image, _ in pairs]
    after = [maps.chance_of_nothing(image.score) for image, maps in pairs]
    seen = [len(_judged_empty([*chain(*run.history.values())])) for run in runs]
    return {
        "images": len(pairs), "right": _mean(right), "seen": _mean(seen), "mean_score": _mean(before),
        "ece": _rounded(expected_error(before, right)),
        "after": {"mean_score": _mean(after), "ece": _rounded(expected_error(after, right))},
    }  # fmt: skip


def _identity(label: str, score: float) -> float:
    return score


def _of(calibration: Calibration) -> Map:
    return lambda label, score: calibration.probability(score)


def _served(run: CalibrationRun) -> Map:
    """The map of regions as the service fits it."""
    return _of(_maps(run))


def _maps(run: CalibrationRun) -> Calibration:
    """The maps of the last version as the service fits them."""
    history = [
        (name, VersionHistory(_judged([region for image in images for region in image.regions]), _judged_empty(images)))
        for name, images in run.history.items()
    ]
    maps = list(fit_versions(history).values())
    return maps[-1] if maps else IDENTITY


def _judged_empty(images: Sequence[JudgedImage]) -> list[JudgedScore]:
    """Predictions without regions, of labels that the model can read: others have a score of 0."""
    return [JudgedScore(image.score, image.accepted) for image in images if not image.regions and image.score]


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
