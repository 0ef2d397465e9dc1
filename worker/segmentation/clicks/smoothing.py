"""Probabilities of cells, made to agree across borders at which the image hardly changes."""

from __future__ import annotations

import numpy as np

from worker.segmentation.clicks.superpixels import Floats, Superpixels

_STRENGTH = 0.5
_GRADIENT = 3.0  # Lab distance across a border at which its weight has fallen to exp(-1)
_SWEEPS = 12


def smooth(cells: Superpixels, likely: Floats, *, strength: float = _STRENGTH) -> Floats:
    """Minimise sum (x_i - p_i)^2 + strength sum w_ij (x_i - x_j)^2 over the cells, by damped Jacobi sweeps.

    Args:
        cells: n of them.
        likely: (n,) probabilities p.
        strength: of the agreement.

    Returns:
        (n,) float32.
    """
    near = cells.neighbours
    weight = strength * np.exp(-cells.gradient / _GRADIENT)
    table = np.pad(weight, (0, 1))[near.edge]
    degree = 1 + table.sum(axis=0)
    found = likely.astype(np.float32)
    for _ in range(_SWEEPS):
        found = ((likely + (table * found[near.cell]).sum(axis=0)) / degree).astype(np.float32)
    return found
