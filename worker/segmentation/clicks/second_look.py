"""What each cell has to do with the core of a first guess: a guess knows how large the thing is, a click does not."""

from __future__ import annotations

import numpy as np

from worker.segmentation.clicks.evidence import (
    COLOUR_UNIT,
    Marks,
    area_nearer,
    distances,
    edge_costs,
    in_box,
    least_step,
    nearest,
    path_lengths,
    seeds,
    similarity,
    widest_step,
)
from worker.segmentation.clicks.scene import ClickScene
from worker.segmentation.clicks.superpixels import Floats

_CORE = 0.75  # probability, relative to the highest, along the whole way from a click
_SURROUND_REACH, _SURROUND = 2.5, 0.3  # radii of the core; probability below which a cell near it is not the thing
_FAR = 4.0  # radii of the core beyond which distance no longer counts
_LEAST_DEVIATION = 3.0  # Lab
_MOST_LOGIT, _MOST_DEVIATIONS = 8.0, 8.0


def describe_again(scene: ClickScene, marks: Marks, class_index: int | None, guess: Floats) -> Floats:
    """Describe every cell by its relation to the core of a guess: (n, f) float32.

    Args:
        scene: the image.
        marks: the prompt.
        class_index: of the label; None = any thing.
        guess: (n,) float32 probability of each cell in the first look.
    """
    cells = scene.cells
    positive, _ = seeds(scene, marks)
    reached = 1 - least_step(cells, 1 - np.minimum(guess[cells.ends[0]], guess[cells.ends[1]]), positive)
    reached[positive] = guess[positive]
    core = np.flatnonzero(reached >= _CORE * max(float(reached.max()), 1e-3))
    weight = cells.area[core] / cells.area[core].sum()
    radius = float(np.sqrt(cells.area[core].sum() / np.pi) / max(cells.labels.shape))
    away = nearest(cells.centre, core, 1.0) / max(radius, 1e-3)
    surround = np.flatnonzero((guess < _SURROUND) & (away < _SURROUND_REACH))
    colour = weight @ cells.colour[core]
    deviation = np.sqrt(weight @ np.square(cells.colour[core] - colour)) + _LEAST_DEVIATION
    posterior = scene.posterior_of(class_index)
    likely = np.zeros(cells.count, dtype=np.float32) if posterior is None else posterior
    at_core = float(weight @ likely[core])
    one = np.ones(cells.count, dtype=np.float32)
    near = cells.neighbours.cell
    logit = np.log(np.clip(guess, 1e-4, 1 - 1e-4) / (1 - np.clip(guess, 1e-4, 1 - 1e-4)))
    columns = [
        np.clip(logit, -_MOST_LOGIT, _MOST_LOGIT) / 4, guess[near].mean(axis=0),
        reached, area_nearer(cells, 1 - reached), distances(cells.colour, colour) / COLOUR_UNIT,
        np.minimum(distances(cells.colour / deviation, colour / deviation), _MOST_DEVIATIONS),
        nearest(cells.colour / COLOUR_UNIT, core, 3.0), nearest(cells.colour / COLOUR_UNIT, surround, 3.0),
        *(values @ _unit(weight @ values[core]) for values in scene.features),
        *(similarity(values, surround) for values in scene.features[:2]),
        *np.log1p(4 * path_lengths(cells, edge_costs(scene, likely)[:3], core)),
        np.log1p(4 * widest_step(cells, core)),
        np.minimum(away, _FAR), one * np.log10(radius),
        likely, one * at_core, likely * at_core, one * (posterior is not None),
        2 * marks.current - marks.corrects, marks.depth, one * marks.corrects,
        marks.inside, one * marks.boxed, *in_box(cells, marks),
        np.minimum(nearest(cells.centre, marks.negative, 1.0) / max(radius, 1e-3), _FAR),
        similarity(scene.features[0], marks.negative), similarity(scene.features[1], marks.negative),
        one * float(weight @ guess[core]), one * np.log1p(len(marks.positive)), one * np.log1p(len(marks.negative)),
    ]  # fmt: skip
    return np.stack(columns, axis=1).astype(np.float32)


def _unit(vector: Floats) -> Floats:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6))
