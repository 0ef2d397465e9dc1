"""A balanced bank of cells with known classes, and what the cells most alike to a new one were.

The cache of Tip-Adapter (Zhang et al., ECCV 2022), its keys being a learner's inputs. It must not know what they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_OF_A_CLASS = 200
_SHARPNESS = 8.0  # of the weight of a cell over its mean squared distance


@dataclass(frozen=True)
class Bank:
    """Cells that others are compared with: keys (M, F) and their shares (M, C)."""

    keys: Tensor
    shares: Tensor

    @classmethod
    def gather(cls, inputs: Tensor, shares: Tensor, chance: torch.Generator) -> Bank:
        """Take at most 200 rows of each class, at random."""
        truth = shares.argmax(dim=1)
        of_class = [(truth == k).nonzero()[:, 0] for k in range(shares.shape[1])]
        rows = torch.cat([some[torch.randperm(len(some), generator=chance)[:_OF_A_CLASS]] for some in of_class])
        return cls(inputs[rows], shares[rows])

    def recall(self, inputs: Tensor) -> Tensor:
        """(N, C): shares of the cells most alike to the (N, F) inputs."""
        distance = torch.cdist(inputs, self.keys).square() / inputs.shape[1]
        return (-_SHARPNESS * distance).softmax(dim=1) @ self.shares
