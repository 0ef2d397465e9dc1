"""Noisy patch shares + image -> shares of small cells, propagated along the graph of the image.

Minimises x' L x + trust |C^1/2 R (P x - f)|^2 over the cells x, coarse to fine: L is the Laplacian of an 8-neighbour
colour graph, f the shares, P averages cells to patches, R removes the error that neighbouring patches have in common, C
weighs the patches by their margin. P keeps what is smaller than a patch: a pole that covers a fifth of a patch must
come out as a fifth of it, and the colours decide where.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.segmentation.outlines.evidence import Evidence
from worker.segmentation.outlines.graph import Lattice, conjugate_gradients, lattice
from worker.segmentation.pictures import lab_picture

CELLS = 4  # per side of a patch, at the finest
_LEVELS = ((2, 40), (CELLS, 12))  # cells per side, most iterations: long range is cheap where cells are few
_COARSE_TOLERANCE = 0.01  # relative residual at which a level that only starts the next one stops
_RECEPTIVE_BLUR = 0.7  # patches: standard deviation of the blur by which a patch sees beyond its own border
_SHARED_ERROR, _SHARED_REACH = 0.9, 1.5  # part of the error that neighbours have in common, and its blur in patches
_LEAST_WEIGHT = 0.1  # of a patch without any margin, where the evidence is noisy
_CLEAN, _NOISY = 0.1, 0.2  # noise up to which all patches weigh the same, and from which the margin decides
_PRESENT, _KEPT = 0.02, 0.35  # a class that wins this part of the patches must keep this part of them
_TRUST_FACTOR = 10.0


def propagate(
    evidence: Evidence, shares: Tensor, image: NDArray[np.uint8], *, trust: float, there: Tensor | None = None
) -> Tensor:
    """Propagate shares along the edges of the image's graph.

    Args:
        evidence: that the shares came from; its margins weigh the patches.
        shares: (C - 1, h, w) float32 of all classes but the last, which is the complement.
        image: (H, W, 3) uint8 RGB.
        trust: weight of the evidence against smoothness; raised where a class that is there would vanish.
        there: (C,) bool the classes that are more than noise; None = all.

    Returns:
        (C - 1, CELLS * h, CELLS * w) float32.
    """
    _, height, width = shares.shape
    weight = _patch_weights(evidence)
    found = shares
    for level, (cells, iterations) in enumerate(_LEVELS):
        size = (height * cells, width * cells)
        patches = _PatchOperator.over(size, (height, width), weight)
        graph = lattice(lab_picture(image, size).to(shares.device))
        start = F.interpolate(found[None], size=size, mode="bilinear", align_corners=False)[0].flatten(1)
        while True:
            pull = trust * CELLS**2  # of one patch, the same at every level

            def energy(
                values: Tensor, pull: float = pull, patches: _PatchOperator = patches, graph: Lattice = graph
            ) -> Tensor:
                residual = patches.residual(patches.to_patches(values))
                return graph.laplacian(values).add_(patches.to_cells(residual), alpha=pull)

            right = patches.to_cells(patches.residual(shares)).mul_(pull)
            diagonal = graph.degree + 0.3 * pull / cells**2
            tolerance = 0.0 if cells == CELLS else _COARSE_TOLERANCE
            solved = conjugate_gradients(energy, right, start, diagonal, iterations=iterations, tolerance=tolerance)
            if level or trust >= 1 or not _loses_a_class(evidence.shares, patches.to_patches(solved), there):
                break
            trust = min(1.0, trust * _TRUST_FACTOR)
        found = solved.reshape(-1, *size)
    return found


@dataclass(frozen=True)
class _PatchOperator:
    """P, R and C of the module, separable: rows @ values @ columns'."""

    size: tuple[int, int]
    rows: Tensor
    columns: Tensor
    shared_rows: Tensor
    shared_columns: Tensor
    weight: Tensor

    @classmethod
    def over(cls, size: tuple[int, int], grid: tuple[int, int], weight: Tensor) -> _PatchOperator:
        (height, width), device = grid, weight.device
        return cls(
            size,
            average_matrix(height, size[0], _RECEPTIVE_BLUR).to(device),
            average_matrix(width, size[1], _RECEPTIVE_BLUR).to(device),
            average_matrix(height, height, _SHARED_REACH).to(device),
            average_matrix(width, width, _SHARED_REACH).to(device),
            weight,
        )

    def to_patches(self, values: Tensor) -> Tensor:
        """Average cells (C, N) to patches (C, h, w)."""
        return self.rows @ values.reshape(-1, *self.size) @ self.columns.T

    def residual(self, patches: Tensor) -> Tensor:
        """Apply R' C R to patches (C, h, w)."""
        own = patches - _SHARED_ERROR * (self.shared_rows @ patches @ self.shared_columns.T)
        own = own * self.weight
        return own - _SHARED_ERROR * (self.shared_rows.T @ own @ self.shared_columns)

    def to_cells(self, patches: Tensor) -> Tensor:
        """Apply the transpose of `to_patches`: (C, h, w) -> (C, N)."""
        return (self.rows.T @ (patches @ self.columns)).flatten(1)


def _patch_weights(evidence: Evidence) -> Tensor:
    """(h, w) weight of each patch, 1 on average; the noisier the evidence, the more its margin counts."""
    best = evidence.shares.topk(2, dim=0).values
    margin = (best[0] - best[1]).clamp(0.0, 1.0)
    noisy = min(1.0, max(0.0, (evidence.noise - _CLEAN) / (_NOISY - _CLEAN)))
    weight = 1 - noisy * (1 - _LEAST_WEIGHT - margin.square()).clamp_min(0.0)
    return weight / weight.mean()


def _loses_a_class(before: Tensor, after: Tensor, there: Tensor | None) -> bool:
    """Whether a class that won a fair part of the patches (C, h, w) has lost most of them in (C - 1, h, w).

    A class that is not there may lose what noise gave it.
    """
    count = len(before)
    whole = torch.cat([after, 1 - after.sum(dim=0, keepdim=True)])
    won, kept = (torch.bincount(shares.argmax(dim=0).flatten(), minlength=count) for shares in (before, whole))
    lost = (won >= _PRESENT * before[0].numel()) & (kept < _KEPT * won)
    return bool((lost if there is None else lost & there).any())


@lru_cache(maxsize=128)
def average_matrix(count: int, size: int, blur: float) -> Tensor:
    """(count, size) float32: row i averages the places in cell i of `count`, blurred over neighbouring cells."""
    edge = torch.arange(count + 1, dtype=torch.float64) * size / count
    place = torch.arange(size, dtype=torch.float64)
    overlap = (torch.minimum(edge[1:, None], place + 1) - torch.maximum(edge[:-1, None], place)).clamp_min(0.0)
    mean = overlap / overlap.sum(dim=1, keepdim=True)
    reach = max(1, round(4 * blur))
    cell, other = torch.arange(count, dtype=torch.float64), torch.arange(-reach, count + reach, dtype=torch.float64)
    kernel = torch.exp(-((cell[:, None] - other) ** 2) / (2 * blur**2))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    folded = torch.zeros(count, count, dtype=torch.float64)
    folded.index_add_(1, other.long().clamp(0, count - 1), kernel)  # beyond the border the last cell is repeated
    return (folded @ mean).float()
