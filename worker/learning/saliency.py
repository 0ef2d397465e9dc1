"""How places of a picture stand out of the whole of it: things do, whatever they are, where grounds do not.

A place is compared with all others by colour alone: how common its colour is, how much of that lies at the picture's
border (Wei et al., "Geodesic saliency using background priors", ECCV 2012), and how far it is scattered (Perazzi et
al., "Saliency filters", CVPR 2012). It must not know about models or labels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.segmentation.graph import gaussian_affinity
from worker.segmentation.pictures import lab_picture

_PLACES = 600  # of a picture; the cost grows with the square
_SCALES = (4.0, 8.0, 16.0)  # Lab distance at which likeness has fallen to exp(-1/2)
_RARE, _INSIDE = 1e-3, 1e-2  # least share of like places that counts, and least part of them at the border

SALIENT = 5 * len(_SCALES)
"""Numbers that a place is described by."""


def saliency(image: NDArray[np.uint8]) -> Tensor:
    """Describe some 600 places of a picture.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (SALIENT, h, w) float32, each of about unit size. For each scale of likeness: log of the share of like places;
        log of how much likelier these are at the border than anywhere; their scatter; the row of their middle; the
        distance from it. Rows and distances are in halves of the long side, from the middle of the picture.
    """
    height, width = image.shape[:2]
    cell = max(1.0, (height * width / _PLACES) ** 0.5)
    grid = (max(1, round(height / cell)), max(1, round(width / cell)))
    colour = lab_picture(image, grid).flatten(1).T
    row, column = _positions(grid, (height / max(height, width), width / max(height, width)))
    read = torch.stack([torch.ones_like(row), _border(grid), row, column, row.square() + column.square()], dim=1)
    found = []
    for scale in _SCALES:
        mass, border, *middle, square = (gaussian_affinity(colour / scale) @ read).T
        middle_row, middle_column = middle[0] / mass, middle[1] / mass
        scatter = (square / mass - middle_row.square() - middle_column.square()).clamp_min(1e-4).sqrt()
        away = torch.hypot(row - middle_row, column - middle_column)
        common = (mass / len(mass) + _RARE).log() / 2
        found += [common, (border / mass + _INSIDE).log(), 2 * scatter, middle_row, away]
    return torch.stack(found).reshape(-1, *grid)


def _border(grid: tuple[int, int]) -> Tensor:
    """(h * w,): 0 inside, and as much at the border as makes it 1 on average."""
    border = torch.ones(grid)
    border[1:-1, 1:-1] = 0
    return border.flatten() / border.mean()


def _positions(grid: tuple[int, int], reach: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Row and column (h * w,) of the places' middles, each from -reach to reach."""
    middles = [((torch.arange(n) + 0.5) / n * 2 - 1) * far for n, far in zip(grid, reach, strict=True)]
    rows, columns = torch.meshgrid(*middles, indexing="ij")
    return rows.flatten(), columns.flatten()
