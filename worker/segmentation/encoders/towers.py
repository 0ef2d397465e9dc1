"""One way into every image tower that can be read patch by patch: pixels -> a feature per patch.

It must not know about text, files or Label Studio.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from plugin_config.errors import ModelUnavailable
from worker.segmentation.encoders import convnext, resnet, timm_vit
from worker.segmentation.encoders.readouts import AUTO, Readout, Source, choose_readout
from worker.segmentation.encoders.vit import interpolate_positions, token_features

_POSITION_GRIDS_KEPT = 64
_NOTHING: frozenset[Source] = frozenset()


class Tower(Protocol):
    """An image tower, for one thread at a time.

    Attributes:
        patch: pixels from one feature to the next.
        native_size: pixels of the squares it was trained on.
        readout: how its patches are read.
        run: the computation itself, which may be exchanged for a compiled one.
    """

    patch: int
    native_size: int
    readout: Readout
    run: Callable[..., Tensor]

    def __call__(self, pixels: Tensor, proxies: Tensor | None = None) -> Tensor:
        """Give every patch its feature.

        Args:
            pixels: (B, 3, H, W) float, normalised as the model wants it; H and W multiples of `patch`.
            proxies: (B, H / patch, W / patch, P) features of the affinity tower; needed by a readout by proxy.

        Returns:
            (B, H / patch, W / patch, D) features in the space shared with the text, not normalised.
        """
        ...


class VitTower:
    """Holds a native open_clip ViT and its position embeddings for the grids met so far."""

    def __init__(self, visual: Any, readout: Readout) -> None:
        self._visual = visual
        self._positions: dict[tuple[int, int], Tensor] = {}
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
            if len(self._positions) >= _POSITION_GRIDS_KEPT:
                self._positions.clear()
            self._positions[grid] = interpolate_positions(self._visual.positional_embedding, grid)
        return self._positions[grid]


class TimmVitTower:
    """Holds a ViT of timm (SigLIP, SigLIP2, PE-Core, EVA02), freed of its native size; see `timm_vit`."""

    def __init__(self, visual: Any, readout: Readout) -> None:
        self._trunk = visual.trunk
        self.readout = readout
        self.patch = int(self._trunk.patch_embed.patch_size[0])
        self.native_size = int(self._trunk.patch_embed.img_size[0])
        self.run: Callable[..., Tensor] = partial(timm_vit.patch_features, visual, readout=readout)
        timm_vit.free_size(self._trunk)

    def __call__(self, pixels: Tensor, proxies: Tensor | None = None) -> Tensor:
        timm_vit.set_grid(self._trunk, (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch))
        return self.run(pixels, proxies=proxies)


class ConvTower:
    """Holds an open_clip ResNet or a ConvNeXt, read à trous; see `resnet` and `convnext`."""

    def __init__(self, visual: Any, readout: Readout, *, patch: int, dense: Callable[..., Tensor]) -> None:
        size = visual.image_size
        self.readout, self.patch = readout, patch
        self.native_size = int(size[0] if isinstance(size, tuple) else size)
        self.run: Callable[..., Tensor] = partial(dense, visual, proxy=readout.proxy)

    def __call__(self, pixels: Tensor, proxies: Tensor | None = None) -> Tensor:
        return self.run(pixels, proxies=proxies)


def read_tower(visual: Any, name: str, *, readout: str = AUTO, proxies: bool = False) -> Tower:
    """Wrap the image tower of a model.

    Args:
        visual: `model.visual`.
        name: the MODEL setting, for the weights' family and the error.
        readout: the READOUT setting.
        proxies: whether it will be handed the features of an affinity tower.

    Raises:
        ModelUnavailable: a tower of no family that can be read, or no such readout of it.
    """
    choose = partial(choose_readout, readout, name, proxies=proxies)
    trunk = getattr(visual, "trunk", None)
    if trunk is not None:
        found = timm_vit.offered(trunk)
        if found is not None:
            return TimmVitTower(visual, choose(offered=found))
        if convnext.can_be_read(trunk):
            chosen = choose(offered=_NOTHING)
            return ConvTower(visual, chosen, patch=convnext.PATCH, dense=convnext.dense_features)
    if all(hasattr(visual, part) for part in ("layer4", "attnpool")) and visual.attnpool is not None:
        return ConvTower(visual, choose(offered=_NOTHING), patch=resnet.PATCH, dense=resnet.dense_features)
    has_parts = all(hasattr(visual, part) for part in ("conv1", "class_embedding", "transformer", "ln_post"))
    if has_parts and getattr(visual, "attn_pool", None) is None and getattr(visual, "pool_type", "tok") == "tok":
        return VitTower(visual, choose(offered=timm_vit.TOKEN_POOL))
    kind = type(visual).__name__ if trunk is None else f"{type(visual).__name__} around {type(trunk).__name__}"
    raise ModelUnavailable(
        f"model {name}",
        f"its image tower ({kind}) cannot be read patch by patch: neither a native ViT with a class token, a ResNet, a "
        "SigLIP, PE-Core or EVA ViT, nor a ConvNeXt",
        "Choose another, for example MODEL=ViT-B-16/datacomp_xl_s13b_b90k.",
    )
