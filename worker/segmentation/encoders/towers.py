"""Feature maps of several depths of an image tower, for networks that decode them: the tower of the loaded model, or
any other of timm. Towers are frozen and shared; their maps are cached by what they were made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import timm
import torch
from cachetools import LRUCache
from timm.data import resolve_model_data_config
from torch import Tensor

from plugin_config.errors import ModelUnavailable
from worker.segmentation.encoders import resnet, timm_vit
from worker.segmentation.encoders.backbones import Backbone
from worker.segmentation.encoders.checkpoints import LOADING_ERRORS, loading_problem
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.fingerprints import weights_fingerprint
from worker.segmentation.encoders.readouts import READOUTS
from worker.segmentation.encoders.self_supervised_vit import load_tower_weights
from worker.segmentation.encoders.vit import token_features

ENCODER = "encoder"
"""Name of the image tower of the loaded model."""

_STAGES = (1, 2, 3, 4)  # of a convolutional tower
_LEVELS = 4  # of a ViT: blocks at a quarter, half, three quarters and all of its depth
_PROBE_SIDE = 4  # multiples of what the tower takes
_DILATED_STRIDE, _LARGEST_STRIDE = 8, 32  # pixels


@dataclass(frozen=True)
class TowerConfig:
    """Which tower, and where it is read.

    Attributes:
        name: ENCODER, a name of timm whose weights are downloaded, or `NAME:FILE` with a file of weights.
        hooks: blocks of a ViT, from 0, or stages of a convolutional tower, from 1; () = four of them, evenly deep.
        dilated: whether the last stages of a convolutional tower keep the grid of 8 pixels.
        random: whether weights of timm are left at random, because all of them are stored elsewhere.
    """

    name: str = ENCODER
    hooks: tuple[int, ...] = ()
    dilated: bool = False
    random: bool = False


@dataclass(frozen=True)
class Level:
    """One depth of a tower.

    Attributes:
        channels: of its map.
        stride: pixels from one cell to the next.
        has_class_token: whether the tower's class token comes with it.
    """

    channels: int
    stride: int
    has_class_token: bool


@dataclass(frozen=True)
class TowerMaps:
    """What a tower makes of a batch of images.

    Attributes:
        levels: (B, C, h, w) float32 at each depth.
        class_tokens: (B, C) float32 at each depth; empty without class tokens.
        aligned: (B, D, h, w) float32 patch features in the space shared with the text, as the training-free scores are
            made of; None for a tower that shares no space with the text.
    """

    levels: tuple[Tensor, ...]
    class_tokens: tuple[Tensor, ...] = ()
    aligned: Tensor | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        return (*self.levels, *self.class_tokens, *(() if self.aligned is None else (self.aligned,)))

    def for_autograd(self) -> TowerMaps:
        """The same outside inference mode, so that autograd may keep them."""
        aligned = None if self.aligned is None else for_autograd(self.aligned)
        return TowerMaps(tuple(map(for_autograd, self.levels)), tuple(map(for_autograd, self.class_tokens)), aligned)


class Tower:
    """Holds one image tower.

    Args:
        config: which.
        module: its network.
        run: (network, pixels) -> maps.
        mean, std: (3,) of the pixels as it was trained, in [0, 1].
        native_size: side in pixels of the squares it was trained on.
        multiple: H and W of the pixels are multiples of it.

    Attributes:
        config, native_size, multiple: as given.
        module: frozen, unless this is a `trainable_copy`.
        levels: what it gives at each depth.
        aligned_width: D of the features that it shares with the text; 0 = none.
    """

    def __init__(
        self, config: TowerConfig, module: Any, run: Callable[[Any, Tensor], TowerMaps], *, mean: Tensor, std: Tensor,
        native_size: int, multiple: int,
    ) -> None:  # fmt: skip
        self.config, self.module, self.native_size, self.multiple = config, module, native_size, multiple
        self._run, self._mean, self._std = run, mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)
        side = _PROBE_SIDE * multiple
        with torch.no_grad():
            maps = run(module, torch.zeros(1, 3, side, side, device=mean.device))
        has_tokens = bool(maps.class_tokens)
        self.levels = tuple(Level(one.shape[1], round(side / one.shape[2]), has_tokens) for one in maps.levels)
        self.aligned_width = 0 if maps.aligned is None else maps.aligned.shape[1]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._mean.device

    @property
    def fingerprint(self) -> str:
        """12 hex digits that identify its weights and where it is read."""
        return weights_fingerprint(self.module, f"{self.config.hooks} {self.config.dilated}")

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB to the float32 that the tower takes, on its device."""
        return (pixels.to(self.device).float() / 255 - self._mean) / self._std

    def __call__(self, pixels: Tensor) -> TowerMaps:
        """Compute the maps of (B, 3, H, W) float32 pixels from `normalise`; H and W multiples of `multiple`."""
        return self._run(self.module, pixels)

    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> Tower:
        """The same tower with another (3,) mean and standard deviation of the pixels, in [0, 1]."""
        return Tower(
            self.config, self.module, self._run, mean=self._mean.new_tensor(mean), std=self._std.new_tensor(std),
            native_size=self.native_size, multiple=self.multiple,
        )  # fmt: skip

    def trainable_copy(self) -> Tower:
        """A copy whose weights may be trained: the shared one stays as it is."""
        copied = deepcopy(self.module).requires_grad_(True)
        mean, std = self._mean.flatten(), self._std.flatten()
        return Tower(
            self.config, copied, self._run, mean=mean, std=std, native_size=self.native_size, multiple=self.multiple
        )


