"""What a picture looks like around each cell of a grid: colour, its spread, texture and place, at five sizes.

Descriptors do not change when the picture is mirrored left to right, other than by the place. It must not know about
models or labels.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_REACHES = (0.012, 0.03, 0.06, 0.12, 0.25)  # radii of the windows, in long sides of the grid
_FAR = (1, 2, 3)  # of those, the ones whose neighbours above, below and beside are looked at
_LIGHT, _CHROMA = 50.0, 40.0  # of Lab, what counts as 1
_FLAT = 1e-5  # energy of gradients below which there is no orientation
PLACES = 4  # the last columns: row, column, distances from the middle


def describe(image: NDArray[np.uint8], grid: tuple[int, int], at: Tensor | None = None) -> Tensor:
    """Describe cells of a grid laid over a picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        grid: (h, w) cells.
        at: (N,) int64 cells to describe, row by row; None = all.

    Returns:
        (F, N) float32, each of about unit size; the last `PLACES` say where a cell is.
    """
    at = torch.arange(grid[0] * grid[1]) if at is None else at
    fine = _resized(image, (2 * grid[0], 2 * grid[1]))
    lab = cv2.cvtColor(fine, cv2.COLOR_RGB2LAB) / np.array([_LIGHT, _CHROMA, _CHROMA], dtype=np.float32)
    lab[..., 0] -= 1
    stacked = np.concatenate([_halved(some) for some in (lab, lab * lab, _gradients(lab[..., 0]))], axis=2)
    here = _taken(stacked, at)
    average = torch.from_numpy(stacked[..., :3].mean(axis=(0, 1), dtype=np.float32))[:, None]
    values = [_taken(_halved(fine), at), here[:3], here[:3] - average, _deviation(here[:3], here[3:6])]
    means, beside_it = [], []
    for number, reach in enumerate(_REACHES):
        radius = max(1, round(reach * max(grid)))
        window = window_mean(stacked, radius)
        near = _taken(window, at)
        means.append(near[:3])
        values += [near[:3], _deviation(near[:3], near[3:6]), _texture(near[6:])]
        if number in _FAR:
            beside_it.append(_beside(window[..., :3], 2 * radius, at))
    values.append(means[0] - means[len(means) // 2])
    return torch.cat([*values, *beside_it, _place(grid, at)])


def window_mean(values: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """Mean of (h, w, C) over windows of 2 radius + 1 cells, shorter at the borders."""
    total = cv2.boxFilter(values, -1, (2 * radius + 1,) * 2, normalize=False, borderType=cv2.BORDER_CONSTANT)
    rows, columns = (_in_reach(size, radius) for size in values.shape[:2])
    return np.asarray(total / (rows[:, None] * columns)[..., None], dtype=np.float32)


def _in_reach(size: int, radius: int) -> NDArray[np.float32]:
    """(size,): how many of so many places are within the radius of each."""
    place = np.arange(size, dtype=np.float32)
    return np.asarray(np.minimum(place + radius, size - 1) - np.maximum(place - radius, 0) + 1)


def _beside(values: NDArray[np.float32], distance: int, at: Tensor) -> Tensor:
    """(4 C, N): what (h, w, C) is above, below, and on the sides of cells: the larger and the smaller of the two."""
    (height, width), flat = values.shape[:2], torch.from_numpy(values).flatten(0, 1)
    row, column = at // width, at % width
    above, below = ((row + step).clamp(0, height - 1) * width + column for step in (-distance, distance))
    left, right = (row * width + (column + step).clamp(0, width - 1) for step in (-distance, distance))
    sides = flat[left], flat[right]
    return torch.cat([flat[above], flat[below], torch.maximum(*sides), torch.minimum(*sides)], dim=1).T


def _taken(values: NDArray[np.float32], at: Tensor) -> Tensor:
    """(C, N): cells of (h, w, C), a row of each channel."""
    return torch.from_numpy(values).flatten(0, 1)[at].T.contiguous()


def _halved(values: NDArray[np.float32]) -> NDArray[np.float32]:
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
    """(4, h, w) orientation (upright or level, diagonal), energy and edges out of a pooled structure tensor."""
    across, down, mixed, length = tensor
    energy = across + down + _FLAT
    return torch.stack([(across - down) / energy, (2 * mixed / energy).abs(), energy.log() / 4, 10 * length])


def _deviation(mean: Tensor, square: Tensor) -> Tensor:
    return (square - mean.square()).clamp_min(1e-6).sqrt()


def _place(grid: tuple[int, int], at: Tensor) -> Tensor:
    rows = torch.linspace(-1, 1, grid[0])[at // grid[1]]
    columns = torch.linspace(-1, 1, grid[1])[at % grid[1]]
    return torch.stack([rows, columns, columns.abs(), torch.hypot(rows, columns)])
