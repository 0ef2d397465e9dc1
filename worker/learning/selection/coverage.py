"""How far images are from those that are corrected or chosen, and which of them are least like these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.learning.selection.candidates import Vector
from worker.learning.selection.representatives import Representatives
from worker.learning.selection.vectors import unit_vector

_CELLS = 1 << 23  # of a table of distances held at a time: 32 MiB


class Coverage:
    """Holds the vectors of n images, and how far each is from the nearest one that is covered: 1 - cosine, in [0, 2].

    Args:
        vectors: one per image; None where it is not known. Of several lengths the commonest is known, the others are
            not.

    Attributes:
        known: (n,) bool, images with a vector.
    """

    def __init__(self, vectors: Sequence[Vector | None]) -> None:
        counts = Counter(len(vector) for vector in vectors if vector is not None and vector.ndim == 1)
        self._length = max(sorted(counts), key=counts.__getitem__, default=0)
        found = [vector is not None and vector.shape == (self._length,) for vector in vectors]
        self.known = np.array(found, dtype=np.bool_)
        self._units = np.zeros((len(vectors), self._length), dtype=np.float32)
        for number in np.flatnonzero(self.known):
            self._units[number] = vectors[number]
        self._normalise()
        self._nearest = np.full(len(vectors), np.inf, dtype=np.float32)
        self._representatives = Representatives(self._units, self.known)

    @property
    def distances(self) -> NDArray[np.float32]:
        """(n,) float32 to the nearest covered image; inf while none is covered. Of images without a vector the median
        of the others, so that they are neither preferred nor avoided.
        """
        if self.known.all() or not self.known.any():
            return self._nearest
        return np.where(self.known, self._nearest, np.median(self._nearest[self.known])).astype(np.float32)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is covered yet."""
        return bool(np.isinf(self._nearest).all())

    def cover(self, vectors: Iterable[Vector | None]) -> None:
        """Cover what these show; those that are not known cover nothing."""
        units = [unit for unit in (None if one is None else unit_vector(one) for one in vectors) if unit is not None]
        units = [unit for unit in units if len(unit) == self._length]
        at_once = max(1, _CELLS // max(1, len(self._nearest)))
        for start in range(0, len(units), at_once):
            self._come_nearer(np.stack(units[start : start + at_once]))

    def cover_own(self, number: int) -> None:
        """Cover what image `number` shows."""
        if self.known[number]:
            self._come_nearer(self._units[number : number + 1])

    def farthest(self, among: NDArray[np.bool_]) -> int:
        """Of the images of an (n,) bool choice the one farthest from all that is covered, the first of equals: greedy
        k-center (Gonzalez, TCS 1985; Sener and Savarese, ICLR 2018). At least one of them must be known.
        """
        return int(np.argmax(np.where(among & self.known, self._nearest, -np.inf)))

    def representative(self, among: NDArray[np.bool_]) -> int:
        """Of the images of an (n,) bool choice the one that stands for most images that nothing covered is like; see
        `Representatives`. At least one of them must be known.
        """
        found = self._representatives.find(among & self.known)
        return self.farthest(among) if found is None else found

    def cosines(self, to: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, k) cosines with (k, D) vectors; 0 without a vector."""
        return np.asarray(self._units @ to.T, dtype=np.float32)

    def _normalise(self) -> None:
        """Bring all vectors to unit length at once, in parts; those that are zero or not finite are not known."""
        at_once = max(1, _CELLS // max(1, self._length))
        for start in range(0, len(self._units), at_once):
            part = self._units[start : start + at_once]
            lengths = np.linalg.norm(part, axis=1, keepdims=True)
            usable = np.isfinite(lengths) & (lengths > 0)
            self.known[start : start + at_once] &= usable[:, 0]
            np.divide(part, lengths, out=part, where=usable)
            part[~usable[:, 0]] = 0.0

    def _come_nearer(self, units: NDArray[np.float32]) -> None:
        self._representatives.cover(units)
        distances = 1 - self.cosines(units).max(axis=1)
        self._nearest[self.known] = np.minimum(self._nearest, distances)[self.known]
