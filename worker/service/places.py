"""Places in the order of annotation, as scores of predictions: Label Studio hands out the lowest score first.

The head of the order has scores below HEAD_BELOW, of which no other prediction has any. Each change of a score is a
request, so those that are in the right order already stay.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise

from plugin_config.queue.order import HEAD_BELOW

_STEP = 1e-6
_LEAST_GAP = 1e-12  # far above the precision of a double here


def place_scores(order: Sequence[int], shown: Mapping[int, float]) -> dict[int, float]:
    """Give tasks increasing scores in (0, HEAD_BELOW), with as few changes as possible.

    Args:
        order: ids of the tasks, the next one first, at most 500.
        shown: the score that each one's prediction has now.

    Returns:
        the score of each task.
    """
    kept = _increasing([shown[task] for task in order])
    scores: list[float] = []
    start = 0
    for number in (*kept, len(order)):
        low = scores[-1] if scores else 0.0
        high = shown[order[number]] if number < len(order) else None
        scores += _between(low, high, number - start)
        if high is not None:
            scores.append(high)
        start = number + 1
    bounds = [0.0, *scores, HEAD_BELOW]
    if any(after - before < _LEAST_GAP for before, after in pairwise(bounds)):
        scores = [_STEP * (number + 1) for number in range(len(order))]
    return dict(zip(order, scores, strict=True))


def _increasing(scores: Sequence[float]) -> list[int]:
    """Places of a longest strictly increasing run among the scores that are places already."""
    tails: list[float] = []
    ends: list[int] = []
    before: list[int | None] = []
    for number, score in enumerate(scores):
        if not 0 < score < HEAD_BELOW:
            before.append(None)
            continue
        length = bisect_left(tails, score)
        before.append(ends[length - 1] if length else None)
        tails[length:length + 1], ends[length:length + 1] = [score], [number]
    found: list[int] = []
    last = ends[-1] if ends else None
    while last is not None:
        found.append(last)
        last = before[last]
    return found[::-1]


def _between(low: float, high: float | None, count: int) -> list[float]:
    """So many scores above `low`: below `high`, or behind all others where that is None and there is room."""
    if high is None and low + _STEP * (count + 1) < HEAD_BELOW:
        return [low + _STEP * (number + 1) for number in range(count)]
    gap = ((HEAD_BELOW if high is None else high) - low) / (count + 1)
    return [low + gap * (number + 1) for number in range(count)]
