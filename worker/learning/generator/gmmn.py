"""The baseline generator: a generative moment matching network (Li et al., ICML 2015) with a label vector beside the
noise, as ZS3Net has it (Bucher et al., NeurIPS 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worker.learning.generator.feature_generator import FeatureGenerator

_SLOPE, _DROPOUT = 0.2, 0.4


class GmmnGenerator(FeatureGenerator):
    """Holds a perceptron with one hidden layer over a projected label vector and as much noise.

    Args:
        text_width: T of the label vectors.
        width: D of the vectors.
    """

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__(text_width, width, noises=1)
        self.layers = nn.Sequential(
            nn.Linear(2 * width, width), nn.LeakyReLU(_SLOPE), nn.Dropout(_DROPOUT), nn.Linear(width, width)
        )

    def generate(self, labels: Tensor, noise: Tensor) -> Tensor:
        """(C, D) projected label vectors and (C, 1, D) noise to (C, D)."""
        return torch.as_tensor(self.layers(torch.cat([labels, noise[:, 0]], dim=1)))
