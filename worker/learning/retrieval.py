"""A balanced bank of cells with known classes, and what the cells most alike to a new one were.

The cache of Tip-Adapter (Zhang et al., ECCV 2022) with the keys of a learner's inputs. It must not know what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_OF_A_CLASS = 150
_SHARPNESS = 8.0  # of the weight of a cell over its mean squared distance
_FAR = 1e4


@dataclass(frozen=True)
class Bank:
    """Cells that others are compared with: keys (M, F), their shares (M, C), and the fold of each (M,) int64."""

    keys: Tensor
    shares: Tensor
    fold: Tensor

    @classmethod
    def gather(cls, inputs: Tensor, shares: Tensor, fold: Tensor, chance: torch.Generator) -> Bank:
        """Take at most 150 rows of each class, at random."""
        truth = shares.argmax(dim=1)
        of_class = [(truth == k).nonzero()[:, 0] for k in range(shares.shape[1])]
        rows = torch.cat([some[torch.randperm(len(some), generator=chance)[:_OF_A_CLASS]] for some in of_class])
        return cls(inputs[rows], shares[rows], fold[rows])

    def recall(self, inputs: Tensor, *, apart: Tensor | None) -> Tensor:
        """(N, C): shares of the cells most alike to the (N, F) inputs.

        Args:
            apart: (N,) int64 folds whose cells are not looked at by those inputs; None = all are.
        """
        distance = (inputs.square().sum(dim=1, keepdim=True) + self.keys.square().sum(dim=1)
                    - 2 * inputs @ self.keys.T) / inputs.shape[1]  # fmt: skip
        if apart is not None:
            distance += _FAR * (apart[:, None] == self.fold)
        return (-_SHARPNESS * distance).softmax(dim=1) @ self.shares

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, for storage."""
        return {"bank.keys": self.keys, "bank.shares": self.shares, "bank.fold": self.fold}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Bank:
        """Make one again from `tensors`."""
        return cls(tensors["bank.keys"], tensors["bank.shares"], tensors["bank.fold"])
