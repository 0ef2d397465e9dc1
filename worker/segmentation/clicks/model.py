"""The small network that decides from its description how likely a cell belongs to the thing that is clicked on.

Its weights are shipped; `python -m worker.lab.evaluation.fit_clicks` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files

import numpy as np
from safetensors.numpy import load_file

from worker.segmentation.clicks.superpixels import Floats

WEIGHTS = "weights.safetensors"
"""File of the shipped weights, in this package."""


@dataclass(frozen=True)
class ClickModel:
    """Fully connected layers with rectified units between them, on standardised inputs.

    Attributes:
        mean: (f,) float32 of the inputs.
        deviation: (f,) float32 standard deviation of the inputs.
        layers: (weights (out, in), bias (out,)) of each layer; the last has one output.
    """

    mean: Floats
    deviation: Floats
    layers: tuple[tuple[Floats, Floats], ...]

    @staticmethod
    @lru_cache(maxsize=1)
    def shipped() -> ClickModel:
        """The one whose weights are shipped."""
        with as_file(files(__package__) / WEIGHTS) as path:
            return ClickModel.of(load_file(path))

    @staticmethod
    def of(arrays: dict[str, Floats]) -> ClickModel:
        """Make one of named arrays: mean, deviation, weight0, bias0, weight1, ..."""
        arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
        count = sum(name.startswith("weight") for name in arrays)
        layers = tuple((arrays[f"weight{k}"], arrays[f"bias{k}"]) for k in range(count))
        return ClickModel(arrays["mean"], arrays["deviation"], layers)

    def logits(self, described: Floats) -> Floats:
        """Log-odds (n,) of cells (n, f) to belong to the thing."""
        values = (described - self.mean) / self.deviation
        for weights, bias in self.layers[:-1]:
            values = np.maximum(values @ weights.T + bias, 0)
        weights, bias = self.layers[-1]
        return np.asarray((values @ weights.T + bias)[:, 0])
