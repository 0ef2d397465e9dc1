"""Parts of a generated vector in PADing: what is related to its label's words, and what is not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SLOPE = 0.2


class Disentangler(nn.Module):
    """Holds the encoders of both parts, the decoder that puts them together, and the relation network.

    Trained beside the generator, on generated vectors alone; not needed to generate.

    Args:
        width: D of the vectors and of the projected label vectors.
        dropout: in training.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.related = _encoder(width, dropout)
        self.unrelated = _encoder(width, dropout)
        self.decoder = nn.Sequential(
            nn.Linear(2 * width, width), nn.LeakyReLU(_SLOPE), nn.Dropout(dropout),
            nn.Linear(width, width), nn.LeakyReLU(_SLOPE), nn.Dropout(dropout),
        )  # fmt: skip
        self.relation = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1), nn.Sigmoid())

    def decoded(self, related: Tensor, unrelated: Tensor) -> Tensor:
        """Put (N, D) parts together to (N, D) vectors."""
        return torch.as_tensor(self.decoder(torch.cat([related, unrelated], dim=1)))

    def scores(self, related: Tensor, labels: Tensor) -> Tensor:
        """Score how much parts are related to labels (a relation network: Sung et al., CVPR 2018).

        Args:
            related: (N, D) parts.
            labels: (C, D) projected label vectors.

        Returns:
            (N, C) in (0, 1).
        """
        pairs = (len(related), len(labels), -1)
        both = torch.cat([related[:, None].expand(*pairs), labels[None].expand(*pairs)], dim=2)  # (N, C, 2 D)
        return torch.as_tensor(self.relation(both))[..., 0]


def _encoder(width: int, dropout: float) -> nn.Sequential:
    # Two linear maps in a row, as released.
    maps = (nn.Linear(width, width), nn.Linear(width, width))
    return nn.Sequential(*maps, nn.LeakyReLU(_SLOPE), nn.Dropout(dropout))
