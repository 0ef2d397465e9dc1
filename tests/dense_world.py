"""Tiny towers, networks and pictures for tests of dense recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from tests.models import TINY, noise, write_config
from worker.learning.recipes.dense.networks import DenseOutput
from worker.learning.recipes.dense.presets import Preset, small_lseg
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.towers import Tower, TowerConfig
from worker.segmentation.metrics import VOID
from worker.segmentation.segmenter import Segmenter

TIMM = TowerConfig("test_vit", random=True)
"""A ViT of timm that is made for tests, with random weights."""


@cache
def builtin() -> Segmenter:
    """The builtin model, loaded once."""
    return Segmenter(Encoder("builtin", device="cpu"))


def tiny_segmenter(folder: Path, **changes: Any) -> Segmenter:
    """A tiny open_clip model with random weights: a native ViT, or what the changes of its image tower make of it."""
    torch.manual_seed(0)
    config = {**TINY, "vision_cfg": {**TINY["vision_cfg"], **changes}}
    model = open_clip.CLIP(**config)
    torch.save(model.state_dict(), write_config(folder, config) / "open_clip_pytorch_model.bin")
    return Segmenter(Encoder(f"local-dir:{folder}", device="cpu"))


def small(
    segmenter: Segmenter, of: Callable[[Encoder], Preset] = small_lseg, **changes: Any
) -> tuple[Preset, Tower]:
    """A small preset for a model with fewer channels still, and its tower."""
    preset = of(segmenter.encoder)
    channels = tuple(8 for _ in preset.decoder.channels)
    decoder = replace(preset.decoder, features=8, channels=channels)
    preset = replace(preset, decoder=decoder, **changes)
    return preset, segmenter.towers.get(preset.tower)


def pixels_of(tower: Tower, count: int = 2, *, side: int = 4, seed: int = 0) -> Tensor:
    """(count, 3, H, W) float32 pixels of noise, H and W different."""
    picture = noise(side * tower.multiple, (side + 1) * tower.multiple, seed=seed)
    batch = torch.stack([torch.from_numpy(picture.copy()).permute(2, 0, 1).roll(k, dims=1) for k in range(count)])
    return tower.normalise(batch)


def unit_rows(count: int, width: int, *, seed: int = 0) -> Tensor:
    """(count, width) float32 of unit length."""
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def squares(size: tuple[int, int], *, count: int = 1) -> Tensor:
    """(count, H, W) int64: class 0 in a square, class 1 in another, background 2, a strip of VOID at the right."""
    height, width = size
    truth = torch.full((count, height, width), 2)
    truth[:, height // 4 : height // 2, width // 8 : width // 3] = 0
    truth[:, height // 2 : height - 3, width // 3 : width // 2] = 1
    truth[:, :, -width // 4 :] = VOID
    return truth


def output_of(logits: Tensor, **maps: Tensor) -> DenseOutput:
    """An output with these logits and maps."""
    return DenseOutput(logits, maps)
