"""Retrieval: a class-balanced memory of labelled cells, and the classes of those most similar to a new one.

The cache model of Tip-Adapter (Zhang et al., ECCV 2022), with the inputs of the networks as keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MOST_PER_CLASS, _MOST_CELLS = 200, 4000
_ROWS_AT_ONCE = 512  # compared with the whole memory: 8 MB at most, which caches hold better than more
_SHARPNESS = 8.0  # of the softmax over negative mean squared distances


@dataclass(frozen=True)
class MemoryBank:
    """Labelled cells: keys (M, F) and their class shares (M, C)."""

    keys: Tensor
    shares: Tensor

    @classmethod
    def sample(cls, inputs: Tensor, shares: Tensor, generator: torch.Generator) -> MemoryBank:
        """Draw at most 200 rows of each class, and about 4000 of all."""
        most = max(1, min(_MOST_PER_CLASS, _MOST_CELLS // shares.shape[1]))
        truth = shares.argmax(dim=1)
        by_class = [(truth == k).nonzero()[:, 0] for k in range(shares.shape[1])]
        rows = torch.cat([some[torch.randperm(len(some), generator=generator)[:most]] for some in by_class])
        return cls(inputs[rows], shares[rows])

    def retrieve(self, inputs: Tensor) -> Tensor:
        """Average the shares of the cells most similar to (N, F) inputs: (N, C)."""
        starts = range(0, max(1, len(inputs)), _ROWS_AT_ONCE)
        return torch.cat([self._retrieve(inputs[start : start + _ROWS_AT_ONCE]) for start in starts])

    def _retrieve(self, inputs: Tensor) -> Tensor:
        # Minus the squared distances, but for the squares of the inputs, which no softmax over the memory sees.
        scale = _SHARPNESS / inputs.shape[1]
        closeness = torch.addmm(self.keys.square().sum(dim=1), inputs, self.keys.T, beta=-scale, alpha=2 * scale)
        return closeness.softmax(dim=1) @ self.shares
