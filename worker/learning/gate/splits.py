"""Which corrections judge what was learned from which: the held-out ones, and folds within and between photographs.

It must not know models. Whatever a trial judges, what is learned for it has never seen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worker.learning.corrections.hold_out import hash_share
from worker.learning.corrections.truth import Truth
from worker.learning.interfaces import UNLABELLED, Example
from worker.segmentation.metrics import VOID

FEWEST_HELD_OUT = 3
"""Held-out photographs from which these judge alone; below, cross-validation joins in."""

MOST_JUDGED = 40
"""Held-out photographs, and photographs cross-validated, at most: those first by hash."""

_FOLDS = 3


@dataclass(frozen=True)
class Trial:
    """One photograph to be judged on.

    Attributes:
        example: the photograph; what must not be judged in it is VOID.
        lesson: number of the examples to learn from, in `Trials.lessons`; None = all that may be learned from: it is
            held out.
    """

    example: Example
    lesson: int | None


@dataclass(frozen=True)
class Trials:
    """What is judged, and what must be learned for it: each lesson is one fit."""

    trials: tuple[Trial, ...]
    lessons: tuple[tuple[Example, ...], ...]


def held_out_trials(hold_out: Sequence[Example], seen: Collection[str] = ()) -> list[Trial]:
    """Held-out photographs that what is served has not learned from either."""
    return [Trial(example, None) for example in _first(e for e in hold_out if e.key not in seen)]


def plan_trials(learn: Sequence[Example], hold_out: Sequence[Example], seen: Collection[str] = ()) -> Trials:
    """Plan how to judge what is learned from `learn`.

    The held-out photographs judge. When they are fewer than FEWEST_HELD_OUT, all others are cross-validated too; when
    they do not show some label, the photographs that do are. In cross-validation

    - *between* photographs, in up to 3 groups, each is judged by what was learned from the other groups. Pixels of
      labels that only its own group shows are VOID: nobody taught them.
    - *within* photographs, where only one photograph shows a label: it is cut in two, and either half is judged by what
      was learned from the other half and from all other photographs.

    Args:
        learn: examples to learn from, all with the same words.
        hold_out: examples never to learn from.
        seen: keys of what the served adapter learned from; such a held-out photograph cannot judge fairly.
    """
    judges = held_out_trials(hold_out, seen)
    covered = {label for trial in judges for label in shown_labels(trial.example.truth)}
    tested = list(learn)
    if len(judges) >= FEWEST_HELD_OUT:
        tested = [example for example in learn if shown_labels(example.truth) - covered]
    tested = _first(tested)
    between, lessons = _between(learn, tested)
    within, more = _within(learn, tested, first=len(lessons))
    return Trials((*judges, *between, *within), (*lessons, *more))


def shown_labels(truth: Truth) -> set[int]:
    """Labels that are drawn somewhere in a truth."""
    return {int(label) for label in np.unique(truth) if label >= 0}


def _first(examples: Iterable[Example]) -> list[Example]:
    return sorted(examples, key=lambda example: hash_share(example.key))[:MOST_JUDGED]


def _between(learn: Sequence[Example], tested: Sequence[Example]) -> tuple[list[Trial], list[tuple[Example, ...]]]:
    groups = [tested[start::_FOLDS] for start in range(min(_FOLDS, len(tested)))]
    trials: list[Trial] = []
    lessons: list[tuple[Example, ...]] = []
    for group in groups:
        keys = {example.key for example in group}
        lesson = tuple(example for example in learn if example.key not in keys)
        taught = {label for example in lesson for label in shown_labels(example.truth)}
        if not taught:
            continue
        for example in group:
            truth = np.where(np.isin(example.truth, [*taught, UNLABELLED]), example.truth, VOID).astype(np.int16)
            if shown_labels(truth) or not shown_labels(example.truth):
                trials.append(Trial(replace(example, truth=truth), len(lessons)))
        lessons.append(lesson)
    return trials, lessons


def _within(
    learn: Sequence[Example], tested: Sequence[Example], *, first: int
) -> tuple[list[Trial], list[tuple[Example, ...]]]:
    shown = {example.key: shown_labels(example.truth) for example in learn}
    lonely = {label for labels in shown.values() for label in labels if sum(label in s for s in shown.values()) == 1}
    cuts = {example.key: halve(example.truth) for example in tested if shown[example.key] & lonely}
    if not cuts:
        return [], []
    trials: list[Trial] = []
    lessons: list[tuple[Example, ...]] = []
    for judged in (False, True):
        rest = [_without(e, cuts[e.key] == judged) if e.key in cuts else e for e in learn]
        taught = {label for example in rest for label in shown_labels(example.truth)}
        for example in tested:
            if example.key in cuts:
                fair = (cuts[example.key] == judged) & np.isin(example.truth, [*taught, UNLABELLED])
                if shown_labels(example.truth[fair]):
                    trials.append(Trial(_without(example, ~fair), first + len(lessons)))
        lessons.append(tuple(rest))
    return trials, lessons


def halve(truth: Truth) -> NDArray[np.bool_]:
    """Cut a photograph in two, (H, W) bool: left and right, top and bottom, or either pair of opposite quarters, all
    about the middle of what is labelled; whichever leaves most labels on both sides, most evenly.
    """
    rows, columns = np.nonzero(truth >= 0)
    middle = (np.median(rows), np.median(columns)) if rows.size else (truth.shape[0] / 2, truth.shape[1] / 2)
    below = np.arange(truth.shape[0])[:, None] >= middle[0]
    right = np.arange(truth.shape[1])[None, :] >= middle[1]
    cuts = [np.broadcast_to(cut, truth.shape) for cut in (right, below, below ^ right)]
    return max(cuts, key=lambda cut: _evenness(truth, cut))


def _evenness(truth: Truth, cut: NDArray[np.bool_]) -> float:
    shares = [float(cut[truth == label].mean()) for label in shown_labels(truth)]
    return sum(min(share, 1 - share) > 0.1 for share in shares) + sum(min(s, 1 - s) for s in shares) / 100


def _without(example: Example, where: NDArray[np.bool_]) -> Example:
    return replace(example, truth=np.where(where, VOID, example.truth).astype(np.int16))
