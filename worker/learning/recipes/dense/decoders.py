"""Decoders: maps of an image tower at several depths -> one embedding per cell.

DPT (Ranftl et al., ICCV 2021) as LSeg uses it; its first half alone, as SAZS uses it on a ViT; and pyramid pooling
(PSPNet, Zhao et al., CVPR 2017), as SAZS uses it on a dilated residual network. All take images of any size: what is
fused is brought to one grid first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.segmentation.encoders.towers import Level, TowerMaps

Norm = Literal["batch", "group"]
_GROUP = 8  # channels that are normalised together
_POOLED = (1, 2, 3, 6)  # cells of a side
_START = 1e-4  # weights of what is added to the aligned features: nearly nothing, and not zero, where no gradient flows


@dataclass(frozen=True)
class DecoderConfig:
    """The form and size of a decoder.

    Attributes:
        kind: "dpt", "reassemble" (one level, no fusion) or "pyramid" (one level, pooled).
        channels: of each level after reassembling; () = those of the tower.
        factors: how many times finer each level becomes; below 1 coarser; () = as it is.
        features: width of the fusion or of the pooled branches.
        norm: of the convolutions; "group" does not depend on the batch.
        final_upsampling: whether the result is twice as fine as the finest level.
        dropout: share of the channels that are dropped in training.
        aligned: whether the result is added to the tower's own text-aligned features, where it has any: then training
            starts at those.
    """

    kind: Literal["dpt", "reassemble", "pyramid"] = "dpt"
    channels: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()
    features: int = 256
    norm: Norm = "batch"
    final_upsampling: bool = True
    dropout: float = 0.0
    aligned: bool = False


class Decoder(nn.Module):
    """Holds a decoder for the levels of one tower.

    Args:
        config: of what form.
        levels: what the tower gives.
        aligned_width: D of the tower's text-aligned features; 0 = none.
        width: D of the embedding.

    Attributes:
        adds_aligned: whether the embedding is added to these features.
    """

    def __init__(self, config: DecoderConfig, levels: Sequence[Level], *, aligned_width: int, width: int) -> None:
        super().__init__()
        self.body = _BODIES[config.kind](config, levels, width)
        self.dropout = nn.Dropout2d(config.dropout)
        self.adds_aligned = config.aligned and aligned_width == width
        if self.adds_aligned:
            for name, values in self.body.head.named_parameters():
                nn.init.normal_(values, std=_START if name == "weight" else 0.0)

    def forward(self, maps: TowerMaps) -> Tensor:
        """(B, D, h, w) embedding."""
        embedding = torch.as_tensor(self.dropout(self.body(maps)))
        if self.adds_aligned and maps.aligned is not None:
            embedding = embedding + resized(F.normalize(maps.aligned, dim=1), embedding)
        return embedding


def resized(values: Tensor, like: Tensor) -> Tensor:
    """(B, C, h, w) on the grid of another map, bilinear."""
    if values.shape[-2:] == like.shape[-2:]:
        return values
    return F.interpolate(values, size=like.shape[-2:], mode="bilinear", align_corners=False)


class Reassemble(nn.Module):
    """Turn one level of a tower into a map of some channels at some stride.

    The class token, where there is one, is projected into every cell ("project" readout of DPT).
    """

    def __init__(self, level: Level, channels: int, factor: float) -> None:
        super().__init__()
        project = (nn.Linear(2 * level.channels, level.channels), nn.GELU())
        self.readout = nn.Sequential(*project) if level.has_class_token else None
        self.conv = nn.Conv2d(level.channels, channels, 1)
        self.resample: nn.Module = nn.Identity()
        if factor > 1:
            self.resample = nn.ConvTranspose2d(channels, channels, int(factor), stride=int(factor))
        elif factor < 1:
            self.resample = nn.Conv2d(channels, channels, 3, stride=round(1 / factor), padding=1)

    def forward(self, level: Tensor, class_token: Tensor | None) -> Tensor:
        """(B, C, h, w) and (B, C) to (B, channels, factor * h, factor * w)."""
        if self.readout is not None and class_token is not None:
            tokens = level.permute(0, 2, 3, 1)  # (B, h, w, C)
            both = torch.cat([tokens, class_token[:, None, None].expand_as(tokens)], dim=-1)
            level = self.readout(both).permute(0, 3, 1, 2)
        return torch.as_tensor(self.resample(self.conv(level)))


def _reassembled(config: DecoderConfig, levels: Sequence[Level]) -> tuple[nn.ModuleList, list[int]]:
    """One `Reassemble` per level, or none where the levels stay as they are; and their channels."""
    channels = list(config.channels or (level.channels for level in levels))
    factors = config.factors or (1.0,) * len(levels)
    if not len(levels) == len(channels) == len(factors):
        raise ValueError(f"a decoder for {len(channels)} levels cannot read a tower with {len(levels)}")
    if not config.channels:
        return nn.ModuleList(), channels
    made = [Reassemble(*one) for one in zip(levels, channels, factors, strict=True)]
    return nn.ModuleList(made), channels


def _read(reassemble: nn.ModuleList, maps: TowerMaps) -> list[Tensor]:
    if not len(reassemble):
        return list(maps.levels)
    tokens: Sequence[Tensor | None] = maps.class_tokens or (None,) * len(maps.levels)
    return [part(level, token) for part, level, token in zip(reassemble, maps.levels, tokens, strict=True)]


class _Single(nn.Module):
    """The reassembled last level, read as it is."""

    def __init__(self, config: DecoderConfig, levels: Sequence[Level], width: int) -> None:
        super().__init__()
        self.reassemble, channels = _reassembled(config, levels)
        self.head = _head(config, channels[-1], width)

    def forward(self, maps: TowerMaps) -> Tensor:
        return torch.as_tensor(self.head(_read(self.reassemble, maps)[-1]))


class _Fusion(nn.Module):
    """All levels fused from the deepest to the shallowest, as in RefineNet (Lin et al., CVPR 2017)."""

    def __init__(self, config: DecoderConfig, levels: Sequence[Level], width: int) -> None:
        super().__init__()
        self.reassemble, channels = _reassembled(config, levels)
        self.narrow = nn.ModuleList(nn.Conv2d(one, config.features, 3, padding=1, bias=False) for one in channels)
        self.fuse = nn.ModuleList(
            _FusionBlock(config.features, config.norm, fuses=level < len(channels) - 1)
            for level in range(len(channels))
        )
        self._upsamples = config.final_upsampling
        self.head: nn.Module = nn.Conv2d(config.features, width, 1)

    def forward(self, maps: TowerMaps) -> Tensor:
        levels = [narrow(one) for narrow, one in zip(self.narrow, _read(self.reassemble, maps), strict=True)]
        path: Tensor | None = None
        for block, level in zip(reversed(self.fuse), reversed(levels), strict=True):
            path = block(level, path)
        if self._upsamples and path is not None:
            path = F.interpolate(path, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.as_tensor(self.head(path))


class _FusionBlock(nn.Module):
    def __init__(self, features: int, norm: Norm, *, fuses: bool) -> None:
        super().__init__()
        self.skip = _ResidualConvUnit(features, norm) if fuses else None
        self.unit = _ResidualConvUnit(features, norm)
        self.out = nn.Conv2d(features, features, 1)

    def forward(self, level: Tensor, path: Tensor | None) -> Tensor:
        """A level (B, C, h, w) and the path from the deeper ones, on whatever grid that is."""
        if self.skip is not None and path is not None:
            level = self.skip(level) + resized(path, level)
        return torch.as_tensor(self.out(self.unit(level)))


class _ResidualConvUnit(nn.Module):
    def __init__(self, features: int, norm: Norm) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for _ in range(2):
            conv = nn.Conv2d(features, features, 3, padding=1, bias=False)
            parts += [nn.ReLU(), conv, _norm(norm, features)]
        self.parts = nn.Sequential(*parts)

    def forward(self, values: Tensor) -> Tensor:
        return torch.as_tensor(self.parts(values)) + values


class _Pyramid(nn.Module):
    """The last level beside its averages over 1, 4, 9 and 36 parts of the image."""

    def __init__(self, config: DecoderConfig, levels: Sequence[Level], width: int) -> None:
        super().__init__()
        self.reassemble, channels = _reassembled(config, levels)
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(cells), *_conv(channels[-1], config.features, 1, config.norm))
            for cells in _POOLED
        )
        joined = channels[-1] + len(_POOLED) * config.features
        self.join = nn.Sequential(*_conv(joined, config.features, 3, config.norm))
        self.head = _head(config, config.features, width)

    def forward(self, maps: TowerMaps) -> Tensor:
        level = _read(self.reassemble, maps)[-1]
        pooled = [resized(part(level), level) for part in self.pooled]
        return torch.as_tensor(self.head(self.join(torch.cat([level, *pooled], dim=1))))


def _head(config: DecoderConfig, features: int, width: int) -> nn.Module:
    """The last projection; none where the features have the width already and start from nothing."""
    return nn.Identity() if features == width and not config.aligned else nn.Conv2d(features, width, 1)


_BODIES: dict[str, type[_Fusion] | type[_Single] | type[_Pyramid]] = {
    "dpt": _Fusion, "reassemble": _Single, "pyramid": _Pyramid,
}  # fmt: skip


def _conv(before: int, after: int, side: int, norm: Norm) -> list[nn.Module]:
    return [nn.Conv2d(before, after, side, padding=side // 2, bias=False), _norm(norm, after), nn.ReLU()]


def _norm(norm: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(max(1, channels // _GROUP), channels)
