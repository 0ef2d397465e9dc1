"""The primitive generator of PADing (He et al., "Primitive Generation and Semantic-related Alignment for Universal
Zero-Shot Segmentation", CVPR 2023): vectors put together from learned primitives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plugin_config.errors import LearningError
from worker.learning.generator.feature_generator import FeatureGenerator


@dataclass(frozen=True)
class GeneratorSize:
    """Size of a generator, apart from the widths of what goes in and comes out.

    Attributes:
        primitives: learned vectors in the bank.
        layers: of the transformer.
        heads: of its attentions; they divide the width of the vectors.
        hidden: units of its feed-forward networks.
        dropout: in training.
    """

    primitives: int = 400
    layers: int = 3
    heads: int = 8
    hidden: int = 1024
    dropout: float = 0.1


class PrimitiveGenerator(FeatureGenerator):
    """Holds the bank of primitives and a transformer that asks it with a label's projected vector.

    Noise is added after every cross-attention, when vectors are sampled as in training. At width 256 the published size
    has 3,160,832 parameters in the layers and the last norm, and 102,400 in the bank; 131,328 more project texts of
    width 512.

    Args:
        text_width: T of the label vectors.
        width: D of the vectors.
        size: of everything else.

    Raises:
        LearningError: the heads do not divide the width.
    """

    def __init__(self, text_width: int, width: int, size: GeneratorSize) -> None:
        super().__init__(text_width, width, size.layers)
        if width % size.heads:
            problem = f"{size.heads} attention heads do not divide vectors of {width} numbers"
            raise LearningError("generator", problem, "Choose a number of heads that divides it.")
        self.size = size
        self.bank = nn.Parameter(torch.randn(size.primitives, width))
        self.layers = nn.ModuleList(_Layer(width, size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(width)

    def generate(self, labels: Tensor, noise: Tensor) -> Tensor:
        """(C, D) projected label vectors and (C, layers, D) noise to (C, D)."""
        values = labels
        for place, layer in enumerate(self.layers):
            values = layer(values, self.bank, noise[:, place])
        return torch.as_tensor(self.norm(values))


class _Layer(nn.Module):
    """A decoder layer of a transformer, normalised afterwards."""

    def __init__(self, width: int, size: GeneratorSize) -> None:
        super().__init__()
        # A label attends to itself alone, which is a linear map: queries and keys change nothing. They are held because
        # the published layers have them.
        self.self_attention = nn.MultiheadAttention(width, size.heads, size.dropout, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(width, size.heads, size.dropout, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, size.hidden), nn.ReLU(), nn.Dropout(size.dropout), nn.Linear(size.hidden, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, values: Tensor, bank: Tensor, noise: Tensor) -> Tensor:
        """Values and noise (C, D), bank (P, D) to (C, D)."""
        alone = values[:, None]  # (C, 1, D)
        attended = self.self_attention(alone, alone, alone, need_weights=False)[0][:, 0]
        values = self.norms[0](values + self.dropout(attended))
        # Labels as the queries of one sequence: they do not see each other, and the bank is projected once for all.
        found = self.cross_attention(values[None], bank[None], bank[None], need_weights=False)[0][0]
        values = self.norms[1](values + self.dropout(found) + noise)
        return torch.as_tensor(self.norms[2](values + self.dropout(self.feed_forward(values))))
