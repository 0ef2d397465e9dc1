"""Metrics that only the laboratory needs: boundary F of class maps; PQ, AP and calibration of segments.

Panoptic quality after Kirillov et al. (CVPR 2019) with its factors SQ and RQ; average precision as COCO computes it
(101 recall points), at IoU 0.5 and as the mean over 0.5 to 0.95; expected calibration error after Guo et al. (ICML
2017) in ten bins of equal width. IoU itself is in `worker.segmentation.metrics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.segmentation.metrics import VOID, mask_iou

ACCEPTABLE_IOU = 0.75
"""A segment with at least this IoU counts as one that an annotator would accept as it is."""

_MATCH_IOU = 0.5
_AP_IOUS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
_BINS = 10


def boundary_f(predicted: NDArray[np.int64], truth: NDArray[np.int64], count: int, *, radius: int) -> float:
    """Boundary F: share of class-border pixels that have a border pixel of the same class within a disc.

    Precision and recall are pooled over the classes. Of two classes only the second is judged, because both have the
    same border. Borders next to void pixels are left out.

    Args:
        predicted: (H, W) class of each pixel.
        truth: (H, W) class of each pixel; VOID is not judged.
        count: how many classes there are.
        radius: of the disc, pixels.

    Returns:
        F in [0, 1].
    """
    classes = range(1 if count == 2 else 0, count)
    return masks_boundary_f(((predicted == c, truth == c) for c in classes), truth == VOID, radius=radius)


def masks_boundary_f(
    pairs: Iterable[tuple[NDArray[np.bool_], NDArray[np.bool_]]], void: NDArray[np.bool_], *, radius: int
) -> float:
    """The same of predicted and true masks, which may overlap.

    Args:
        pairs: (H, W) predicted and true mask of each class.
        void: (H, W), pixels that are not judged.
        radius: of the disc, pixels.
    """
    unknown = void.astype(np.uint8)
    near, far = cv2.dilate(unknown, _disc(3)) > 0, cv2.dilate(unknown, _disc(6)) > 0
    matched = np.zeros(2)
    total = np.zeros(2)
    for predicted, truth in pairs:
        real, drawn = _border(truth) & ~near, _border(predicted)
        judged = drawn & ~far
        matched += [(judged & _within(real, radius)).sum(), (real & _within(drawn, radius)).sum()]
        total += [judged.sum(), real.sum()]
    precision, recall = matched / np.maximum(total, 1)
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return np.asarray(mask & (inner == 0))


def _within(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), _disc(radius)) > 0)


def _disc(radius: int) -> NDArray[np.uint8]:
    offsets = np.arange(-radius, radius + 1)
    return np.asarray(np.hypot(offsets[:, None], offsets) <= radius + 0.01, dtype=np.uint8)


class PanopticSegment(Protocol):
    """A predicted or a true segment: its class and its (H, W) bool mask."""

    @property
    def index(self) -> int: ...
    @property
    def mask(self) -> NDArray[np.bool_]: ...


@dataclass
class ClassCounts:
    """Counts of one class over all images: segments matched, predicted, true, and the sum of IoUs of the matched."""

    iou: float = 0.0
    matched: int = 0
    predicted: int = 0
    true: int = 0

    def figures(self) -> dict[str, float]:
        """pq = sq * rq, each in [0, 1]; 0 where the class was neither there nor predicted."""
        quality = self.iou / self.matched if self.matched else 0.0
        total = self.predicted + self.true
        recognition = 2 * self.matched / total if total else 0.0
        return {"pq": quality * recognition, "sq": quality, "rq": recognition}


@dataclass
class PanopticEvaluator:
    """Accumulates PQ, AP and calibration image after image.

    Attributes:
        classes: how many classes there are.
        things: indices of those that are countable; the others are stuff.
        counts: of each class.
        scores: of each class, (score, best IoU) of every predicted segment.
        accepted: (score, whether its IoU is ACCEPTABLE_IOU or more) of every predicted segment.
    """

    classes: int
    things: frozenset[int]
    counts: list[ClassCounts] = field(init=False)
    scores: list[list[tuple[float, float]]] = field(init=False)
    accepted: list[tuple[float, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [ClassCounts() for _ in range(self.classes)]
        self.scores = [[] for _ in range(self.classes)]

    def add(
        self, predicted: Sequence[PanopticSegment], scores: Sequence[float], truth: Sequence[PanopticSegment]
    ) -> None:
        """Count the segments of one image; `scores` are those of the predicted ones, in [0, 1]."""
        table = iou_table(predicted, truth)
        # Segments of one side do not overlap, so a true one has at most one partner above 0.5.
        for row, (segment, score) in enumerate(zip(predicted, scores, strict=True)):
            best = float(table[row].max(initial=0.0))
            of_class = self.counts[segment.index]
            of_class.predicted += 1
            of_class.matched += best > _MATCH_IOU
            of_class.iou += best if best > _MATCH_IOU else 0.0
            self.scores[segment.index].append((score, best))
            self.accepted.append((score, best >= ACCEPTABLE_IOU))
        for segment in truth:
            self.counts[segment.index].true += 1

    def pooled_pq(self) -> float:
        """PQ of all things as if they were one class; 1 when there are none and none was predicted."""
        rows = [self.counts[k] for k in self.things]
        total = sum(row.predicted + row.true for row in rows)
        return 2 * sum(row.iou for row in rows) / total if total else 1.0

    def class_precisions(self, index: int) -> dict[str, float]:
        """ap50 of one class, and ap: the mean over IoUs of 0.5 to 0.95."""
        true = self.counts[index].true
        by_iou = [
            average_precision([(score, best > least) for score, best in self.scores[index]], true)
            for least in _AP_IOUS
        ]
        return {"ap50": by_iou[0], "ap": _mean(by_iou)}

    def figures(self) -> dict[str, float]:
        """pq, sq and rq over the classes that occur, for things and for stuff; ap50 and ap of things; ece of the
        scores."""
        present = [k for k, of_class in enumerate(self.counts) if of_class.true]
        things = [k for k in present if k in self.things]
        parts = {"": present, "_things": things, "_stuff": [k for k in present if k not in self.things]}
        figures: dict[str, float] = {}
        for name, classes in parts.items():
            rows = [self.counts[k].figures() for k in classes]
            figures |= {f"{key}{name}": _mean([row[key] for row in rows]) for key in ("pq", "sq", "rq")}
        precisions = [self.class_precisions(k) for k in things]
        figures |= {key: _mean([row[key] for row in precisions]) for key in ("ap50", "ap")}
        figures["ece"] = calibration_error(self.accepted)
        figures["accepted"] = _mean([float(accepted) for _, accepted in self.accepted])
        figures["mean_score"] = _mean([score for score, _ in self.accepted])
        return figures


def iou_table(predicted: Sequence[PanopticSegment], truth: Sequence[PanopticSegment]) -> NDArray[np.float64]:
    """(predicted, truth) IoU of every pair of segments of the same class; 0 for the others."""
    return np.array(
        [[mask_iou(one.mask, other.mask) if one.index == other.index else 0.0 for other in truth] for one in predicted],
        dtype=np.float64,
    ).reshape(len(predicted), len(truth))


def average_precision(scored: Sequence[tuple[float, bool]], true: int) -> float:
    """Area under the precision envelope at 101 recalls.

    Args:
        scored: (score, whether it matched) of every predicted segment.
        true: how many true segments there are.
    """
    if not scored or not true:
        return 0.0
    ranked = sorted(scored, key=lambda pair: -pair[0])
    matched = np.cumsum([match for _, match in ranked])
    precision = matched / np.arange(1, len(ranked) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(matched / true, np.linspace(0, 1, 101) - 1e-9)
    return float(np.where(place < len(ranked), envelope[np.minimum(place, len(ranked) - 1)], 0.0).mean())


def reliability(scored: Sequence[tuple[float, bool]]) -> list[dict[str, float]]:
    """Reliability diagram: for each tenth of the scale that occurs its count, mean score, and share that was right."""
    scores, right = np.array([score for score, _ in scored]), np.array([match for _, match in scored], dtype=float)
    bins = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    members = [bins == k for k in np.unique(bins)]
    return [
        {"count": int(one.sum()), "score": float(scores[one].mean()), "right": float(right[one].mean())}
        for one in members
    ]


def calibration_error(scored: Sequence[tuple[float, bool]]) -> float:
    """ECE: mean distance of score and share that was right, bins weighted by how many scores they hold."""
    if not scored:
        return 0.0
    return sum(abs(row["score"] - row["right"]) * row["count"] for row in reliability(scored)) / len(scored)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
