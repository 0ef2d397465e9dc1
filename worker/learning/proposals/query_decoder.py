"""A decoder that proposes masks: learned queries look at the maps of a frozen tower, each within the mask that it gave
before, as in Mask2Former (Cheng et al., CVPR 2022).

Smaller than the paper's: queries attend to one map, not to three in turn, and two convolutions stand in place of its
deformable pixel decoder. As there, queries look at the map before they look at each other, and each prediction, also
the one before the first layer, is made from the normalised queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.towers import Tower, TowerConfig, TowerMaps, for_autograd

_GROUPS = 8  # of the norms of maps
_PERIODS = 10_000.0  # of the waves that tell positions, as in DETR


@dataclass(frozen=True)
class QueryDecoderConfig:
    """Everything that decides the form of a decoder but the number of its labels.

    Attributes:
        tower: the image tower, and where it is read.
        short_side: pixels of the short side at which images enter.
        queries: Q.
        width: D of the queries, and so of the vectors that they propose; a multiple of 8.
        mask_width: channels of the features that masks are made of; a multiple of 8.
        layers: each of attention to the map, attention among the queries, and a feed-forward part.
        heads: of each attention.
        feedforward: width of the feed-forward part.
    """

    tower: TowerConfig
    short_side: int
    queries: int = 24
    width: int = 128
    mask_width: int = 64
    layers: int = 3
    heads: int = 8
    feedforward: int = 512


def small_decoder(encoder: Encoder) -> QueryDecoderConfig:
    """A decoder that trains in minutes on a CPU: on a ResNet it looks at the stages of 4 and 8 pixels and at the
    features that the model shares with the text; on a ViT, at all that it is read at.
    """
    is_resnet = hasattr(encoder.visual, "layer4")
    tower = TowerConfig(hooks=(1, 2), dilated=True) if is_resnet else TowerConfig()
    return QueryDecoderConfig(tower, encoder.short_side)


@dataclass(frozen=True)
class QueryPredictions:
    """What the queries say about a batch of images after one layer.

    Attributes:
        masks: (B, Q, h, w) float32 logits, above 0 inside.
        vectors: (B, Q, D) float32, the normalised queries.
        logits: (B, Q, S + 1) float32 of S labels and, last, of no object.
    """

    masks: Tensor
    vectors: Tensor
    logits: Tensor


class QueryDecoder(nn.Module):
    """Holds the queries and what reads a tower's maps for them. The tower is shared, frozen and no part of
    `state_dict()`.

    Args:
        config: of what form.
        tower: whose maps it takes.
        labels: names of the S labels that it is trained with.

    Attributes:
        config, tower, labels: as given.
        classify: (D) -> (S + 1) logits; the row of no object is last.

    Raises:
        ValueError: there is no label.
    """

    def __init__(self, config: QueryDecoderConfig, tower: Tower, labels: Sequence[str]) -> None:
        super().__init__()
        if not labels:
            raise ValueError("a decoder needs one label at least")
        self.config, self.tower, self.labels = config, tower, tuple(labels)
        width = config.width
        self.maps = _MapReader(config, tower)
        self.queries = nn.Parameter(torch.randn(config.queries, width))
        self.query_places = nn.Parameter(torch.randn(config.queries, width))
        self.layers = nn.ModuleList(_QueryLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.to_mask = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.mask_width)
        )
        self.classify = nn.Linear(width, len(labels) + 1)

    def forward(self, maps: TowerMaps) -> QueryPredictions:
        """Propose masks in images whose maps are given, (B, C, h, w) float32 at each depth."""
        return self.predictions(maps)[-1]

    def predictions(self, maps: TowerMaps) -> list[QueryPredictions]:
        """What the queries say before the first layer and after each, the last one being what they propose."""
        memory, mask_features = self.maps(maps.for_autograd())
        grid = (memory.shape[2], memory.shape[3])
        places = waves(grid, self.config.width, memory.device)
        cells = memory.flatten(2).transpose(1, 2)  # (B, N, D)
        queries = self.queries.expand(len(cells), -1, -1)
        found = [self._predict(queries, mask_features)]
        for layer in self.layers:
            queries = layer(queries, self.query_places, cells, places, _outside(found[-1].masks, grid))
            found.append(self._predict(queries, mask_features))
        return found

    def grid_of(self, maps: TowerMaps) -> tuple[int, int]:
        """(h, w) of the masks that it proposes on such maps."""
        return self.maps.grid_of(maps)

    def _predict(self, queries: Tensor, mask_features: Tensor) -> QueryPredictions:
        vectors = self.norm(queries)
        masks = torch.einsum("bqc,bchw->bqhw", self.to_mask(vectors), mask_features)
        return QueryPredictions(masks, vectors, self.classify(vectors))


class _MapReader(nn.Module):
    """Reads a tower's maps: the coarsest ones become the map that queries attend to; with the finest one, or twice as
    fine where there is none, it becomes the features that masks are made of."""

    def __init__(self, config: QueryDecoderConfig, tower: Tower) -> None:
        super().__init__()
        strides, channels = [level.stride for level in tower.levels], [level.channels for level in tower.levels]
        coarsest = max(strides)
        self._coarse = [k for k, stride in enumerate(strides) if stride == coarsest]
        self._fine = strides.index(min(strides)) if min(strides) < coarsest else None
        width, mask_width = config.width, config.mask_width
        self.project = _convolution(sum(channels[k] for k in self._coarse) + tower.aligned_width, width, 1)
        self.mix = _convolution(width, width, 3)
        self.narrow = _convolution(width, mask_width, 1)
        self.beside = None if self._fine is None else _convolution(channels[self._fine], mask_width, 1)
        self.smooth = _convolution(mask_width, mask_width, 3)
        self.features = nn.Conv2d(mask_width, mask_width, 1)

    def forward(self, maps: TowerMaps) -> tuple[Tensor, Tensor]:
        """(B, D, h, w) to attend to, and (B, mask width, h', w') for masks."""
        coarse = [maps.levels[k] for k in self._coarse]
        grid = coarse[0].shape[2:]
        if maps.aligned is not None:
            coarse.append(F.interpolate(maps.aligned, size=grid, mode="bilinear", align_corners=False))
        memory = self.project(torch.cat(coarse, dim=1))
        memory = F.relu(memory + self.mix(F.relu(memory)))
        fine = None if self._fine is None else maps.levels[self._fine]
        grown = F.interpolate(self.narrow(memory), size=self.grid_of(maps), mode="bilinear", align_corners=False)
        if fine is not None and self.beside is not None:
            grown = grown + self.beside(fine)
        return memory, self.features(F.relu(self.smooth(F.relu(grown))))

    def grid_of(self, maps: TowerMaps) -> tuple[int, int]:
        """(h', w') of the features for masks."""
        if self._fine is not None:
            return maps.levels[self._fine].shape[2], maps.levels[self._fine].shape[3]
        coarse = maps.levels[self._coarse[0]]
        return 2 * coarse.shape[2], 2 * coarse.shape[3]


class _QueryLayer(nn.Module):
    """Attention within the masks, attention among the queries, a feed-forward part; each added and then normalised."""

    def __init__(self, config: QueryDecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.look = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.compare = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.feedforward = nn.Sequential(
            nn.Linear(width, config.feedforward), nn.ReLU(), nn.Linear(config.feedforward, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self._heads = config.heads

    def forward(self, queries: Tensor, asked: Tensor, cells: Tensor, places: Tensor, outside: Tensor) -> Tensor:
        """The next (B, Q, D) queries.

        Args:
            queries: (B, Q, D).
            asked: (Q, D) learned places of the queries.
            cells: (B, N, D) of the map.
            places: (N, D) of its cells.
            outside: (B, Q, N) bool, cells that a query does not look at.
        """
        blocked = outside.repeat_interleave(self._heads, dim=0)
        seen, _ = self.look(queries + asked, cells + places, cells, attn_mask=blocked, need_weights=False)
        queries = self.norms[0](queries + seen)
        placed = queries + asked
        others, _ = self.compare(placed, placed, queries, need_weights=False)
        queries = self.norms[1](queries + others)
        return torch.as_tensor(self.norms[2](queries + self.feedforward(queries)))


def _convolution(inward: int, outward: int, side: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inward, outward, side, padding=side // 2), nn.GroupNorm(_GROUPS, outward))


@torch.no_grad()
def _outside(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, Q, N) bool: cells of a grid outside the masks; a query whose mask is empty looks everywhere."""
    outside = F.interpolate(masks.detach(), size=grid, mode="bilinear", align_corners=False).flatten(2) < 0
    return outside & ~outside.all(dim=2, keepdim=True)


def waves(grid: tuple[int, int], width: int, device: torch.device) -> Tensor:
    """Sine waves that tell the cells of a grid apart, half of them along each side, the sides being 2 pi long:
    (h * w, width) float32, `width` a multiple of 4 (Carion et al., DETR, ECCV 2020).
    """
    half = width // 2
    periods = _PERIODS ** (torch.arange(0, half, 2, device=device) / half)
    sides = []
    for count in grid:
        place = (torch.arange(count, device=device) + 0.5) * (2 * math.pi / count)
        angles = place[:, None] / periods
        sides.append(torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1))  # (count, half)
    rows = sides[0][:, None].expand(-1, grid[1], -1)
    columns = sides[1][None].expand(grid[0], -1, -1)
    return torch.cat((rows, columns), dim=2).flatten(0, 1)


def frozen_maps(tower: Tower, pixels: Tensor) -> TowerMaps:
    """The maps of (B, 3, H, W) uint8 pixels, through which no gradient goes."""
    with torch.no_grad():
        maps = tower(tower.normalise(pixels))
    return TowerMaps(tuple(map(for_autograd, maps.levels)), (), maps.aligned)
