"""The form of every dense network: an image's features first, which know no labels, then logits for any labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.learning.recipes.dense.presets import NetworkPreset
from worker.segmentation.encoders.towers import Tower, TowerMaps, for_autograd

TEMPERATURE = 0.07
"""Cosines are divided by it: LSeg's, a constant and not trained."""

EDGES = "edges"
"""Name of the map of boundary logits, (B, 1, h, w)."""


Change = Callable[[Tensor], Tensor]
"""Takes the (B, D, h, w) map of `DenseNetwork.entry` and returns what the decoder reads in its place."""


@dataclass(frozen=True)
class PixelFeatures:
    """What a network makes of images before it knows any label.

    Attributes:
        embedding: (B, D, h, w) float32 in the space of the label vectors, not normalised.
        maps: further tensors by name, one row for each image: maps (B, ..., h', w') such as EDGES, or class tokens.
    """

    embedding: Tensor
    maps: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class DenseOutput:
    """What a network says about images and labels.

    Attributes:
        logits: (B, T, h, w) float32; softmax over T is the class posterior.
        maps: further maps by name, such as EDGES, or logits of a decoder's earlier layers.
    """

    logits: Tensor
    maps: Mapping[str, Tensor] = field(default_factory=dict)


class DenseNetwork(nn.Module):
    """A decoder on an image tower. Subclasses implement `read` and, where logits are no plain cosines, `decode`; for
    generated features also `entry` and `changed`.

    A frozen tower is shared and no part of `state_dict()`; one that is trained is the network's own copy.

    Args:
        preset: of what form and size.
        tower: of the images.
        width: D of the label vectors.

    Attributes:
        preset, width: as given.
        trains_tower: whether the tower's weights are trained too.
        shares_maps: whether `read` takes the maps that a frozen tower makes for all networks.
    """

    preset: NetworkPreset

    def __init__(self, preset: NetworkPreset, tower: Tower, width: int) -> None:
        super().__init__()
        self.preset, self.width = preset, width
        self.tower = tower.trainable_copy() if preset.trains_tower else tower
        self.trains_tower = preset.trains_tower
        self.shares_maps = not preset.trains_tower
        if preset.trains_tower:
            self.tower_module: nn.Module = self.tower.module  # so that torch finds its parameters

    @property
    def entry_in_words_space(self) -> bool:
        """Whether the map of `entry` has unit length and lies in the space of the model's label vectors."""
        return False

    def forward(self, pixels: Tensor, labels: Tensor, change: Change | None = None) -> DenseOutput:
        """Score labels in images.

        Args:
            pixels: (B, 3, H, W) float32 from `tower.normalise`; H and W multiples of `tower.multiple`.
            labels: (T, D) float32 label vectors in any order.
            change: of the map that generated features stand in; None = none do.
        """
        return self.decode(self.encode(pixels, change), labels)

    def encode(self, pixels: Tensor, change: Change | None = None) -> PixelFeatures:
        """Compute the features of images, which do not depend on labels; `change` as in `forward`."""
        if self.trains_tower:
            maps = self.tower(for_autograd(pixels))
        else:
            with torch.no_grad():
                maps = self.tower(pixels)
        return self.read(maps if change is None else self.changed(maps, change))

    def entry(self, pixels: Tensor) -> Tensor:
        """(B, D, h, w) float32 map of images in which generated features may stand before the decoder reads it."""
        raise NotImplementedError

    def changed(self, maps: TowerMaps, change: Change) -> TowerMaps:
        """The tower's maps with a change of the one of `entry`."""
        raise NotImplementedError

    def read(self, maps: TowerMaps) -> PixelFeatures:
        """Compute the same from the tower's maps, which may come from a cache."""
        raise NotImplementedError

    def decode(self, features: PixelFeatures, labels: Tensor) -> DenseOutput:
        """Score labels, (T, D), in images whose features are known."""
        return DenseOutput(correlate(features.embedding, labels), features.maps)


def correlate(embedding: Tensor, labels: Tensor) -> Tensor:
    """Cosines of pixels (B, D, h, w) and labels (T, D) over the temperature: (B, T, h, w) float32."""
    pixels = F.normalize(for_autograd(embedding).float(), dim=1)
    words = F.normalize(for_autograd(labels).to(pixels), dim=1)
    return torch.einsum("bdhw,td->bthw", pixels, words).float() / TEMPERATURE  # under autocast it is of low precision
