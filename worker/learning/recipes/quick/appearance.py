"""Hand-made descriptors of the cells of an image: colour, its spread, texture and position, at five window sizes.

When the image is mirrored left to right, only the position changes.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_RADII = (0.012, 0.03, 0.06, 0.12, 0.25)  # of the windows, in long sides of the grid
_WITH_NEIGHBOURS = (1, 2, 3)  # which of them are also described above, below and beside the cell
_LIGHT, _CHROMA = 50.0, 40.0  # units of the Lab channels
_LEAST_ENERGY = 1e-5  # energy of gradients below which there is no orientation
POSITION_COLUMNS = 4  # the last columns: row, column, distances from the middle


def describe(image: NDArray[np.uint8], grid: tuple[int, int], at: Tensor | None = None) -> Tensor:
    """Describe cells of a grid over an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        grid: (h, w) cells.
        at: (N,) int64 cells to describe, row by row; None = all.

    Returns:
        (F, N) float32, each of about unit variance; the last `POSITION_COLUMNS` are the position.
    """
    at = torch.arange(grid[0] * grid[1]) if at is None else at
    fine = _resized(image, (2 * grid[0], 2 * grid[1]))
    lab = cv2.cvtColor(fine, cv2.COLOR_RGB2LAB) / np.array([_LIGHT, _CHROMA, _CHROMA], dtype=np.float32)
    lab[..., 0] -= 1
    stacked = np.concatenate([_half_size(channels) for channels in (lab, lab * lab, _gradients(lab[..., 0]))], axis=2)
    here = _at(stacked, at)
    average = torch.from_numpy(stacked[..., :3].mean(axis=(0, 1), dtype=np.float32))[:, None]
    values = [_at(_half_size(fine), at), here[:3], here[:3] - average, _deviation(here[:3], here[3:6])]
    means, neighbours = [], []
    for number, share in enumerate(_RADII):
        radius = max(1, round(share * max(grid)))
        window = window_mean(stacked, radius)
        near = _at(window, at)
        means.append(near[:3])
        values += [near[:3], _deviation(near[:3], near[3:6]), _texture(near[6:])]
        if number in _WITH_NEIGHBOURS:
            neighbours.append(_neighbours(window[..., :3], 2 * radius, at))
    values.append(means[0] - means[len(means) // 2])
    return torch.cat([*values, *neighbours, _position(grid, at)])


def window_mean(values: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """Mean of (h, w, C) over windows of 2 radius + 1 cells, shorter at the borders."""
    total = cv2.boxFilter(values, -1, (2 * radius + 1,) * 2, normalize=False, borderType=cv2.BORDER_CONSTANT)
    rows, columns = (_window_sizes(size, radius) for size in values.shape[:2])
    return np.asarray(total / (rows[:, None] * columns)[..., None], dtype=np.float32)


def _window_sizes(size: int, radius: int) -> NDArray[np.float32]:
    """(size,): how many places of a row are within the radius of each."""
    place = np.arange(size, dtype=np.float32)
    return np.asarray(np.minimum(place + radius, size - 1) - np.maximum(place - radius, 0) + 1)


def _neighbours(values: NDArray[np.float32], distance: int, at: Tensor) -> Tensor:
    """(4 C, N): values of (h, w, C) above, below and beside cells; of the two beside, the larger and the smaller."""
    (height, width), flat = values.shape[:2], torch.from_numpy(values).flatten(0, 1)
    row, column = at // width, at % width
    above, below = ((row + step).clamp(0, height - 1) * width + column for step in (-distance, distance))
    left, right = (row * width + (column + step).clamp(0, width - 1) for step in (-distance, distance))
    sides = flat[left], flat[right]
    return torch.cat([flat[above], flat[below], torch.maximum(*sides), torch.minimum(*sides)], dim=1).T


def _at(values: NDArray[np.float32], at: Tensor) -> Tensor:
    """(C, N): values of (h, w, C) at cells."""
    return torch.from_numpy(values).flatten(0, 1)[at].T.contiguous()


def _half_size(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(2 h, 2 w, C) averaged to (h, w, C)."""
    size = (values.shape[1] // 2, values.shape[0] // 2)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA))


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    shrinks = image.shape[0] >= size[0]
    small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def _gradients(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w, 4): the structure tensor's xx, yy, xy, and the gradient's length."""
    down, across = np.gradient(light)
    squares = across * across, down * down
    return np.asarray(cv2.merge([*squares, across * down, cv2.sqrt(squares[0] + squares[1])]))


def _texture(tensor: Tensor) -> Tensor:
    """(4, N) orientation (vertical or horizontal, diagonal), energy and edges from a pooled structure tensor."""
    across, down, mixed, length = tensor
    energy = across + down + _LEAST_ENERGY
    return torch.stack([(across - down) / energy, (2 * mixed / energy).abs(), energy.log() / 4, 10 * length])


def _deviation(mean: Tensor, square: Tensor) -> Tensor:
    return (square - mean.square()).clamp_min(1e-6).sqrt()


def _position(grid: tuple[int, int], at: Tensor) -> Tensor:
    rows = torch.linspace(-1, 1, grid[0])[at // grid[1]]
    columns = torch.linspace(-1, 1, grid[1])[at % grid[1]]
    return torch.stack([rows, columns, columns.abs(), torch.hypot(rows, columns)])
