"""Figures of merit of segments against true ones: PQ with SQ and RQ, AP at IoU 0.5, calibration of their scores.

PQ after Kirillov et al. (CVPR 2019), AP as COCO reckons it (101 recall points) at one IoU, ECE after Guo et al. (ICML
2017) in bins of equal width. It must not know where segments come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

ACCEPTABLE_IOU = 0.75
"""From which IoU with its true segment a region counts as one that an annotator would accept."""

_MATCH_IOU = 0.5
_BINS = 10


class Region(Protocol):
    """A predicted or a true segment: its class and its (H, W) bool mask."""

    @property
    def index(self) -> int: ...
    @property
    def mask(self) -> NDArray[np.bool_]: ...


@dataclass
class PanopticTally:
    """What is counted of one class over all pictures."""

    iou: float = 0.0
    hits: int = 0
    found: int = 0
    true: int = 0

    def figures(self) -> dict[str, float]:
        """pq = sq * rq, each in [0, 1]; 0 where the class was neither there nor found."""
        quality = self.iou / self.hits if self.hits else 0.0
        total = self.found + self.true
        recognition = 2 * self.hits / total if total else 0.0
        return {"pq": quality * recognition, "sq": quality, "rq": recognition}


@dataclass
class SegmentJudge:
    """Collects picture after picture; `classes` is how many there are, `things` which of them are countable."""

    classes: int
    things: frozenset[int]
    tallies: list[PanopticTally] = field(init=False)
    scores: list[list[tuple[float, bool]]] = field(init=False)
    accepted: list[tuple[float, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tallies = [PanopticTally() for _ in range(self.classes)]
        self.scores = [[] for _ in range(self.classes)]

    def hear(self, found: Sequence[Region], scores: Sequence[float], truth: Sequence[Region]) -> None:
        """Judge the segments of one picture; `scores` are theirs."""
        table = iou_table(found, truth)
        # No two segments of one side overlap, so a true one has at most one partner above 0.5.
        for row, (segment, score) in enumerate(zip(found, scores, strict=True)):
            best = float(table[row].max(initial=0.0))
            tally = self.tallies[segment.index]
            tally.found += 1
            tally.hits += best > _MATCH_IOU
            tally.iou += best if best > _MATCH_IOU else 0.0
            self.scores[segment.index].append((score, best > _MATCH_IOU))
            self.accepted.append((score, best >= ACCEPTABLE_IOU))
        for segment in truth:
            self.tallies[segment.index].true += 1

    def pooled_pq(self) -> float:
        """PQ of all things as if they were one class; 1 when there are none and none was found."""
        rows = [self.tallies[k] for k in self.things]
        whole = sum(row.found + row.true for row in rows)
        return 2 * sum(row.iou for row in rows) / whole if whole else 1.0

    def figures(self) -> dict[str, float]:
        """pq, sq and rq over the classes that occur, for things and for stuff; ap50 of things; ece of the scores."""
        there = [k for k, tally in enumerate(self.tallies) if tally.true]
        things = [k for k in there if k in self.things]
        parts = {"": there, "_things": things, "_stuff": [k for k in there if k not in self.things]}
        found: dict[str, float] = {}
        for name, classes in parts.items():
            rows = [self.tallies[k].figures() for k in classes]
            found |= {f"{key}{name}": _mean([row[key] for row in rows]) for key in ("pq", "sq", "rq")}
        found["ap50"] = _mean([average_precision(self.scores[k], self.tallies[k].true) for k in things])
        found["ece"] = calibration_error(self.accepted)
        found["accepted"] = _mean([float(hit) for _, hit in self.accepted])
        found["mean_score"] = _mean([score for score, _ in self.accepted])
        return found


def iou_table(found: Sequence[Region], truth: Sequence[Region]) -> NDArray[np.float64]:
    """(found, truth) IoU of every pair of the same class; 0 for the others."""
    table = np.zeros((len(found), len(truth)))
    areas = [int(segment.mask.sum()) for segment in truth]
    for row, mine in enumerate(found):
        area = int(mine.mask.sum())
        for column, theirs in enumerate(truth):
            if mine.index == theirs.index:
                both = int(np.count_nonzero(mine.mask & theirs.mask))
                table[row, column] = both / max(1, area + areas[column] - both)
    return table


def average_precision(scored: Sequence[tuple[float, bool]], true: int) -> float:
    """Area under the precision envelope at 101 recalls; `scored` are (score, hit) of all found, `true` how many are."""
    if not scored or not true:
        return 0.0
    ranked = sorted(scored, key=lambda pair: -pair[0])
    hits = np.cumsum([hit for _, hit in ranked])
    precision = hits / np.arange(1, len(ranked) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(hits / true, np.linspace(0, 1, 101) - 1e-9)
    return float(np.where(place < len(ranked), envelope[np.minimum(place, len(ranked) - 1)], 0.0).mean())


def reliability(scored: Sequence[tuple[float, bool]]) -> list[dict[str, float]]:
    """For each tenth of the scale that occurs: how many scores, their mean, and the share of them that was right."""
    scores, right = np.array([score for score, _ in scored]), np.array([hit for _, hit in scored], dtype=float)
    bins = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    here = [bins == k for k in np.unique(bins)]
    return [
        {"count": int(one.sum()), "score": float(scores[one].mean()), "right": float(right[one].mean())} for one in here
    ]


def calibration_error(scored: Sequence[tuple[float, bool]]) -> float:
    """ECE: mean distance of score and share that was right, bins weighted by how many scores they hold."""
    if not scored:
        return 0.0
    return sum(abs(row["score"] - row["right"]) * row["count"] for row in reliability(scored)) / len(scored)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
