"""What each cell of an image has to do with the clicks: what the first look of the model sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.segmentation.clicks.prompts import Point, Prompt, pixel_of, pixels_in
from worker.segmentation.clicks.scene import ClickScene
from worker.segmentation.clicks.superpixels import Floats, Ints, Superpixels

_STEP = 0.02  # added to the cost of each edge, so that a path costs something where nothing changes
_MOST_STEPS = 120  # cells that a path may cross
_FAR = 3.0  # distance of what has no path, or no click to come from
COLOUR_UNIT = 20.0  # Lab


@dataclass(frozen=True)
class Marks:
    """A prompt on the cells of an image.

    Attributes:
        positive: cells of the positive clicks.
        negative: cells of the negative clicks.
        inside: (n,) float32 share of each cell that lies in the boxes; all 1 without boxes.
        boxed: whether there are boxes.
        current: (n,) float32 share of each cell that lies in the mask to be corrected.
        corrects: whether there is one.
        depth: (n,) float32 how far inside (above 0) or outside its border each cell is, in radii of that mask.
    """

    positive: Ints
    negative: Ints
    inside: Floats
    boxed: bool
    current: Floats
    corrects: bool
    depth: Floats


def read_marks(scene: ClickScene, prompt: Prompt, current: NDArray[np.bool_] | None) -> Marks:
    """Find the cells of a checked prompt, and those of the (H, W) bool mask that it corrects."""
    cells, size = scene.cells, scene.size
    scale = np.array(cells.labels.shape) / size

    def cells_of(points: Sequence[Point]) -> Ints:
        pixels = [((np.array(pixel_of(point, size)) + 0.5) * scale).astype(int) for point in points]
        return np.array(list(dict.fromkeys(int(cells.labels[row, column]) for row, column in pixels)), dtype=np.int64)

    positive, negative = cells_of(prompt.positive), cells_of(prompt.negative)
    inside: Floats = np.ones(cells.count, dtype=np.float32)
    if prompt.boxes:
        drawn = np.zeros(size, dtype=np.float32)
        for box in prompt.boxes:
            drawn[pixels_in(box, size)] = 1.0
        inside = _shares(drawn, cells)
    if current is None or not current.any():
        zero = np.zeros(cells.count, dtype=np.float32)
        return Marks(positive, negative, inside, bool(prompt.boxes), zero, False, zero)
    small = _resized(current.astype(np.float32), cells)
    there = (small >= 0.5).astype(np.uint8)
    depth = cv2.distanceTransform(there, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - there, cv2.DIST_L2, 3)
    radius = max(2.0, (float(small.sum()) / np.pi) ** 0.5)
    deep = np.clip(cells.mean(depth.astype(np.float32)) / radius, -2, 2)
    return Marks(positive, negative, inside, bool(prompt.boxes), cells.mean(small), True, deep)


def describe_cells(scene: ClickScene, marks: Marks, class_index: int | None) -> Floats:
    """Describe every cell by its relation to the marks: (n, f) float32.

    Without a positive click, the deepest cells of the box or of the mask stand in for one.
    """
    cells = scene.cells
    positive, negative = seeds(scene, marks)
    columns: list[Floats] = []
    posterior = scene.posterior_of(class_index)
    known = posterior is not None
    likely = np.zeros(cells.count, dtype=np.float32) if posterior is None else posterior
    costs = edge_costs(scene, likely)
    for points in (positive, negative):
        lengths = path_lengths(cells, costs, points)
        columns += [np.log1p(4 * row) for row in lengths]
        columns += [area_nearer(cells, row) for row in lengths[:3]]
        columns.append(np.log1p(4 * widest_step(cells, points)))
        columns.append(nearest(cells.centre, points, 1.0))
        columns.append(nearest(cells.colour / COLOUR_UNIT, points, _FAR))
        columns += [similarity(values, points) for values in scene.features]
    one = np.ones(cells.count, dtype=np.float32)
    at_click = float(likely[positive].mean()) if known and len(positive) else 0.0
    columns += [
        likely, one * at_click, likely * at_click, one * known,
        2 * marks.current - marks.corrects, marks.depth, one * marks.corrects,
        one * (float(marks.current[marks.positive].mean()) if len(marks.positive) else 0.5),
        marks.inside, one * marks.boxed, *in_box(cells, marks),
        one * (len(marks.positive) == 0), one * (len(marks.negative) == 0),
        one * np.log1p(len(marks.positive)), one * np.log1p(len(marks.negative)),
    ]  # fmt: skip
    return np.stack(columns, axis=1).astype(np.float32)


def seeds(scene: ClickScene, marks: Marks) -> tuple[Ints, Ints]:
    """Cells that are certainly inside, and certainly outside, of the thing: those of the clicks, or what stands in."""
    positive, negative = marks.positive, marks.negative
    if not len(positive):
        if marks.boxed:
            across, down = in_box(scene.cells, marks)
            positive = np.argsort(np.maximum(across, down) + (marks.current < 0.5) * marks.corrects)[:3]
        elif marks.corrects:
            away = nearest(scene.cells.centre, negative, 1.0)
            positive = np.argsort(-np.where(marks.current > 0.5, marks.depth + 2 * np.minimum(away, 0.5), -9))[:3]
    if marks.boxed:
        outside = np.flatnonzero(marks.inside < 0.05)
        negative = np.unique(np.concatenate([negative, outside]))
    return positive, negative


def edge_costs(scene: ClickScene, likely: Floats) -> Floats:
    """(4, e) float32 cost of crossing each border: by mean colour, by gradient, by features, by the class."""
    one, other = scene.cells.ends
    colour = np.sqrt(np.square(scene.cells.colour[one] - scene.cells.colour[other]).sum(axis=1)) / COLOUR_UNIT
    alike = sum((values[one] * values[other]).sum(axis=1) for values in scene.features[:2]) / 2
    costs = np.stack([colour, scene.cells.gradient / 5, 1 - alike, np.abs(likely[one] - likely[other])]) + _STEP
    return np.asarray(costs, dtype=np.float32)


def path_lengths(cells: Superpixels, costs: Floats, points: Ints) -> Floats:
    """Lengths of the cheapest paths from some cells to every cell, by each of (k, e) costs: (k, n)."""
    found = np.full((len(costs), cells.count), _FAR, dtype=np.float32)
    step = np.pad(costs, ((0, 0), (0, 1)))[:, cells.neighbours.edge]
    return _spread(found, points, cells.neighbours.cell, lambda before: np.add(before, step, out=before))


def widest_step(cells: Superpixels, points: Ints) -> Floats:
    """Least of the highest gradients that a path to every cell must cross: (n,)."""
    return least_step(cells, np.asarray(cells.gradient / 5, dtype=np.float32), points)


def least_step(cells: Superpixels, costs: Floats, points: Ints) -> Floats:
    """Least of the highest costs, of (e,), that a path from some cells to every cell must cross: (n,)."""
    found: Floats = np.full((1, cells.count), _FAR, dtype=np.float32)
    step = np.pad(costs, (0, 1))[cells.neighbours.edge][None]
    found = _spread(found, points, cells.neighbours.cell, lambda before: np.maximum(before, step, out=before))
    return np.asarray(found[0])


def _spread(found: Floats, points: Ints, near: Ints, cross: Callable[[Floats], Floats]) -> Floats:
    """Relax (k, n) distances from some cells along a table of neighbours (m, n) until nothing changes."""
    if not len(points):
        return found
    found[:, points] = 0
    for number in range(_MOST_STEPS):
        better: Floats = cross(found.take(near, axis=1)).min(axis=1)
        np.minimum(better, found, out=better)
        if number % 4 == 3 and np.array_equal(better, found):
            break
        found = better
    return found


def nearest(values: Floats, points: Ints, far: float) -> Floats:
    """Distance of (n, D) values to those of the nearest of some cells."""
    if not len(points):
        return np.full(len(values), far, dtype=np.float32)
    most = points if len(points) <= 64 else points[:: len(points) // 64]
    own = values[most]
    square = np.square(values).sum(axis=1)[:, None] + np.square(own).sum(axis=1) - 2 * values @ own.T
    return np.asarray(np.sqrt(np.maximum(square.min(axis=1), 0)), dtype=np.float32)


def area_nearer(cells: Superpixels, distance: Floats) -> Floats:
    """Logarithm of the share of the image that is no farther than each cell, 0 for all of it, -1 for a thousandth."""
    order = np.argsort(distance)
    share = np.empty(cells.count, dtype=np.float32)
    share[order] = np.cumsum(cells.area[order]) / cells.area.sum()
    return np.maximum(np.log10(share) / 3, -1.2)


def similarity(values: Floats, points: Ints) -> Floats:
    """Cosine of (n, D) unit vectors with the most similar of some cells."""
    if not len(points):
        return np.zeros(len(values), dtype=np.float32)
    most = points if len(points) <= 64 else points[:: len(points) // 64]
    return np.asarray((values @ values[most].T).max(axis=1))


def distances(values: Floats, point: Floats) -> Floats:
    """(n,) of (n, D) values to a point (D,)."""
    return np.asarray(np.sqrt(np.square(values - point).sum(axis=1)), dtype=np.float32)


def in_box(cells: Superpixels, marks: Marks) -> tuple[Floats, Floats]:
    """How far each cell is from the middle of the boxes' extent, across and down, 1 at the edges; 0 without boxes."""
    if not marks.boxed:
        zero = np.zeros(cells.count, dtype=np.float32)
        return zero, zero
    there = cells.centre[marks.inside > 0.5] if (marks.inside > 0.5).any() else cells.centre[[marks.inside.argmax()]]
    middle, half = (there.max(axis=0) + there.min(axis=0)) / 2, (there.max(axis=0) - there.min(axis=0)) / 2 + 0.01
    across, down = (np.abs(cells.centre - middle) / half).T
    return np.minimum(across, 3), np.minimum(down, 3)


def _resized(values: Floats, cells: Superpixels) -> Floats:
    height, width = cells.labels.shape
    return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA))


def _shares(values: Floats, cells: Superpixels) -> Floats:
    return cells.mean(_resized(values, cells))
