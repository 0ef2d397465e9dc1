"""Two small networks that decide from descriptions of the cells which of them are the thing that is clicked on.

Their weights are shipped; `python -m worker.lab.evaluation.fit_clicks` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files

import numpy as np
from safetensors.numpy import load_file

from worker.segmentation.clicks.superpixels import Floats

WEIGHTS = "weights.safetensors"
"""File of the shipped weights, in this package: those of the first look and of the second."""

FIRST, SECOND = "first.", "second."
"""What the names of their arrays begin with."""


@dataclass(frozen=True)
class Layers:
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
    def of(arrays: Mapping[str, Floats]) -> Layers:
        """Make them of named arrays: mean, deviation, weight0, bias0, weight1, ..."""
        arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
        count = sum(name.startswith("weight") for name in arrays)
        layers = tuple((arrays[f"weight{k}"], arrays[f"bias{k}"]) for k in range(count))
        return Layers(arrays["mean"], arrays["deviation"], layers)

    def logits(self, described: Floats) -> Floats:
        """Log-odds (n,) of cells (n, f) to belong to the thing."""
        values = (described - self.mean) / self.deviation
        for weights, bias in self.layers[:-1]:
            values = np.maximum(values @ weights.T + bias, 0)
        weights, bias = self.layers[-1]
        return np.asarray((values @ weights.T + bias)[:, 0])


@dataclass(frozen=True)
class ClickModel:
    """Both networks.

    Attributes:
        first: guesses from the clicks.
        second: decides from the guess; None while only the first is fitted.
    """

    first: Layers
    second: Layers | None = None

    @staticmethod
    @lru_cache(maxsize=1)
    def shipped() -> ClickModel:
        """The one whose weights are shipped."""
        with as_file(files(__package__) / WEIGHTS) as path:
            arrays = load_file(path)
        first, second = (
            {name.removeprefix(look): values for name, values in arrays.items() if name.startswith(look)}
            for look in (FIRST, SECOND)
        )
        return ClickModel(Layers.of(first), Layers.of(second) if second else None)
