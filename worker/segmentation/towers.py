"""One way into every image tower that can be read patch by patch: pixels -> a feature per patch.

It must not know about text, files or Label Studio.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from plugin_config.errors import ModelUnavailable
from worker.segmentation import resnet
from worker.segmentation.vit import interpolate_positions, token_features

_POSITION_GRIDS_KEPT = 64


class Tower(Protocol):
    """An image tower.

    Attributes:
        patch: pixels from one feature to the next.
        native_size: pixels of the squares it was trained on.
    """

    patch: int
    native_size: int

    def __call__(self, pixels: Tensor) -> Tensor:
        """Give every patch its feature.

        Args:
            pixels: (B, 3, H, W) float, normalised as the model wants it; H and W multiples of `patch`.

        Returns:
            (B, H / patch, W / patch, D) features in the space shared with the text, not normalised.
        """
        ...


class VitTower:
    """Holds a native open_clip ViT and its position embeddings for the grids met so far."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        self._positions: dict[tuple[int, int], Tensor] = {}
        self.patch = int(visual.conv1.kernel_size[0])
        self.native_size = round((visual.positional_embedding.shape[0] - 1) ** 0.5) * self.patch

    def __call__(self, pixels: Tensor) -> Tensor:
        grid = (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch)
        tokens = token_features(self._visual, pixels, positions=self._positions_for(grid))
        return tokens[:, 1:].reshape(tokens.shape[0], *grid, -1)

    def _positions_for(self, grid: tuple[int, int]) -> Tensor:
        if grid not in self._positions:
            if len(self._positions) >= _POSITION_GRIDS_KEPT:
                self._positions.clear()
            self._positions[grid] = interpolate_positions(self._visual.positional_embedding, grid)
        return self._positions[grid]


class ResNetTower:
    """Holds an open_clip ResNet, read à trous; see `worker.segmentation.resnet`."""

    patch = resnet.PATCH

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        self.native_size = int(visual.image_size)

    def __call__(self, pixels: Tensor) -> Tensor:
        return resnet.dense_features(self._visual, pixels)


def read_tower(visual: Any, name: str) -> Tower:
    """Wrap the image tower of a model.

    Args:
        visual: `model.visual`.
        name: the MODEL setting, for the error.

    Raises:
        ModelUnavailable: neither open_clip's own ViT with a class-token pool nor its ResNet with an attention pool.
    """
    if all(hasattr(visual, part) for part in ("layer4", "attnpool")) and visual.attnpool is not None:
        return ResNetTower(visual)
    has_parts = all(hasattr(visual, part) for part in ("conv1", "class_embedding", "transformer", "ln_post"))
    if has_parts and getattr(visual, "attn_pool", None) is None and getattr(visual, "pool_type", "tok") == "tok":
        return VitTower(visual)
    raise ModelUnavailable(
        f"model {name}",
        f"its image tower ({type(visual).__name__}) is neither a native open_clip ViT with a class token nor a ResNet",
        "Choose a native ViT, for example MODEL=ViT-B-16/datacomp_xl_s13b_b90k.",
    )
