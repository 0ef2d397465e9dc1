"""One component of a class map as a graph of some hundred cells, joined by how alike they look.

It must not know what the graph is cut for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

_CELLS = 220  # of a component; what follows costs as much as the cube of it
_FEWEST = 40  # cells below which a component is too thin or too small for a graph
_REACH = 3  # cells: who is a neighbour
_BLUR = 1.5  # cells: over which colour and texture are averaged, so that stripes are one texture and not many things
_SCALE = 6.0  # Lab distance at which affinity has fallen to exp(-1/2)
_FLOOR = 1e-3
_NEIGHBOURS = tuple(
    (down, right)
    for down in range(_REACH + 1)
    for right in range(-_REACH, _REACH + 1)
    if (down > 0 or right > 0) and down**2 + right**2 <= _REACH**2
)
_DISTANCES = np.hypot(*np.array(_NEIGHBOURS, dtype=np.float32).T)


@dataclass(frozen=True)
class Cells:
    """A component on a grid of its own.

    Attributes:
        inside: (h, w) bool.
        features: (h, w, F) float32 averaged colour and texture, in units of Lab.
        steepness: (h, w) float32 of the picture's colours.
        window: rows and columns of the image that the grid spans.
    """

    inside: Mask
    features: Floats
    steepness: Floats
    window: tuple[slice, slice]


@dataclass(frozen=True)
class Edges:
    """The graph of a component: `ends` (2, E) numbers of cells, `weights` (E,), `count` cells.

    `touching` (E,) bool: whether the two cells are next to each other; longer edges leap across notches of the outline.
    """

    ends: NDArray[np.int64]
    weights: NDArray[np.float64]
    count: int
    touching: Mask

    def even_cut(self, chosen: Mask) -> float:
        """The normalised cut between the cells `chosen`, (N,) bool, and the rest, of cells that touch, all alike."""
        one, other = chosen[self.ends[:, self.touching]]
        parted, within = int(np.count_nonzero(one != other)), int(np.count_nonzero(one & other))
        volume, whole = parted + 2 * within, 2 * one.size
        return float(parted / max(volume, 1) + parted / max(whole - volume, 1))

    @cached_property
    def degree(self) -> NDArray[np.float64]:
        """(N,) sum of the weights at each cell."""
        one, other = (np.bincount(end, self.weights, minlength=self.count) for end in self.ends)
        return np.asarray(one + other + 1e-9)


def cells_of(mask: Mask, image: NDArray[np.uint8]) -> Cells | None:
    """The cells of a component, (h, w) bool, in its picture, (h, w, 3) uint8 RGB; None when they are too few."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    crop = mask[window]
    side = max(1.0, (np.count_nonzero(crop) / _CELLS) ** 0.5)
    size = (max(2, round(crop.shape[0] / side)), max(2, round(crop.shape[1] / side)))
    inside = _shrunk(crop.astype(np.float32), size) >= 0.5
    if np.count_nonzero(inside) < _FEWEST:
        return None
    # Two samples a cell, so that fine texture is seen before it is averaged.
    double = (2 * size[0], 2 * size[1])
    lab = cv2.cvtColor(_shrunk(image[window], double).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    weight = _shrunk(crop.astype(np.float32), double)[..., None]
    features, steepness = _describe(lab, weight)
    return Cells(inside, _shrunk(features, size), _shrunk(steepness, size), window)


def _describe(lab: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Averaged colour, its roughness and the direction of its stripes, (h, w, 6); and the steepness, (h, w)."""
    light = lab[..., 0]
    across, down = cv2.Sobel(light, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(light, cv2.CV_32F, 0, 1, scale=0.125)
    stacked = np.concatenate([lab, np.stack([light**2, across**2 - down**2, 2 * across * down], axis=-1)], axis=-1)
    mean = _averaged(stacked, weight)
    rough = np.sqrt(np.maximum(mean[..., 3] - mean[..., 0] ** 2, 0))
    energy = np.hypot(mean[..., 4], mean[..., 5])
    stripes = mean[..., 4:6] / np.sqrt(energy + 1.0)[..., None]  # in grey levels, like the others
    features = np.concatenate([mean[..., :3], rough[..., None], stripes], axis=-1)
    shown = np.ascontiguousarray(features[..., :4])  # OpenCV takes four channels at once
    slopes = np.concatenate([cv2.Sobel(shown, cv2.CV_32F, *way) for way in ((1, 0), (0, 1))], axis=-1)
    return features, np.asarray(np.sqrt(np.square(slopes).sum(axis=-1)))


def _averaged(values: Floats, weight: Floats) -> Floats:
    """Gaussian average over what lies in the component; values (h, w, F), weight (h, w, 1)."""
    sigma = 2 * _BLUR
    total = cv2.GaussianBlur(values * weight, (0, 0), sigma)
    return np.asarray(total / np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-3)[..., None], dtype=np.float32)


def _shrunk(values: NDArray[np.generic], size: tuple[int, int]) -> Floats:
    return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_AREA))


def edges_of(cells: Cells) -> Edges:
    """Neighbours within reach: the weight is a Gaussian of their features; a floor keeps the graph in one piece."""
    inside = np.pad(cells.inside, _REACH)  # so that no neighbour lies beyond the grid
    place = np.flatnonzero(inside)
    number = np.full(inside.size, -1)
    number[place] = np.arange(place.size)
    away = np.array([down * inside.shape[1] + right for down, right in _NEIGHBOURS])
    neighbour = number[place + away[:, None]]  # (S, N)
    shift, one = np.nonzero(neighbour >= 0)
    other = neighbour[shift, one]
    features = cells.features[cells.inside]
    apart = np.square(features[one] - features[other]).sum(axis=-1)
    weights = (np.exp(apart / (-2 * _SCALE**2)) + _FLOOR) / _DISTANCES[shift]
    return Edges(np.stack([one, other]), weights, place.size, (_DISTANCES < 2)[shift])
