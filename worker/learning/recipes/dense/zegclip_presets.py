"""Sizes of ZegCLIP's network: those of the paper, and a small one for whatever tower there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.towers import ENCODER, TowerConfig


@dataclass(frozen=True)
class ZegclipPreset:
    """Everything that decides the form of a network, apart from the width of the label vectors.

    Attributes:
        tower: the image tower, a ViT with a class token.
        prompts: tokens that are put into every block; 0 = none, and no norm before the tower's last one.
        descriptor: whether the query of a label is made of its relation to the image too.
        layers: of the decoder.
        heads: of its attention; a divisor of them where the width of the label vectors asks for it.
        exclusive: whether one softmax over all labels takes the place of a sigmoid for each.
        counting: whether weights are held that no mask depends on, as in the authors' code.
        aligned: whether its masks start as what the model says untrained; see `zegclip_decoder.start_as_cosines`. The
            paper's start near 0.
        trains_tower: whether the tower's weights are trained too.
        fine: see `presets.Preset`; masks of a ViT are coarse.
        short_side: pixels of the short side at which images enter; 0 = as they enter the loaded model.
        window: pixels of the side of the windows in which they enter; 0 = one pass.
        overlap: share of a window that the next one sees again.
        released_grid: side in patches of the authors' grid of positions, for their released weights; 0 = none of the
            quirks that these are used to. See `token_towers.NativeTokens`.
    """

    tower: TowerConfig
    prompts: int = 10
    descriptor: bool = True
    layers: int = 3
    heads: int = 8
    exclusive: bool = False
    counting: bool = False
    aligned: bool = False
    trains_tower: bool = False
    fine: bool = False
    short_side: int = 0
    window: int = 0
    overlap: float = 1 / 3
    released_grid: int = 0


PAPER_SIDE = 512
"""Pixels of the crops and windows of the paper."""

_OVERLAP = 86 / PAPER_SIDE  # windows every 426 pixels

ZEGCLIP_PRESETS: Mapping[str, ZegclipPreset] = {
    # Zhou et al., CVPR 2023, on the ViT-B/16 of CLIP.
    "voc": ZegclipPreset(TowerConfig(), prompts=10, short_side=PAPER_SIDE, window=PAPER_SIDE, overlap=_OVERLAP),
    "coco": ZegclipPreset(TowerConfig(), prompts=100, short_side=PAPER_SIDE, window=PAPER_SIDE, overlap=_OVERLAP),
}
PAPER_LABELS = {"voc": 20, "coco": 171}
"""How many labels the paper counts operations with."""


def small_zegclip(encoder: Encoder, tower: str = ENCODER) -> ZegclipPreset:
    """ZegCLIP on a frozen tower of any size, which images enter in one pass.

    Args:
        encoder: the loaded model.
        tower: name of the tower, as `TowerConfig` has it.
    """
    return ZegclipPreset(TowerConfig(tower), aligned=True)


def zegclip_preset_from_json(stored: Mapping[str, Any]) -> ZegclipPreset:
    """Read a preset again.

    Raises:
        KeyError, TypeError, ValueError: it is not one.
    """
    fields = dict(stored)
    tower = dict(fields.pop("tower"))
    tower["hooks"] = tuple(int(k) for k in tower["hooks"])
    return ZegclipPreset(tower=TowerConfig(**tower), **fields)
