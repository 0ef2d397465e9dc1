"""Which image stands for most images that no corrected one is like: greedy facility location (Nemhauser et al., 1978;
for learning from few labels Wei et al., ICML 2015).

Greedy k-center (`Coverage.farthest`) finds outliers first, which teach little while few images are corrected.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MOST_COMPARED = 2000
"""Images that are compared with each other: the first, which are a random sample where the order is random."""


class Representatives:
    """Holds a sample of n images, and how alike each is to the most alike of those that are covered.

    Likeness is the cosine after the mean of the images is taken away: what all have in common tells nothing apart.

    Args:
        units: (n, D) float32 of unit length.
        known: (n,) bool, which of them say something.
    """

    def __init__(self, units: NDArray[np.float32], known: NDArray[np.bool_]) -> None:
        self._compared = np.flatnonzero(known)[:MOST_COMPARED]
        self._mean = units[known].mean(axis=0) if known.any() else np.zeros(units.shape[1], dtype=np.float32)
        self._vectors = self._centred(units[self._compared])
        self._best = np.full(len(self._compared), -1.0, dtype=np.float32)

    def cover(self, units: NDArray[np.float32]) -> None:
        """Cover what (k, D) vectors of unit length show, one or more."""
        self._best = np.maximum(self._best, (self._vectors @ self._centred(units).T).max(axis=1))

    def find(self, among: NDArray[np.bool_]) -> int | None:
        """Of the images of an (n,) bool choice the one by which all become most alike to a covered one, the first of
        equals; None if none of them is compared.
        """
        places = np.flatnonzero(among[self._compared])
        if not places.size:
            return None
        gains = np.maximum(self._likeness[places] - self._best, 0).sum(axis=1)
        return int(self._compared[places[int(np.argmax(gains))]])

    @cached_property
    def _likeness(self) -> NDArray[np.float32]:
        return np.asarray(self._vectors @ self._vectors.T, dtype=np.float32)

    def _centred(self, units: NDArray[np.float32]) -> NDArray[np.float32]:
        centred = units - self._mean
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        return np.asarray(centred / np.maximum(lengths, 1e-6), dtype=np.float32)
