"""Labels that look swapped: what is labelled X is taken for Y, and what is labelled Y for X (or in a longer round).

It must not know models or corrections, only how pixels of each label were taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLEAR_SHARE = 0.6
"""Share of a label's pixels that must be taken for one other label."""

OWN_SHARE = 0.2
"""Share of them, at most, that may be taken for the label itself."""

_FEWEST = 30  # pixels of a label: fewer tell nothing


def find_swaps(taken: NDArray[np.float64]) -> list[tuple[int, ...]]:
    """Find rounds of labels that are clearly taken for one another.

    A model that knows nothing of the labels takes most of them for the same one, or each for several: neither makes a
    round, so only one that tells the labels apart can accuse anybody.

    Args:
        taken: (n, n) pixels of each label (rows) that were taken for each label (columns).

    Returns:
        the labels of each round, each taken for the next one, the last for the first; the smallest comes first.
    """
    pixels = taken.sum(axis=1)
    shares = taken / np.maximum(pixels, 1)[:, None]
    best = shares.argmax(axis=1)
    rows = np.arange(len(taken))
    clear = (pixels >= _FEWEST) & (shares[rows, best] >= CLEAR_SHARE) & (np.diagonal(shares) <= OWN_SHARE)
    follows = {int(k): int(best[k]) for k in rows[clear]}
    rounds = []
    for start in sorted(follows):
        path = [start]
        while (after := follows.get(path[-1])) is not None and after not in path:
            path.append(after)
        if follows.get(path[-1]) == start and start == min(path):
            rounds.append(tuple(path))
    return rounds
