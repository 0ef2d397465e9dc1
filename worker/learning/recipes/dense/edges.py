"""Boundaries between classes as targets: only those that both sides are known of.

SAZS as released takes the outlines of all classes, unseen ones too. Here VOID, which pixels of unseen classes must be,
has no boundary, and nothing within a band around it is judged: whether an edge lies there is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.segmentation.metrics import VOID

RADIUS = 2
"""Pixels on either side of a boundary that belong to it."""


@dataclass(frozen=True)
class EdgeTarget:
    """Boundaries on a grid.

    Attributes:
        edges: (B, 1, h, w) float32: 1 where a cell touches a boundary, else 0.
        known: (B, 1, h, w) bool: where that is known.
        classes: (B, h, w) int64 class of each cell, sampled at its centre; VOID where the boundary is unknown.
    """

    edges: Tensor
    known: Tensor
    classes: Tensor


def edge_target(truth: Tensor, grid: tuple[int, int], *, radius: int = RADIUS) -> EdgeTarget:
    """Find the boundaries of class maps.

    Args:
        truth: (B, H, W) int64 classes; VOID is unknown.
        grid: (h, w) of the boundary logits; not finer than the pixels.
        radius: as RADIUS.
    """
    known = truth != VOID
    crossing = torch.zeros_like(known)
    for axis in (1, 2):
        length = truth.shape[axis] - 1
        one, other = truth.narrow(axis, 0, length), truth.narrow(axis, 1, length)
        differs = (one != other) & known.narrow(axis, 0, length) & known.narrow(axis, 1, length)
        for start in (0, 1):  # both sides of the boundary
            crossing.narrow(axis, start, length).logical_or_(differs)
    edges = _grown(crossing[:, None].float(), radius - 1)
    unknown = F.adaptive_max_pool2d(_grown((~known)[:, None].float(), radius), grid) > 0
    edges = F.adaptive_max_pool2d(edges, grid).masked_fill(unknown, 0.0)
    classes = F.interpolate(truth[:, None].double(), size=grid, mode="nearest-exact")[:, 0].long()
    return EdgeTarget(edges, ~unknown, classes.masked_fill(unknown[:, 0], VOID))


def _grown(values: Tensor, radius: int) -> Tensor:
    """Largest value within a square around each pixel."""
    return F.max_pool2d(values, 2 * radius + 1, stride=1, padding=radius) if radius else values
