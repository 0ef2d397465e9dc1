"""What a picture looks like around each cell of a grid: colour, its spread, texture and place, at five sizes.

Descriptors do not change when the picture is mirrored left to right, other than by the place. It must not know about
models or labels.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_REACHES = (0.012, 0.03, 0.06, 0.12, 0.25)  # radii of the windows, in long sides of the grid
_FAR = (1, 2, 3)  # of those, the ones whose neighbours above, below and beside are looked at
_LIGHT, _CHROMA = 50.0, 40.0  # of Lab, what counts as 1
_FLAT = 1e-5  # energy of gradients below which there is no orientation
PLACES = 4  # the last columns: row, column, distances from the middle


def describe(image: NDArray[np.uint8], grid: tuple[int, int]) -> Tensor:
    """Describe each cell of a grid laid over a picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        grid: (h, w) cells.

    Returns:
        (F, h, w) float32, each of about unit size; the last `PLACES` say where a cell is.
    """
    fine = _resized(image, (2 * grid[0], 2 * grid[1]))
    lab_fine = cv2.cvtColor(fine, cv2.COLOR_RGB2LAB) / np.array([_LIGHT, _CHROMA, _CHROMA], dtype=np.float32)
    lab_fine[..., 0] -= 1
    colours = torch.from_numpy(lab_fine).permute(2, 0, 1)
    stacked = F.avg_pool2d(torch.cat([colours, colours.square(), _gradients(colours[0])])[None], 2)[0]
    lab = stacked[:3]
    rgb = F.avg_pool2d(torch.from_numpy(fine).permute(2, 0, 1)[None], 2)[0]
    values = [rgb, lab, lab - lab.mean(dim=(1, 2), keepdim=True), _deviation(stacked[:3], stacked[3:6])]
    means = []
    for reach in _REACHES:
        near = window_mean(stacked, max(1, round(reach * max(grid))))
        means.append(near[:3])
        values += [near[:3], _deviation(near[:3], near[3:6]), _texture(near[6:])]
    values.append(means[0] - means[len(means) // 2])
    values += [beside(means[k], 2 * max(1, round(_REACHES[k] * max(grid)))) for k in _FAR]
    return torch.cat([*values, _place(grid)])


def window_mean(values: Tensor, radius: int) -> Tensor:
    """Mean of (C, h, w) over windows of 2 radius + 1 cells, shorter at the borders; by products with band matrices."""
    rows, columns = (_band(size, radius).to(values) for size in values.shape[1:])
    return rows @ values @ columns.T


def beside(values: Tensor, distance: int) -> Tensor:
    """(4 C, h, w): what (C, h, w) is above, below, and on the sides: the larger and the smaller of left and right."""
    height, width = values.shape[1:]
    padded = F.pad(values[None], (distance,) * 4, mode="replicate")[0]
    inner_rows, inner_columns = slice(distance, distance + height), slice(distance, distance + width)
    left, right = padded[:, inner_rows, :width], padded[:, inner_rows, 2 * distance :]
    above, below = padded[:, :height, inner_columns], padded[:, 2 * distance :, inner_columns]
    return torch.cat([above, below, torch.maximum(left, right), torch.minimum(left, right)])


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    shrinks = image.shape[0] >= size[0]
    small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def _gradients(light: Tensor) -> Tensor:
    """(4, h, w): the structure tensor's xx, yy, xy, and the gradient's length."""
    down, across = torch.gradient(light)
    return torch.stack([across * across, down * down, across * down, torch.hypot(across, down)])


def _texture(tensor: Tensor) -> Tensor:
    """(4, h, w) orientation (upright or level, diagonal), energy and edges out of a pooled structure tensor."""
    across, down, mixed, length = tensor
    energy = across + down + _FLAT
    return torch.stack([(across - down) / energy, (2 * mixed / energy).abs(), energy.log() / 4, 10 * length])


def _deviation(mean: Tensor, square: Tensor) -> Tensor:
    return (square - mean.square()).clamp_min(1e-6).sqrt()


def _place(grid: tuple[int, int]) -> Tensor:
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, grid[0]), torch.linspace(-1, 1, grid[1]), indexing="ij")
    return torch.stack([rows, columns, columns.abs(), torch.hypot(rows, columns)])


def _band(size: int, radius: int) -> Tensor:
    place = torch.arange(size)
    near = ((place[:, None] - place).abs() <= radius).float()
    return near / near.sum(dim=1, keepdim=True)
