"""What is said of the surroundings of each cell: posteriors pooled near, far, above, below, and over like colours.

A second learner that reads them can mend what the first one says of a cell alone (auto-context, Tu, CVPR 2008). It must
not know which classes there are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worker.learning.appearance import beside, window_mean

_REACHES = (0.02, 0.05, 0.1, 0.2)  # radii of the windows, in long sides of the grid
_BESIDE, _BESIDE_REACH = 0.13, 0.06
_COLOURS = ((10, 1), (7, 5))  # bins per Lab axis, cells per side of the picture within which colours are compared
_PRIOR = 2.0  # cells that say what the whole picture says
_LEAST = 1e-3


def surroundings(posterior: Tensor, lab: Tensor) -> Tensor:
    """Pool (C, h, w) posteriors of a picture whose cells have the colours (3, h, w): (13 C, h, w) float32."""
    height, unit = posterior.shape[1], max(posterior.shape[1:])
    values = [(posterior + _LEAST).log()]
    values += [window_mean(posterior, max(1, round(reach * unit))) for reach in _REACHES]
    values.append(beside(window_mean(posterior, max(1, round(_BESIDE_REACH * unit))), max(1, round(_BESIDE * unit))))
    so_far, count = posterior.cumsum(dim=1), torch.arange(1, height + 1, device=posterior.device).view(1, -1, 1)
    values += [so_far / count, (so_far[:, -1:] - so_far + posterior) / (height + 1 - count)]
    values.append(posterior.mean(dim=(1, 2), keepdim=True).expand_as(posterior))
    values += [_like_colours(posterior, lab, bins, cells) for bins, cells in _COLOURS]
    return torch.cat(values)


def _like_colours(posterior: Tensor, lab: Tensor, bins: int, cells: int) -> Tensor:
    """Mean posterior over the cells of the same colour bin (and part of the picture), over two grids of bins."""
    classes, height, width = posterior.shape
    rows, colours = posterior.flatten(1).T, lab.flatten(1)
    low, high = colours.quantile(0.02, dim=1), colours.quantile(0.98, dim=1)
    scaled = (colours.T - low) / (high - low).max().clamp_min(0.1)
    down, across = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    place = torch.stack([down.flatten(), across.flatten()], dim=1).to(scaled)
    pooled = torch.zeros_like(rows)
    for shift in (0.0, 0.5):
        bin_of = (scaled * bins + shift).long().clamp(0, 2 * bins)
        part = (place * cells + shift * (cells > 1)).long()
        key = ((bin_of @ torch.tensor([(2 * bins + 1) ** 2, 2 * bins + 1, 1])) * (cells + 1) + part[:, 0]) * (cells + 1)
        _, member = (key + part[:, 1]).unique(return_inverse=True)
        size = torch.bincount(member)
        total = torch.zeros(len(size), classes).index_add_(0, member, rows)
        pooled += ((total + _PRIOR * rows.mean(dim=0)) / (size[:, None] + _PRIOR))[member]
    return (pooled / 2).T.reshape(classes, height, width)
