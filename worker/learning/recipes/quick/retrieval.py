"""A balanced bank of cells with known classes, and what the cells most alike to a new one were.

The cache of Tip-Adapter (Zhang et al., ECCV 2022), its keys being a learner's inputs. It must not know what they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_OF_A_CLASS, _OF_ALL = 200, 4000
_AT_ONCE = 2048  # rows compared with the whole bank, 32 MB
_SHARPNESS = 8.0  # of the weight of a cell over its mean squared distance


@dataclass(frozen=True)
class Bank:
    """Cells that others are compared with: keys (M, F) and their shares (M, C)."""

    keys: Tensor
    shares: Tensor

    @classmethod
    def gather(cls, inputs: Tensor, shares: Tensor, chance: torch.Generator) -> Bank:
        """Take at most 200 rows of each class, and about 4000 of all, at random."""
        most = max(1, min(_OF_A_CLASS, _OF_ALL // shares.shape[1]))
        truth = shares.argmax(dim=1)
        of_class = [(truth == k).nonzero()[:, 0] for k in range(shares.shape[1])]
        rows = torch.cat([some[torch.randperm(len(some), generator=chance)[:most]] for some in of_class])
        return cls(inputs[rows], shares[rows])

    def recall(self, inputs: Tensor) -> Tensor:
        """(N, C): shares of the cells most alike to the (N, F) inputs."""
        starts = range(0, max(1, len(inputs)), _AT_ONCE)
        return torch.cat([self._recall(inputs[start : start + _AT_ONCE]) for start in starts])

    def _recall(self, inputs: Tensor) -> Tensor:
        distance = torch.cdist(inputs, self.keys).square_().div_(inputs.shape[1])
        return distance.mul_(-_SHARPNESS).softmax(dim=1) @ self.shares