class Towers:
    """Holds the towers that were asked for, one of each, and the maps of what they saw last. For one thread.

    Args:
        encoder: the loaded model, whose device all share.
        most_bytes: size at which the least recently used maps are dropped.
    """

    def __init__(self, encoder: Encoder, *, most_bytes: int = 256_000_000) -> None:
        self._encoder = encoder
        self._towers: dict[TowerConfig, Tower] = {}
        self._maps: LRUCache[str, TowerMaps] = LRUCache(most_bytes, getsizeof=_bytes)

    def get(self, config: TowerConfig) -> Tower:
        """Return a tower; it is loaded when it is first asked for.

        Raises:
            ModelUnavailable: there is none of that name or depth, or its weights are missing.
        """
        if config not in self._towers:
            try:
                tower = _encoder_tower(self._encoder, config) if config.name == ENCODER else self._timm_tower(config)
            except LOADING_ERRORS as error:
                remedy = "Name a tower of timm, or NAME:FILE with its weights, and blocks or stages that it has."
                problem = f"cannot be loaded ({loading_problem(error)})"
                raise ModelUnavailable(f"tower {config.name}", problem, remedy) from error
            self._towers[config] = tower
        return self._towers[config]

    @torch.no_grad()
    def maps(self, tower: Tower, pixels: Tensor) -> TowerMaps:
        """Compute the maps of one image with a shared tower, or return the cached ones.

        Args:
            tower: from `get`.
            pixels: (3, H, W) uint8 RGB; H and W multiples of `tower.multiple`.
        """
        content = sha256(pixels.cpu().contiguous().numpy().data).hexdigest()
        key = f"{tower.config}{tuple(pixels.shape)}{content}"
        maps = self._maps.get(key)
        if maps is None:
            maps = tower(tower.normalise(pixels[None]))
            if _bytes(maps) <= self._maps.maxsize:
                self._maps[key] = maps
        return maps

    def _timm_tower(self, config: TowerConfig) -> Tower:
        architecture, _, file = config.name.partition(":")
        if architecture not in timm.list_models():
            raise ModelUnavailable(f"tower {config.name}", f"timm has no {architecture}", "Choose a name of timm.")
        options: dict[str, Any] = {"dynamic_img_size": True} if "vit" in architecture or "eva" in architecture else {}
        if config.dilated:
            options["output_stride"] = _DILATED_STRIDE
        trunk = timm.create_model(architecture, pretrained=not (file or config.random), num_classes=0, **options)
        if file and not config.random:
            trunk.load_state_dict(load_tower_weights(Path(file).expanduser()), strict=True)
        trunk.eval().requires_grad_(False).to(self._encoder.device)
        about = resolve_model_data_config(trunk)
        mean, std = (torch.tensor(about[name], device=self._encoder.device) for name in ("mean", "std"))
        is_vit = hasattr(trunk, "patch_embed")
        if is_vit:
            multiple = int(trunk.patch_embed.patch_size[0])
        else:
            multiple = _DILATED_STRIDE if config.dilated else _LARGEST_STRIDE
        run = partial(_run_timm, indices=_timm_hooks(trunk, config.hooks))
        return Tower(
            config, trunk, run, mean=mean, std=std, native_size=int(about["input_size"][1]), multiple=multiple
        )


def for_autograd(values: Tensor) -> Tensor:
    """The tensor itself, or a copy of one that was made in inference mode: autograd must not keep such a one."""
    return values.clone() if values.is_inference() else values


def _bytes(maps: TowerMaps) -> int:
    return sum(values.numel() * values.element_size() for values in maps.tensors())


def _encoder_tower(encoder: Encoder, config: TowerConfig) -> Tower:
    """The image tower of the loaded model, whatever its family."""
    visual, backbone = encoder.visual, encoder.backbone
    run: Callable[[Any, Tensor], TowerMaps]
    multiple = backbone.patch
    if hasattr(visual, "trunk"):
        timm_run = partial(_run_timm, indices=_timm_hooks(visual.trunk, config.hooks))
        run = partial(_run_trunk, run=timm_run, backbone=backbone)
        multiple = max(multiple, 1 if hasattr(visual.trunk, "blocks") else _LARGEST_STRIDE)
    elif hasattr(visual, "layer4"):
        run = partial(_run_dilated_resnet if config.dilated else _run_resnet, stages=config.hooks or _STAGES)
        multiple = multiple if config.dilated else _LARGEST_STRIDE
    else:
        run = partial(_run_vit, backbone=backbone, blocks=_blocks(len(visual.transformer.resblocks), config.hooks))
    return Tower(
        config, visual, run, mean=encoder.pixel_mean.flatten(), std=encoder.pixel_std.flatten(),
        native_size=backbone.native_size, multiple=multiple,
    )  # fmt: skip


