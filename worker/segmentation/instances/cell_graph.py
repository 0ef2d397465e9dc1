"""One component of a class map as a graph of some hundred cells, weighted by the similarity of colour and texture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

_CELLS = 220  # per component; the eigenvector costs the cube of this
_MIN_CELLS = 40  # below this a component is too thin or too small for a graph
_REACH = 3  # cells within which two are joined
_BLUR = 1.5  # cells over which colour and texture are averaged, so that stripes are one texture and not many things
_SCALE = 6.0  # Lab distance at which an edge weight has fallen to exp(-1/2)
_FLOOR = 1e-3
_OFFSETS = tuple(
    (down, right)
    for down in range(_REACH + 1)
    for right in range(-_REACH, _REACH + 1)
    if (down > 0 or right > 0) and down**2 + right**2 <= _REACH**2
)
_DISTANCES = np.hypot(*np.array(_OFFSETS, dtype=np.float32).T)


@dataclass(frozen=True)
class Cells:
    """A component sampled on a coarse grid of its own.

    Attributes:
        inside: (h, w) bool: the cells that belong to the component.
        features: (h, w, F) float32 averaged colour and texture, in units of Lab.
        gradient: (h, w) float32 magnitude of the gradient of the image's colours.
        crop: rows and columns of the image that the grid spans.
    """

    inside: Mask
    features: Floats
    gradient: Floats
    crop: tuple[slice, slice]


@dataclass(frozen=True)
class CellGraph:
    """The graph of a component with N cells and E edges.

    Attributes:
        ends: (2, E) int64 numbers of the cells that each edge joins.
        weights: (E,) float64.
        count: number of cells, N.
    """

    ends: NDArray[np.int64]
    weights: NDArray[np.float64]
    count: int

    @cached_property
    def degree(self) -> NDArray[np.float64]:
        """(N,) sum of the edge weights at each cell."""
        one, other = (np.bincount(end, self.weights, minlength=self.count) for end in self.ends)
        return np.asarray(one + other + 1e-9)


def sample_cells(mask: Mask, image: NDArray[np.uint8]) -> Cells | None:
    """Sample a component on a grid of about 220 cells.

    Args:
        mask: (h, w) bool.
        image: (h, w, 3) uint8 RGB, the same pixels.

    Returns:
        The cells; None if there are too few for a graph.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    crop = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    cropped = mask[crop]
    side = max(1.0, (np.count_nonzero(cropped) / _CELLS) ** 0.5)
    size = (max(2, round(cropped.shape[0] / side)), max(2, round(cropped.shape[1] / side)))
    inside = _resize(cropped.astype(np.float32), size) >= 0.5
    if np.count_nonzero(inside) < _MIN_CELLS:
        return None
    # Two samples per cell and axis, so that fine texture is measured before it is averaged.
    double = (2 * size[0], 2 * size[1])
    lab = cv2.cvtColor(_resize(image[crop], double).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    weight = _resize(cropped.astype(np.float32), double)[..., None]
    features, gradient = _describe(lab, weight)
    return Cells(inside, _resize(features, size), _resize(gradient, size), crop)


def _describe(lab: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Compute mean colour, roughness and stripe direction, (h, w, 6), and the gradient magnitude of these, (h, w)."""
    light = lab[..., 0]
    across, down = cv2.Sobel(light, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(light, cv2.CV_32F, 0, 1, scale=0.125)
    stacked = np.concatenate([lab, np.stack([light**2, across**2 - down**2, 2 * across * down], axis=-1)], axis=-1)
    mean = _weighted_blur(stacked, weight)
    rough = np.sqrt(np.maximum(mean[..., 3] - mean[..., 0] ** 2, 0))
    energy = np.hypot(mean[..., 4], mean[..., 5])
    stripes = mean[..., 4:6] / np.sqrt(energy + 1.0)[..., None]  # in units of Lab, like the others
    features = np.concatenate([mean[..., :3], rough[..., None], stripes], axis=-1)
    leading = np.ascontiguousarray(features[..., :4])  # OpenCV takes at most four channels
    slopes = np.concatenate([cv2.Sobel(leading, cv2.CV_32F, *order) for order in ((1, 0), (0, 1))], axis=-1)
    return features, np.asarray(np.sqrt(np.square(slopes).sum(axis=-1)))


def _weighted_blur(values: Floats, weight: Floats) -> Floats:
    """Gaussian average of values (h, w, F) with weights (h, w, 1), so that only the component counts."""
    sigma = 2 * _BLUR
    total = cv2.GaussianBlur(values * weight, (0, 0), sigma)
    return np.asarray(total / np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-3)[..., None], dtype=np.float32)


def _resize(values: NDArray[np.generic], size: tuple[int, int]) -> Floats:
    """Resize to (h, w) by averaging over areas."""
    return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_AREA))


def build_graph(cells: Cells) -> CellGraph:
    """Join cells within reach; weights are a Gaussian of feature distance, plus a floor that keeps the graph connected,
    over the distance of the cells."""
    inside = np.pad(cells.inside, _REACH)  # so that no neighbour lies beyond the grid
    position = np.flatnonzero(inside)
    number = np.full(inside.size, -1)
    number[position] = np.arange(position.size)
    shifts = np.array([down * inside.shape[1] + right for down, right in _OFFSETS])
    neighbour = number[position + shifts[:, None]]  # (S, N)
    offset, one = np.nonzero(neighbour >= 0)
    other = neighbour[offset, one]
    features = cells.features[cells.inside]
    squared_distance = np.square(features[one] - features[other]).sum(axis=-1)
    weights = (np.exp(squared_distance / (-2 * _SCALE**2)) + _FLOOR) / _DISTANCES[offset]
    return CellGraph(np.stack([one, other]), weights, position.size)
