"""The image towers of open_clip models that give a feature per patch, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from cachetools import LRUCache
from torch import Tensor

from plugin_config.errors import ModelUnavailable
from worker.segmentation.encoders import convnext, resnet, timm_vit
from worker.segmentation.encoders.readouts import AUTO, Readout, Source, choose_readout
from worker.segmentation.encoders.vit import has_class_token, interpolate_positions, token_features

_CACHED_POSITION_GRIDS = 64
_VALUES_ALONE: frozenset[Source] = frozenset()  # a convolutional tower has no queries or keys to compare


class Backbone(Protocol):
    """An image tower, for one thread at a time.

    Attributes:
        patch: pixels from one feature to the next.
        native_size: side in pixels of the squares it was trained on.
        readout: how patch features are read out of its last layers.
        run: the computation itself; may be replaced by a compiled one.
    """

    patch: int
    native_size: int
    readout: Readout
    run: Callable[..., Tensor]

    def __call__(self, pixels: Tensor, proxies: Tensor | None = None) -> Tensor:
        """Compute a feature per patch.

        Args:
            pixels: (B, 3, H, W) float, normalised as the model expects; H and W multiples of `patch`.
            proxies: (B, H / patch, W / patch, P) features of a self-supervised ViT; required by a proxy readout.

        Returns:
            (B, H / patch, W / patch, D) features in the space shared with the text, not normalised.
        """
        ...


class VitBackbone:
    """Holds a native open_clip ViT and its position embeddings for recent grids; see `vit`."""

    def __init__(self, visual: Any, readout: Readout) -> None:
        self._visual = visual
        self._positions: LRUCache[tuple[int, int], Tensor] = LRUCache(_CACHED_POSITION_GRIDS)
        self.readout = readout
        self.run: Callable[..., Tensor] = partial(token_features, visual, readout=readout)
        self.patch = int(visual.conv1.kernel_size[0])
        self.native_size = round((visual.positional_embedding.shape[0] - 1) ** 0.5) * self.patch

    def __call__(self, pixels: Tensor, proxies: Tensor | None = None) -> Tensor:
        grid = (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch)
        tokens = self.run(pixels, positions=self._positions_for(grid), proxies=proxies)
        return tokens[:, 1:].reshape(tokens.shape[0], *grid, -1)

    def _positions_for(self, grid: tuple[int, int]) -> Tensor:
        if grid not in self._positions:
            self._positions[grid] = interpolate_positions(self._visual.positional_embedding, grid)
        return self._positions[grid]


class TimmVitBackbone:
    """Holds a ViT of timm (SigLIP, SigLIP2, PE-Core, EVA02) that takes images of any size; see `timm_vit`."""

    def __init__(self, visual: Any, readout: Readout) -> None:
        self._trunk = visual.trunk
        self.readout = readout
        self.patch = int(self._trunk.patch_embed.patch_size[0])
        self.native_size = int(self._trunk.patch_embed.img_size[0])
        self.run: Callable[..., Tensor] = partial(timm_vit.patch_features, visual, readout=readout)
        timm_vit.allow_any_size(self._trunk)

    def __call__(self, pixels: Tensor, proxies: Tensor | None = None) -> Tensor:
        timm_vit.set_grid(self._trunk, (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch))
        return self.run(pixels, proxies=proxies)


class ConvBackbone:
    """Holds an open_clip ResNet or a ConvNeXt whose last stages run with dilation; see `resnet` and `convnext`."""

    def __init__(self, visual: Any, readout: Readout, *, patch: int, dense: Callable[..., Tensor]) -> None:
        size = visual.image_size
        self.readout, self.patch = readout, patch
        self.native_size = int(size[0] if isinstance(size, tuple) else size)
        self.run: Callable[..., Tensor] = partial(dense, visual, proxy=readout.proxy)

    def __call__(self, pixels: Tensor, proxies: Tensor | None = None) -> Tensor:
        return self.run(pixels, proxies=proxies)


def dense_backbone(visual: Any, model: str, *, readout: str = AUTO, proxies: bool = False) -> Backbone:
    """Wrap the image tower of a model.

    Args:
        visual: `model.visual`.
        model: the MODEL setting, for the family of the weights and for error messages.
        readout: the READOUT setting.
        proxies: whether features of a self-supervised ViT will be passed in.

    Raises:
        ModelUnavailable: the tower is of no supported family, or has no such readout.
    """
    choose = partial(choose_readout, readout, model, proxies=proxies)
    trunk = getattr(visual, "trunk", None)
    if trunk is not None:
        sources = timm_vit.comparable_sources(trunk)
        if sources is not None:
            return TimmVitBackbone(visual, choose(offered=sources))
        if convnext.is_supported(trunk):
            chosen = choose(offered=_VALUES_ALONE)
            return ConvBackbone(visual, chosen, patch=convnext.PATCH, dense=convnext.dense_features)
    if all(hasattr(visual, part) for part in ("layer4", "attnpool")) and visual.attnpool is not None:
        return ConvBackbone(visual, choose(offered=_VALUES_ALONE), patch=resnet.PATCH, dense=resnet.dense_features)
    if has_class_token(visual):
        return VitBackbone(visual, choose(offered=timm_vit.TOKEN_POOL))
    kind = type(visual).__name__ if trunk is None else f"{type(visual).__name__} around {type(trunk).__name__}"
    raise ModelUnavailable(
        f"model {model}",
        f"its image tower ({kind}) cannot be read patch by patch: neither a native ViT with a class token, a ResNet, a "
        "SigLIP, PE-Core or EVA ViT, nor a ConvNeXt",
        "Choose another, for example MODEL=ViT-B-16/datacomp_xl_s13b_b90k.",
    )
