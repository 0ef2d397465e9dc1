"""The few directions along which some features differ most, found anew in each project's own pictures.

It must not know what the features are of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axes:
    """Principal axes.

    Attributes:
        middle: (D,) float32 mean of the features.
        directions: (D, K) float32, orthonormal, the first the widest.
    """

    middle: Tensor
    directions: Tensor

    @classmethod
    def of(cls, maps: Sequence[Tensor], most: int) -> Axes:
        """Find at most so many axes of (D, h, w) maps."""
        rows = torch.cat([some.flatten(1).T.cpu().float() for some in maps])
        middle = rows.mean(dim=0)
        _, directions = torch.linalg.eigh((rows - middle).T @ (rows - middle))
        return cls(middle, directions.flip(1)[:, :most].contiguous())

    @classmethod
    def of_state(cls, tensors: Mapping[str, Tensor], name: str) -> Axes:
        """Make some again from stored tensors.

        Raises:
            KeyError: one is missing.
            ValueError: they do not fit each other.
        """
        middle, directions = tensors[f"{name}.middle"], tensors[f"{name}.directions"]
        if middle.ndim != 1 or directions.ndim != 2 or len(directions) != len(middle):
            raise ValueError(f"axes {name} do not fit each other")
        return cls(middle, directions)

    def project(self, features: Tensor) -> Tensor:
        """(K, h, w) float32 of a map (D, h, w), on the CPU."""
        rows = features.flatten(1).T.cpu().float() - self.middle
        return (rows @ self.directions).T.reshape(-1, *features.shape[1:])
