"""Upsample values from a small image to a large one along its edges: the fast guided filter, by matrix products.

K. He and J. Sun, "Fast guided filter", 2015, after He, Sun and Tang, "Guided image filtering", ECCV 2010.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


@dataclass(frozen=True)
class LocalLines:
    """A linear model of the values in each window: value = slope . colour + offset.

    Attributes:
        coefficients: (4, K, h, w) float32: slopes along red, green and blue, then the offset.
    """

    coefficients: Tensor

    def at(self, image: Tensor, rows: slice | None = None, height: int | None = None) -> Tensor:
        """Evaluate the values (K, H, W) at the pixels of an image (3, H, W) in [0, 1].

        Args:
            image: the whole large image, or a strip of its rows.
            rows: which rows those are; None = all.
            height: of the whole large image; None = that of `image`.
        """
        size = (height or image.shape[1], image.shape[2])
        return evaluate(grow_rows(self.coefficients.flatten(0, 1), rows or slice(0, image.shape[1]), size), image)


def evaluate(coefficients: Tensor, image: Tensor) -> Tensor:
    """Evaluate linear functions (4 K, H, W), as in `LocalLines`, at the colours (3, H, W): (K, H, W), in place."""
    parts = coefficients.reshape(4, -1, *coefficients.shape[1:])
    values: Tensor = parts[3]
    for channel in range(3):
        values.addcmul_(parts[channel], image[channel])
    return values


def fit_local_lines(values: Tensor, image: Tensor, *, radius: int, smoothness: float) -> LocalLines:
    """Fit values (K, h, w) by linear functions of the colours (3, h, w) in [0, 1], in windows of 2 radius + 1.

    Args:
        smoothness: variance of colour below which a window counts as flat.
    """
    count, height, width = values.shape
    boxes = (_box(height, radius).to(values), _box(width, radius).to(values))  # faster than pooling
    products = torch.stack([image[i] * image[j] for i, j in _PAIRS])
    crossed = (image[:, None] * values[None]).flatten(0, 1)
    means = boxes[0] @ torch.cat([image, products, values, crossed]) @ boxes[1].T
    colour, products, mean, crossed = means[:3], means[3:9], means[9 : 9 + count], means[9 + count :]
    covariance = {pair: products[n] - colour[pair[0]] * colour[pair[1]] for n, pair in enumerate(_PAIRS)}
    for channel in range(3):
        covariance[channel, channel] = covariance[channel, channel] + smoothness
    shared = crossed.reshape(3, count, height, width) - colour[:, None] * mean
    slope = _solve_3x3(covariance, shared)
    offset = mean.clone()
    for channel in range(3):
        offset.addcmul_(slope[channel], colour[channel], value=-1)
    smooth = boxes[0] @ torch.cat([slope.flatten(0, 1), offset]) @ boxes[1].T
    return LocalLines(smooth.reshape(4, count, height, width))


def _solve_3x3(matrix: dict[tuple[int, int], Tensor], right: Tensor) -> Tensor:
    """Cramer's rule at every pixel: matrix entries (h, w) by upper index, right (3, K, h, w)."""
    a, b, c, d, e, f = (matrix[pair] for pair in _PAIRS)
    first, second, third = d * f - e * e, c * e - b * f, b * e - c * d
    determinant = a * first + b * second + c * third
    inverse = torch.stack(
        [first, second, third, second, a * f - c * c, b * c - a * e, third, b * c - a * e, a * d - b * b]
    ).div_(determinant)  # fmt: skip
    inverse = inverse.reshape(3, 3, *determinant.shape)
    solved = torch.empty_like(right)
    for row in range(3):
        torch.mul(right[0], inverse[row, 0], out=solved[row])
        for column in (1, 2):
            solved[row].addcmul_(right[column], inverse[row, column])
    return solved


@lru_cache(maxsize=64)
def _box(size: int, radius: int) -> Tensor:
    """(size, size): row i averages the places within `radius` of i; shorter windows at the ends."""
    place = torch.arange(size)
    near = ((place[:, None] - place).abs() <= radius).float()
    return near / near.sum(dim=1, keepdim=True)


def grow_rows(values: Tensor, rows: slice, size: tuple[int, int]) -> Tensor:
    """Some rows (K, rows, W) of the bilinear enlargement of (K, h, w) to size (H, W), half-pixel centres."""
    return RowEnlarger(values, size)(rows)


class RowEnlarger:
    """Holds the wide rows that the next strip of an enlargement needs again: strips are thinner than cells.

    Args:
        values: (K, h, w) float32.
        size: (H, W) to enlarge them to, bilinear, half-pixel centres.
    """

    def __init__(self, values: Tensor, size: tuple[int, int]) -> None:
        self._values, self._size = values, size
        self._first, self._wide = 0, values.new_empty(len(values), 0, size[1])

    def __call__(self, rows: slice) -> Tensor:
        """(K, rows, W); strips come from top to bottom."""
        if rows == slice(0, self._size[0]):
            return F.interpolate(self._values[None], size=self._size, mode="bilinear", align_corners=False)[0]
        small, device = self._values.shape[1], self._values.device
        place = torch.arange(rows.start, rows.stop, device=device, dtype=torch.float32)
        centre = ((place + 0.5) * small / self._size[0] - 0.5).clamp_min(0.0)
        top = centre.floor().long().clamp_max(small - 1)
        first, last = int(top[0]), min(int(top[-1]) + 1, small - 1)
        wide = self._wide_rows(first, last)
        # Only two weights a row are not 0; a matrix product is still several times faster than gathering rows.
        below, mix = (centre - top)[:, None], torch.zeros(len(place), last + 1 - first, device=device)
        mix.scatter_add_(1, (top - first)[:, None], 1 - below)
        mix.scatter_add_(1, ((top + 1).clamp_max(small - 1) - first)[:, None], below)
        return mix @ wide

    def _wide_rows(self, first: int, last: int) -> Tensor:
        """(K, last + 1 - first, W): these rows of the values, enlarged along the row."""
        known = self._wide[:, max(0, first - self._first) :]
        start = first + known.shape[1]
        if start <= last:
            size = (last + 1 - start, self._size[1])
            more = F.interpolate(
                self._values[None, :, start : last + 1], size=size, mode="bilinear", align_corners=False
            )
            known = torch.cat([known, more[0]], dim=1)
        self._first, self._wide = first, known
        return known
