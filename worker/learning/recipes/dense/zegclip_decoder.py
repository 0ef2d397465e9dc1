"""ZegCLIP's decoder (Zhou et al., CVPR 2023): queries of labels look at the patches, and never at each other.

So a label more, or another order, changes no other label's mask. The mask of a label is what its query says about each
patch in the last layer, before any softmax. What follows there (values, their projection, the feed-forward part)
reaches no mask and is left out, as is the attention between labels, for which the authors' code holds weights that it
does not use. `counting` puts these weights back, to count or to load them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_DROPOUT = 0.1
_WIDENING = 4  # of the feed-forward part
_SPREAD, _AT_WIDTH = 0.02, 512  # standard deviation of the weights at the start, in the paper's width
_KEY_BIAS = 10.0  # times a patch's key, so that what the patch says in the direction of the bias is little beside it


class TextPatchDecoder(nn.Module):
    """Layers of attention from queries to patches.

    Args:
        width: D.
        layers: how many.
        heads: of each.
        counting: whether weights are held that no mask depends on.

    Attributes:
        heads: as given.
    """

    def __init__(self, width: int, *, layers: int, heads: int, counting: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads, updates=number < layers - 1, counting=counting) for number in range(layers)
        )
        self.apply(start_narrow)

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        """(B, T, D) queries and (B, N, D) patches to (B, T, N) float32 mask logits."""
        scores = queries.new_zeros(0)
        for layer in self.layers:
            queries, scores = layer(queries, patches)
        return scores.float().mean(dim=1)


class DecoderLayer(nn.Module):
    """One layer: attention to the patches and a feed-forward part, each followed by a norm.

    Args:
        width: D.
        heads: of the attention.
        updates: whether the queries go on to another layer.
        counting: see `TextPatchDecoder`.
    """

    def __init__(self, width: int, heads: int, *, updates: bool, counting: bool) -> None:
        super().__init__()
        self._heads, self._updates = heads, updates
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(_DROPOUT)
        if updates or counting:
            self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
            self.norm, self.last_norm = nn.LayerNorm(width), nn.LayerNorm(width)
            self.widen, self.narrow = nn.Linear(width, _WIDENING * width), nn.Linear(_WIDENING * width, width)
        if counting:
            self.between_labels = nn.MultiheadAttention(width, heads)
            self.between_norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) and (B, N, D) to the next (B, T, D) queries and (B, heads, T, N) scores before the softmax."""
        asked, keys = self._split(self.query(queries)), self._split(self.key(patches))
        scores = asked @ keys.transpose(-1, -2) * asked.shape[-1] ** -0.5
        if not self._updates:
            return queries, scores
        mixed = self.dropout(scores.softmax(dim=-1)) @ self._split(self.value(patches))
        queries = self.norm(queries + self.dropout(self.out(mixed.transpose(1, 2).flatten(2))))
        wide = self.dropout(F.relu(self.widen(queries)))
        return self.last_norm(queries + self.dropout(self.narrow(wide))), scores

    def _split(self, values: Tensor) -> Tensor:
        """(B, N, D) as (B, heads, N, D / heads)."""
        return values.reshape(*values.shape[:2], self._heads, -1).transpose(1, 2)


def start_narrow(module: nn.Module) -> None:
    """Start a linear map as the paper does: weights near 0, no bias. Narrower ones start as far from 0 in effect."""
    if isinstance(module, nn.Linear):
        width = min(module.in_features, module.out_features)
        nn.init.trunc_normal_(module.weight, std=_SPREAD * (_AT_WIDTH / width) ** 0.5)
        nn.init.zeros_(module.bias)


@torch.no_grad()
def start_as_cosines(query: nn.Linear, decoder: TextPatchDecoder, *, scale: float, bias: float) -> None:
    """Start where the mask of a label is about `scale` times the cosine of patch and label vector, plus `bias`.

    That is what the model says untrained; the decoder has two layers or more. From the paper's start, where all masks
    are alike, it takes thousands of steps until they differ at all.

    Args:
        query: makes a query of what ends with a label's vector.
        decoder: whose masks are meant.
        scale: above 0.
        bias: of all masks.
    """
    width = query.out_features
    *before, last = (layer for layer in decoder.layers if isinstance(layer, DecoderLayer))
    query.weight.zero_()  # what a label's relation to the image adds to its query is learned from 0 on
    query.weight[:, -width:].copy_(torch.eye(width))
    for layer in before:  # and so is what these add
        nn.init.zeros_(layer.out.weight)
        nn.init.zeros_(layer.narrow.weight)
    spread = decoder.heads * (width / decoder.heads) ** 0.5  # what a product of query and key is divided by
    gain = (scale * spread / width**0.5) ** 0.5  # a query has the length of the root of the width
    constant = torch.full((width,), width**-0.5)  # the norms leave nothing of a query in this direction
    far = _KEY_BIAS * gain
    for part, length in ((last.query, bias * spread / far), (last.key, far)):
        part.weight.copy_(gain * torch.eye(width))
        part.bias.copy_(length * constant)


class DeepPrompts(nn.Module):
    """Trained tokens for every block of a ViT, all through one projection; and the norm after the last block.

    Deep visual prompt tuning (Jia et al., ECCV 2022): what a block makes of its prompts is thrown away.

    Args:
        count: tokens in each block.
        depth: of the ViT.
        width: of its tokens.
        patch: pixels of the side of its patches, which decides how far from 0 prompts start.
    """

    def __init__(self, count: int, *, depth: int, width: int, patch: int) -> None:
        super().__init__()
        most = (6 / (3 * patch**2 + width)) ** 0.5
        self.tokens = nn.Parameter(torch.empty(depth, count, width).uniform_(-most, most))
        self.project = nn.Linear(width, width)
        nn.init.kaiming_normal_(self.project.weight, mode="fan_out")
        self.dropout = nn.Dropout(_DROPOUT)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, block: int, batch: int) -> Tensor:
        """(batch, count, width) prompts of a block."""
        return torch.as_tensor(self.dropout(self.project(self.tokens[block]).expand(batch, -1, -1)))
