"""What the generators have in common: projected label vectors and noise in, vectors like those of the segmenter out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class FeatureGenerator(nn.Module, ABC):
    """Holds the projection of label vectors. Labels are the batch: none has an influence on what another one gets.

    Args:
        text_width: T of the label vectors.
        width: D of what is generated.
        noises: how many noise vectors of width D each label takes.
    """

    def __init__(self, text_width: int, width: int, noises: int) -> None:
        super().__init__()
        self.projection = nn.Linear(text_width, width)
        self.noises = noises

    @property
    def width(self) -> int:
        """D."""
        return self.projection.out_features

    def draw_noise(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw (count, noises, D) standard normal numbers; the noise of a label is a row, so that it moves with it."""
        place = self.projection.weight.device
        drawn_on = place if generator is None else generator.device
        return torch.randn(count, self.noises, self.width, generator=generator, device=drawn_on).to(place)

    def forward(self, texts: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Generate one vector for each label.

        Args:
            texts: (C, T) float32 label vectors; a label may stand there several times.
            noise: (C, noises, D); None = drawn anew, in training and afterwards.
            generator: that it is drawn from; None = the global one.

        Returns:
            (C, D) float32.
        """
        return self.generate(self.projection(texts), self.draw_noise(len(texts), generator) if noise is None else noise)

    @abstractmethod
    def generate(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Generate from (C, D) projected label vectors and (C, noises, D) noise."""
