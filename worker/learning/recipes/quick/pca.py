"""Principal component analysis of feature maps, fitted to each project's own images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PCA:
    """A projection to the components of largest variance.

    Attributes:
        mean: (D,) float32 mean of the features.
        components: (D, K) float32, orthonormal, largest variance first.
    """

    mean: Tensor
    components: Tensor

    @classmethod
    def fit(cls, maps: Sequence[Tensor], most: int) -> PCA:
        """Find at most so many components of (D, h, w) maps."""
        rows = torch.cat([features.flatten(1).T.cpu().float() for features in maps])
        mean = rows.mean(dim=0)
        _, components = torch.linalg.eigh((rows - mean).T @ (rows - mean))
        return cls(mean, components.flip(1)[:, :most].contiguous())

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], name: str) -> PCA:
        """Load what `tensors` gave under the same name.

        Raises:
            KeyError: a tensor is missing.
            ValueError: their shapes do not fit each other.
        """
        mean, components = tensors[f"{name}.middle"], tensors[f"{name}.directions"]
        if mean.ndim != 1 or components.ndim != 2 or len(components) != len(mean):
            raise ValueError(f"PCA {name}: mean and components do not fit each other")
        return cls(mean, components)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Name the tensors for storage; the names are those of adapters stored long ago."""
        return {f"{name}.middle": self.mean, f"{name}.directions": self.components}

    def project(self, features: Tensor) -> Tensor:
        """Project a map (D, h, w) to (K, h, w) float32, on the CPU."""
        rows = features.flatten(1).T.cpu().float() - self.mean
        return (rows @ self.components).T.reshape(-1, *features.shape[1:])
