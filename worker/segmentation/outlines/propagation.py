"""Noisy patch shares + picture -> shares of small cells: the evidence is spread along the picture's graph.

Minimises x' L x + trust |C^1/2 R (P x - f)|^2 over the cells x, coarse to fine: L is the Laplacian of an 8-neighbour
colour graph, f the shares, P says what a patch sees of the cells, R that neighbouring patches err alike, C how sure
each patch is. P keeps what is smaller than a patch: a pole of a fifth of a patch must come out as a fifth of it, and
the colours say where. It must not know where the shares come from.
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
_LEVELS = ((2, 40), (CELLS, 12))  # cells per side, most iterations: far reach is cheap where cells are few
_NEAR = 0.01  # residual, of the right-hand side, at which a level that is only a start is left
_SIGHT = 0.7  # patches: standard deviation of what a patch sees beyond its own border
_ALIKE, _ALIKE_REACH = 0.9, 1.5  # share of the errors that neighbours have in common, and how far that reaches
_UNSURE = 0.1  # weight of a patch without any margin, where the evidence is noisy
_CLEAN, _NOISY = 0.1, 0.2  # noise below which all patches count alike, and from which the margin decides
_SMALL, _LOST = 0.02, 0.35  # a class of this part of the patches must keep this part of them
_MORE_TRUST = 10.0


def propagate(evidence: Evidence, shares: Tensor, image: NDArray[np.uint8], *, trust: float) -> Tensor:
    """Spread shares along the picture.

    Args:
        evidence: what the shares came from; says how sure each patch is.
        shares: (C - 1, h, w) float32 of all classes but the last, which is what is left.
        image: (H, W, 3) uint8 RGB.
        trust: weight of the evidence against smoothness; raised where a class would be swallowed.

    Returns:
        (C - 1, CELLS * h, CELLS * w) float32.
    """
    _, height, width = shares.shape
    weight = _sureness(evidence)
    found = shares
    for level, (cells, iterations) in enumerate(_LEVELS):
        size = (height * cells, width * cells)
        patches = _Patches.over(size, (height, width), weight)
        graph = lattice(lab_picture(image, size).to(shares.device))
        start = F.interpolate(found[None], size=size, mode="bilinear", align_corners=False)[0].flatten(1)
        while True:
            pull = trust * CELLS**2  # of one patch, the same at every level

            def energy(
                values: Tensor, pull: float = pull, patches: _Patches = patches, graph: Lattice = graph
            ) -> Tensor:
                return graph.laplacian(values).add_(patches.back(patches.residual(patches.see(values))), alpha=pull)

            right = patches.back(patches.residual(shares)).mul_(pull)
            diagonal = graph.degree + 0.3 * pull / cells**2
            near = 0.0 if cells == CELLS else _NEAR
            solved = conjugate_gradients(energy, right, start, diagonal, iterations=iterations, tolerance=near)
            if level or trust >= 1 or not _swallows(evidence.shares, patches.see(solved)):
                break
            trust = min(1.0, trust * _MORE_TRUST)
        found = solved.reshape(-1, *size)
    return found


@dataclass(frozen=True)
class _Patches:
    """What patches see of cells, as products with small matrices: rows @ values @ columns'."""

    size: tuple[int, int]
    rows: Tensor
    columns: Tensor
    alike_rows: Tensor
    alike_columns: Tensor
    weight: Tensor

    @classmethod
    def over(cls, size: tuple[int, int], grid: tuple[int, int], weight: Tensor) -> _Patches:
        (height, width), device = grid, weight.device
        return cls(
            size,
            average_matrix(height, size[0], _SIGHT).to(device),
            average_matrix(width, size[1], _SIGHT).to(device),
            average_matrix(height, height, _ALIKE_REACH).to(device),
            average_matrix(width, width, _ALIKE_REACH).to(device),
            weight,
        )

    def see(self, values: Tensor) -> Tensor:
        """Cells (C, N) -> patches (C, h, w)."""
        return self.rows @ values.reshape(-1, *self.size) @ self.columns.T

    def residual(self, patches: Tensor) -> Tensor:
        """R' C R p: without what neighbours have in common, weighted, and the transpose of the first step again."""
        own = patches - _ALIKE * (self.alike_rows @ patches @ self.alike_columns.T)
        own = own * self.weight
        return own - _ALIKE * (self.alike_rows.T @ own @ self.alike_columns)

    def back(self, patches: Tensor) -> Tensor:
        """The transpose of `see`: (C, h, w) -> (C, N)."""
        return (self.rows.T @ (patches @ self.columns)).flatten(1)


def _sureness(evidence: Evidence) -> Tensor:
    """(h, w) weight of each patch, 1 on average; its margin counts the more the noisier the evidence is."""
    best = evidence.shares.topk(2, dim=0).values
    margin = (best[0] - best[1]).clamp(0.0, 1.0)
    noisy = min(1.0, max(0.0, (evidence.noise - _CLEAN) / (_NOISY - _CLEAN)))
    weight = 1 - noisy * (1 - _UNSURE - margin.square()).clamp_min(0.0)
    return weight / weight.mean()


def _swallows(before: Tensor, after: Tensor) -> bool:
    """Whether a class that won a fair part of the patches (C, h, w) has lost most of them in (C - 1, h, w)."""
    count = len(before)
    whole = torch.cat([after, 1 - after.sum(dim=0, keepdim=True)])
    won, kept = (torch.bincount(shares.argmax(dim=0).flatten(), minlength=count) for shares in (before, whole))
    return bool(((won >= _SMALL * before[0].numel()) & (kept < _LOST * won)).any())


@lru_cache(maxsize=128)
def average_matrix(count: int, size: int, blur: float) -> Tensor:
    """(count, size) float32: row i averages the places of cell i of `count`, blurred over neighbouring cells."""
    edge = torch.arange(count + 1, dtype=torch.float64) * size / count
    place = torch.arange(size, dtype=torch.float64)
    overlap = (torch.minimum(edge[1:, None], place + 1) - torch.maximum(edge[:-1, None], place)).clamp_min(0.0)
    mean = overlap / overlap.sum(dim=1, keepdim=True)
    reach = max(1, round(4 * blur))
    cell, other = torch.arange(count, dtype=torch.float64), torch.arange(-reach, count + reach, dtype=torch.float64)
    kernel = torch.exp(-((cell[:, None] - other) ** 2) / (2 * blur**2))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    folded = torch.zeros(count, count, dtype=torch.float64)
    folded.index_add_(1, other.long().clamp(0, count - 1), kernel)  # beyond the border: the last cell again
    return (folded @ mean).float()