def _evenly(depth: int) -> tuple[int, ...]:
    """Blocks at four even depths, the last one included: 5, 11, 17, 23 of 24. Of few blocks some come twice."""
    return tuple(max(0, round((k + 1) * depth / _LEVELS) - 1) for k in range(_LEVELS))


def _blocks(depth: int, hooks: tuple[int, ...]) -> tuple[int, ...]:
    """Raises ValueError where the hooks name blocks that are not there."""
    if any(not 0 <= k < depth for k in hooks):
        raise ValueError(f"it has blocks 0 to {depth - 1}, not {', '.join(map(str, hooks))}")
    return hooks or _evenly(depth)


def _timm_hooks(trunk: Any, hooks: tuple[int, ...]) -> tuple[int, ...]:
    """What `forward_intermediates` calls the hooks: its stages count from the stem."""
    if hasattr(trunk, "blocks"):
        return _blocks(len(trunk.blocks), hooks)
    if any(stage not in _STAGES for stage in hooks):
        raise ValueError(f"it has stages 1 to {len(_STAGES)}, not {', '.join(map(str, hooks))}")
    first = 0 if hasattr(trunk, "stages") else 1  # a ConvNeXt has no stem among them
    return tuple(stage - 1 + first for stage in hooks or _STAGES)


def _run_timm(trunk: Any, pixels: Tensor, *, indices: tuple[int, ...]) -> TowerMaps:
    """Read a ViT or a convolutional network of timm."""
    once = sorted(set(indices))
    read = partial(trunk.forward_intermediates, pixels, indices=once, intermediates_only=True)
    if not hasattr(trunk, "blocks"):
        return TowerMaps(tuple(_in_order(read(stop_early=True), once, indices)))
    patch = trunk.patch_embed.patch_size[0]
    timm_vit.set_grid(trunk, (pixels.shape[2] // patch, pixels.shape[3] // patch))
    if not trunk.num_prefix_tokens:
        return TowerMaps(tuple(_in_order(read(), once, indices)))
    both = _in_order(read(return_prefix_tokens=True), once, indices)
    return TowerMaps(tuple(one for one, _ in both), tuple(tokens[:, 0] for _, tokens in both))


def _in_order(found: list[Any], once: list[int], indices: tuple[int, ...]) -> list[Any]:
    return [found[once.index(k)] for k in indices]


def _run_trunk(
    visual: Any, pixels: Tensor, *, run: Callable[[Any, Tensor], TowerMaps], backbone: Backbone
) -> TowerMaps:
    """Read the timm network inside an open_clip tower, which the backbone runs in other threads."""
    with backbone.lock:
        maps = run(visual.trunk, pixels)
    if backbone.readout.proxy is not None:
        return maps
    return replace(maps, aligned=backbone(pixels).permute(0, 3, 1, 2))


def _run_vit(visual: Any, pixels: Tensor, *, backbone: Backbone, blocks: tuple[int, ...]) -> TowerMaps:
    """Read a native open_clip ViT: tokens after some blocks as they are, and the last block by the readout too."""
    grid = (pixels.shape[2] // backbone.patch, pixels.shape[3] // backbone.patch)
    collected: dict[int, Tensor] = dict.fromkeys(blocks, pixels)
    aligned = backbone.readout.proxy is None
    readout = backbone.readout if aligned else READOUTS["standard"]
    tokens = token_features(visual, pixels, readout=readout, collected=collected)
    levels = tuple(_on_grid(collected[k], grid) for k in blocks)
    return TowerMaps(levels, tuple(collected[k][:, 0] for k in blocks), _on_grid(tokens, grid) if aligned else None)


def _on_grid(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, 1 + h * w, C) tokens without the class token as (B, C, h, w)."""
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, *grid)


def _run_resnet(visual: Any, pixels: Tensor, *, stages: tuple[int, ...]) -> TowerMaps:
    """Read the stages of an open_clip ResNet as it was trained: every 4, 8, 16 and 32 pixels."""
    hidden, found = visual.stem(pixels), {}
    for stage in range(1, max(stages) + 1):
        hidden = found[stage] = getattr(visual, f"layer{stage}")(hidden)
    return TowerMaps(tuple(found[stage] for stage in stages))


def _run_dilated_resnet(visual: Any, pixels: Tensor, *, stages: tuple[int, ...]) -> TowerMaps:
    """Read the stages of an open_clip ResNet whose last two are dilated: every 4, 8, 8 and 8 pixels."""
    found = resnet.dilated_levels(visual, pixels)
    aligned = resnet.project(visual, found[-1]).permute(0, 3, 1, 2)
    return TowerMaps(tuple(found[stage - 1] for stage in stages), aligned=aligned)
