"""LSeg: Language-driven semantic segmentation (Li et al., ICLR 2022).

A frozen text tower gives the label vectors; a decoder on an image tower gives one embedding per cell; the logit of a
label is their cosine over 0.07. Any labels may be given at any time.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.learning.recipes.dense.blocks import Regularisation
from worker.learning.recipes.dense.decoders import Decoder
from worker.learning.recipes.dense.networks import Change, DenseNetwork, DenseOutput, PixelFeatures, correlate
from worker.learning.recipes.dense.presets import Preset
from worker.segmentation.encoders.towers import Tower, TowerMaps
from worker.segmentation.metrics import VOID


class LSegNetwork(DenseNetwork):
    """Holds the decoder, the blocks and, where it is trained, the tower.

    Args:
        preset: of what form and size.
        tower: the tower of the preset.
        width: D of the label vectors.
    """

    preset: Preset

    def __init__(self, preset: Preset, tower: Tower, width: int) -> None:
        super().__init__(preset, tower, width)
        self.decoder = Decoder(preset.decoder, tower.levels, aligned_width=tower.aligned_width, width=width)
        self.blocks = None
        if preset.block and preset.block_depth:
            self.blocks = Regularisation(preset.block, depth=preset.block_depth, activation=preset.activation)

    def read(self, maps: TowerMaps) -> PixelFeatures:
        """See `DenseNetwork`."""
        return PixelFeatures(self.decoder(maps.for_autograd()))

    @property
    def entry_in_words_space(self) -> bool:
        """See `DenseNetwork`."""
        return self.decoder.adds_aligned

    @torch.no_grad()
    def entry(self, pixels: Tensor) -> Tensor:
        """See `DenseNetwork`: the tower's text-aligned features where the decoder adds to them, else its last level."""
        return self._entry(self.tower(pixels))

    def changed(self, maps: TowerMaps, change: Change) -> TowerMaps:
        """See `DenseNetwork`."""
        maps = maps.for_autograd()
        entered = change(self._entry(maps))
        if self.decoder.adds_aligned:
            return replace(maps, aligned=entered)
        return replace(maps, levels=(*maps.levels[:-1], entered))

    def _entry(self, maps: TowerMaps) -> Tensor:
        if self.decoder.adds_aligned and maps.aligned is not None:
            return F.normalize(maps.aligned, dim=1)
        return maps.levels[-1]

    def decode(self, features: PixelFeatures, labels: Tensor) -> DenseOutput:
        """See `DenseNetwork`."""
        logits = correlate(features.embedding, labels)
        return DenseOutput(logits if self.blocks is None else self.blocks(logits), features.maps)


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that have a class; 0 where none has.

    Args:
        logits: (B, T, h, w) float32; brought to the grid of the truth.
        truth: (B, H, W) int64: a row of the label vectors, or VOID.
    """
    logits = logits.float()  # blocks under autocast give low precision
    if logits.shape[-2:] != truth.shape[-2:]:
        logits = F.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, truth, ignore_index=VOID, reduction="sum")
    return total / (truth != VOID).sum().clamp_min(1)


def lseg_loss(output: DenseOutput, truth: Tensor) -> dict[str, Tensor]:
    """LSeg's loss at the pixels, (B, H, W): cross-entropy of one softmax over all labels, the background among them."""
    align = cross_entropy(output.logits, truth)
    return {"align": align, "total": align}
