"""The image towers of open_clip models that give a feature per patch, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from threading import RLock
from types import ModuleType
from typing import Any

from cachetools import LRUCache
from torch import Tensor

from plugin_config.errors import ModelUnavailable
from worker.segmentation.encoders import convnext, resnet, timm_vit, vit
from worker.segmentation.encoders.readouts import AUTO, Readout, Source, choose_readout
from worker.segmentation.encoders.tiling import Tiling

_CACHED_POSITION_GRIDS = 64
_VALUES_ALONE: frozenset[Source] = frozenset()  # a convolutional tower has no queries or keys to compare


class Backbone(ABC):
    """An image tower, for any thread, in two steps: all but its last layer, and a readout of that.

    Attributes:
        lock: held while the network is set to one grid of patches; whoever else runs the network takes it, too.
        patch: pixels from one feature to the next.
        native_size: side in pixels of the squares it was trained on.
        readout: how patch features are read out of its last layers.
        run: the computation of `deepen` itself; may be replaced by a compiled one.
    """

    patch: int
    native_size: int
    readout: Readout
    run: Callable[..., Tensor]

    def __init__(self) -> None:
        self.lock = RLock()

    def __call__(self, pixels: Tensor, proxies: Tensor | None = None) -> Tensor:
        """Do both steps for images that are not windows of one another; see `deepen` and `read`."""
        grid = (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch)
        return self.read(self.deepen(pixels), grid, proxies)

    @abstractmethod
    def deepen(self, pixels: Tensor) -> Tensor:
        """Compute what the readout reads, nearly all of the work.

        Args:
            pixels: (B, 3, H, W) float, normalised as the model expects; H and W multiples of `patch`.

        Returns:
            Tokens or maps of the batch, in the tower's own form.
        """

    @abstractmethod
    def read(
        self, deep: Tensor, grid: tuple[int, int], proxies: Tensor | None = None, tiling: Tiling | None = None
    ) -> Tensor:
        """Read a feature per patch out of it.

        Args:
            deep: from `deepen`, of B images or windows.
            grid: (h, w) patches of each.
            proxies: (B, h, w, P) features of a self-supervised ViT; required by a proxy readout.
            tiling: where B windows lie in one image, for a readout that is `stitched`; None = each by itself.

        Returns:
            (B, h, w, D) features in the space shared with the text, not normalised.
        """


class VitBackbone(Backbone):
    """Holds a native open_clip ViT and its position embeddings for recent grids; see `vit`."""

    def __init__(self, visual: Any, readout: Readout) -> None:
        super().__init__()
        self._visual = visual
        self._positions: LRUCache[tuple[int, int], Tensor] = LRUCache(_CACHED_POSITION_GRIDS)
        self.readout = readout
        self.run: Callable[..., Tensor] = partial(vit.deep_tokens, visual)
        self.patch = int(visual.conv1.kernel_size[0])
        self.native_size = round((visual.positional_embedding.shape[0] - 1) ** 0.5) * self.patch

    def deepen(self, pixels: Tensor) -> Tensor:
        grid = (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch)
        return self.run(pixels, positions=self._positions_for(grid))

    def read(
        self, deep: Tensor, grid: tuple[int, int], proxies: Tensor | None = None, tiling: Tiling | None = None
    ) -> Tensor:
        tokens = vit.read_tokens(self._visual, deep, grid, readout=self.readout, proxies=proxies, tiling=tiling)
        return tokens[:, 1:].reshape(len(tokens), *grid, -1)

    def _positions_for(self, grid: tuple[int, int]) -> Tensor:
        with self.lock:
            if grid not in self._positions:
                self._positions[grid] = vit.interpolate_positions(self._visual.positional_embedding, grid)
            return self._positions[grid]


class TimmVitBackbone(Backbone):
    """Holds a ViT of timm (SigLIP, SigLIP2, PE-Core, EVA02) that takes images of any size; see `timm_vit`."""

    def __init__(self, visual: Any, readout: Readout) -> None:
        super().__init__()
        self._visual, self._trunk = visual, visual.trunk
        self.readout = readout
        self.patch = int(self._trunk.patch_embed.patch_size[0])
        self.native_size = int(self._trunk.patch_embed.img_size[0])
        self.run: Callable[..., Tensor] = partial(timm_vit.deep_tokens, visual)
        timm_vit.allow_any_size(self._trunk)

    def deepen(self, pixels: Tensor) -> Tensor:
        with self.lock:
            timm_vit.set_grid(self._trunk, (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch))
            return self.run(pixels)

    def read(
        self, deep: Tensor, grid: tuple[int, int], proxies: Tensor | None = None, tiling: Tiling | None = None
    ) -> Tensor:
        with self.lock:
            timm_vit.set_grid(self._trunk, grid)
            return timm_vit.read_tokens(
                self._visual, deep, grid, readout=self.readout, proxies=proxies, tiling=tiling
            )


class ConvBackbone(Backbone):
    """Holds an open_clip ResNet or a ConvNeXt whose last stages run with dilation; see `resnet` and `convnext`."""

    def __init__(self, visual: Any, readout: Readout, family: ModuleType) -> None:
        super().__init__()
        size = visual.image_size
        self._visual, self._family = visual, family
        self.readout, self.patch = readout, int(family.PATCH)
        self.native_size = int(size[0] if isinstance(size, tuple) else size)
        self.run: Callable[..., Tensor] = partial(family.last_stage, visual)

    def deepen(self, pixels: Tensor) -> Tensor:
        return self.run(pixels)

    def read(
        self, deep: Tensor, grid: tuple[int, int], proxies: Tensor | None = None, tiling: Tiling | None = None
    ) -> Tensor:
        read: Tensor = self._family.read_features(
            self._visual, deep, proxy=self.readout.proxy, proxies=proxies, tiling=tiling
        )
        return read


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
            stitches = not timm_vit.has_rotary_positions(trunk)
            return TimmVitBackbone(visual, choose(offered=sources, stitches=stitches))
        if convnext.is_supported(trunk):
            return ConvBackbone(visual, choose(offered=_VALUES_ALONE), convnext)
    if all(hasattr(visual, part) for part in ("layer4", "attnpool")) and visual.attnpool is not None:
        return ConvBackbone(visual, choose(offered=_VALUES_ALONE), resnet)
    if vit.has_class_token(visual):
        return VitBackbone(visual, choose(offered=timm_vit.TOKEN_POOL))
    kind = type(visual).__name__ if trunk is None else f"{type(visual).__name__} around {type(trunk).__name__}"
    raise ModelUnavailable(
        f"model {model}",
        f"its image tower ({kind}) cannot be read patch by patch: neither a native ViT with a class token, a ResNet, a "
        "SigLIP, PE-Core or EVA ViT, nor a ConvNeXt",
        "Choose another, for example MODEL=ViT-B-16/datacomp_xl_s13b_b90k.",
    )
