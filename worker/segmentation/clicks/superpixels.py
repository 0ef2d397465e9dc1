"""An image as some thousand small cells whose borders follow its outlines, and the graph of which cells touch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.segmentation.pictures import RGBImage

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

CELLS = 2500
"""About how many cells an image has."""

_SMOOTHING = 0.7  # pixels, standard deviation of the blur before cells are grown
_ROUNDS = 2  # in which border pixels go to the neighbouring cell whose colour is nearest
_MOST_NEIGHBOURS = 8


@dataclass(frozen=True)
class Superpixels:
    """Cells of an image of (h, w) pixels.

    Attributes:
        labels: (h, w) int32 number of each pixel's cell, 0 to n - 1.
        area: (n,) float32 pixels.
        centre: (n, 2) float32 mean x and y, as parts of the long side.
        colour: (n, 3) float32 mean Lab.
        ends: (2, e) int64 cells that touch, each pair once.
        gradient: (e,) float32 mean Lab distance of the pixels on both sides of their common border.
        length: (e,) float32 pixels of the common border.
    """

    labels: NDArray[np.int32]
    area: Floats
    centre: Floats
    colour: Floats
    ends: Ints
    gradient: Floats
    length: Floats

    @property
    def count(self) -> int:
        """n."""
        return len(self.area)

    def mean(self, values: Floats) -> Floats:
        """Average (h, w) values over each cell: (n,)."""
        sums = np.bincount(self.labels.ravel(), values.ravel().astype(np.float64), minlength=self.count)
        return (sums / self.area).astype(np.float32)

    @cached_property
    def neighbours(self) -> Neighbours:
        """The cells that each touches along most of its border."""
        source, target = np.concatenate([self.ends, self.ends[::-1]], axis=1)
        length = np.tile(self.length, 2)
        order = np.lexsort((-length, target))
        starts = np.searchsorted(target[order], np.arange(self.count))
        place = np.arange(len(order)) - starts[target[order]]
        kept = place < _MOST_NEIGHBOURS
        cell = np.tile(np.arange(self.count), (_MOST_NEIGHBOURS, 1))
        edge = np.full(cell.shape, self.ends.shape[1])
        where = place[kept], target[order][kept]
        cell[where] = source[order][kept]
        edge[where] = np.tile(np.arange(self.ends.shape[1]), 2)[order][kept]
        return Neighbours(cell, edge)


@dataclass(frozen=True)
class Neighbours:
    """A table of neighbours; where a cell has fewer, it stands for itself.

    Attributes:
        cell: (m, n) int64 numbers of the cells.
        edge: (m, n) int64 numbers of the pairs, e for itself.
    """

    cell: Ints
    edge: Ints


def superpixels(image: RGBImage, count: int = CELLS) -> Superpixels:
    """Cut an image, (h, w, 3) uint8 RGB, into about `count` cells by a watershed from a grid of seeds."""
    blurred = cv2.GaussianBlur(image, (0, 0), _SMOOTHING)
    lab = cv2.cvtColor(blurred.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    scaled = np.clip(2 * lab + np.array([20, 128, 128]), 0, 255).astype(np.uint8)
    seeds = _seeds(lab, count)
    # A watershed leaves out the border of its image, so it gets one of one more pixel.
    framed = cv2.copyMakeBorder(scaled, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    markers = cv2.watershed(framed, np.pad(seeds, 1))[1:-1, 1:-1]
    labels = _without_gaps(markers, lab, int(seeds.max()))
    return _measured(labels, lab)


def _seeds(lab: Floats, count: int) -> NDArray[np.int32]:
    """(h, w) int32 with numbers from 1 on a hexagonal grid, each at the smoothest of the nearest pixels."""
    height, width = lab.shape[:2]
    side = max(1.0, (height * width / count) ** 0.5)
    rows, columns = max(1, round(height / side)), max(1, round(width / side))
    row, column = np.divmod(np.arange(rows * columns), columns)
    y = ((row + 0.5) * height / rows).astype(np.int64)
    x = ((column + 0.5 + 0.25 * (2 * (row % 2) - 1)) * width / columns).astype(np.int64)
    slope = sum(np.abs(cv2.Sobel(lab, cv2.CV_32F, *order)).sum(axis=-1) for order in ((1, 0), (0, 1)))
    reach = max(0, int(side / 4))
    shifts = np.arange(-reach, reach + 1)
    near_y = np.clip(y[:, None, None] + shifts[:, None], 0, height - 1)  # (n, s, 1)
    near_x = np.clip(x[:, None, None] + shifts, 0, width - 1)  # (n, 1, s)
    best = slope[near_y, near_x].reshape(len(y), -1).argmin(axis=1)
    down, right = np.divmod(best, len(shifts))
    number = np.arange(len(y))
    y, x = near_y[number, down, 0], near_x[number, 0, right]
    found = np.zeros((height, width), dtype=np.int32)
    found[y, x] = np.arange(1, len(y) + 1)
    return found


def _without_gaps(markers: NDArray[np.int32], lab: Floats, count: int) -> NDArray[np.int32]:
    """Give the lines between basins to the neighbouring cell of the nearest mean colour."""
    labels = np.where(markers > 0, markers, 0).astype(np.int32)
    for _ in range(_ROUNDS):
        waiting = labels == 0
        if not waiting.any():
            break
        flat = np.bincount(labels.ravel(), minlength=count + 1).astype(np.float32)
        colour = np.stack([np.bincount(labels.ravel(), lab[..., k].ravel(), minlength=count + 1) for k in range(3)], -1)
        colour = (colour / np.maximum(flat, 1)[:, None]).astype(np.float32)
        padded = np.pad(labels, 1)
        y, x = np.nonzero(waiting)
        near = np.stack([padded[y + 1 + dy, x + 1 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx])
        away = np.square(colour[near] - lab[y, x]).sum(axis=-1)
        away[near == 0] = np.inf
        best = away.argmin(axis=0)
        labels[y, x] = near[best, np.arange(len(y))]
    while (labels == 0).any():
        grown = cv2.dilate(labels.astype(np.float32), np.ones((3, 3))).astype(np.int32)
        labels = np.where(labels == 0, grown, labels)
    return labels


def _measured(labels: NDArray[np.int32], lab: Floats) -> Superpixels:
    present, numbered = np.unique(labels, return_inverse=True)
    labels, count = numbered.reshape(labels.shape).astype(np.int32), len(present)
    flat = labels.ravel()
    area = np.bincount(flat, minlength=count).astype(np.float32)

    def mean(values: Floats) -> NDArray[np.float64]:
        return np.bincount(flat, values.ravel(), minlength=count) / area

    height, width = labels.shape
    y, x = np.mgrid[:height, :width].astype(np.float32) + 0.5
    centre = np.stack([mean(x), mean(y)], axis=-1) / max(height, width)
    colour = np.stack([mean(lab[..., k]) for k in range(3)], axis=-1)
    one, other, steps = [], [], []
    for here, there in (((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
                        ((slice(None, -1), slice(None)), (slice(1, None), slice(None)))):  # fmt: skip
        meeting = labels[here] != labels[there]
        one.append(labels[here][meeting])
        other.append(labels[there][meeting])
        steps.append(np.sqrt(np.square(lab[here][meeting] - lab[there][meeting]).sum(axis=-1)))
    low, high = np.minimum(*(pair := (np.concatenate(one), np.concatenate(other)))), np.maximum(*pair)
    keys, edge = np.unique(low.astype(np.int64) * count + high, return_inverse=True)
    length = np.bincount(edge, minlength=len(keys))
    gradient = np.bincount(edge, np.concatenate(steps), minlength=len(keys)) / length
    ends = np.stack(np.divmod(keys, count))
    return Superpixels(labels, area, centre.astype(np.float32), colour.astype(np.float32), ends,
                       gradient.astype(np.float32), length.astype(np.float32))  # fmt: skip
