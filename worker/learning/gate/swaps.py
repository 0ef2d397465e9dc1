"""Swapped labels: regions labelled X are predicted as Y, and regions labelled Y as X (or in a longer cycle)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.learning.gate.comparison import Comparison
from worker.learning.gate.evaluator import Evaluator
from worker.learning.interfaces import Adapter, Example, Recipe

CLEAR_SHARE = 0.6
"""Share of a label's pixels that must be predicted as one other label."""

OWN_SHARE = 0.2
"""Share of them, at most, that may be predicted as the label itself."""

_FEWEST = 30  # pixels of a label: fewer are no evidence

Cycle = tuple[int, ...]
"""Labels, each predicted as the next one, the last as the first; the smallest comes first."""


def find_swaps(counts: NDArray[np.float64]) -> list[Cycle]:
    """Find cycles of labels that are clearly predicted as one another.

    A model that does not know the labels predicts most of them as the same one, or each as several: neither makes a
    cycle, so only a model that tells the labels apart can raise a suspicion.

    Args:
        counts: (n, n) pixels of each label (rows) by the label predicted (columns).
    """
    pixels = counts.sum(axis=1)
    shares = counts / np.maximum(pixels, 1)[:, None]
    best = shares.argmax(axis=1)
    rows = np.arange(len(counts))
    clear = (pixels >= _FEWEST) & (shares[rows, best] >= CLEAR_SHARE) & (np.diagonal(shares) <= OWN_SHARE)
    follows = {int(k): int(best[k]) for k in rows[clear]}
    cycles = []
    for start in sorted(follows):
        path = [start]
        while (after := follows.get(path[-1])) is not None and after not in path:
            path.append(after)
        if follows.get(path[-1]) == start and start == min(path):
            cycles.append(tuple(path))
    return cycles


def suspect_swaps(
    evaluator: Evaluator, recipe: Recipe | None, train: Sequence[Example], hold_out: Sequence[Example],
    served: Adapter | None, seen: Collection[str], names: Sequence[str],
) -> tuple[str, list[list[str]]]:  # fmt: skip
    """Look for swapped labels before anything is trained on them.

    Either the zero-shot model, where it is certain, predicts the labels of a cycle as one another; or new corrections
    contradict those that the served adapter was trained on: the served adapter finds a cycle in the new ones, and an
    adapter trained on the new ones alone finds one in the old ones. (If the served adapter only knew too little, the
    second check would find none.)

    Args:
        evaluator: with the frozen model.
        recipe: trains on the new corrections; None = only the zero-shot model is asked.
        train: training examples.
        hold_out: held-out examples.
        served: what is served now; None = the zero-shot model.
        seen: keys of the examples that the served adapter was trained on.
        names: of each label.

    Returns:
        the reason for the suspicion, "" = none, and the names in each cycle.
    """
    cycles = find_swaps(evaluator.label_confusion([*train, *hold_out], None, certain=True))
    template = "labels look swapped: to the zero-shot model, regions labelled {} look like {}"
    new, old = ([e for e in train if (e.key in seen) == known] for known in (False, True))
    if not cycles and served and recipe and new and old and find_swaps(evaluator.label_confusion(new, served)):
        of_new = recipe.fit(new, evaluator.words, evaluator.segmenter)
        cycles = find_swaps(evaluator.label_confusion(old, of_new))
        template = "labels look swapped: regions labelled {} by new corrections look like {} by the earlier ones"
    if not cycles:
        return "", []
    pairs = [(cycle[k], cycle[(k + 1) % len(cycle)]) for cycle in cycles for k in range(len(cycle))]
    labelled, predicted = (", ".join(names[pair[side]] for pair in pairs) for side in (0, 1))
    reason = f"{template.format(labelled, predicted)}. Correct them, or name the labels in other words"
    return reason, [[names[label] for label in cycle] for cycle in cycles]


def swap_hint(versus_zero_shot: Comparison, names: Sequence[str]) -> str:
    """A sentence that names labels which training and evaluation images seem to swap, "" = none."""
    cycles = find_swaps(versus_zero_shot.candidate.sum(axis=0)[:-1, :-1].astype(np.float64))
    if not cycles:
        return ""
    labels = "; ".join(" and ".join(names[label] for label in cycle) for cycle in cycles)
    return f". Corrections learned from and corrections judged on disagree which is which of {labels}: look for swaps"
