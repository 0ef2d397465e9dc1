"""Image towers token by token, for networks that put tokens of their own between the class token and the patches."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from plugin_config.errors import ModelUnavailable
from worker.segmentation.encoders.towers import Tower
from worker.segmentation.encoders.vit import first_tokens, has_class_token, run_block

_REMEDY = "Choose a model whose image tower is a ViT with one, for example MODEL=ViT-B-16/datacomp_xl_s13b_b90k."


class TokenTower(Protocol):
    """A ViT with a class token.

    Attributes:
        width: of its tokens.
        depth: how many blocks it has.
        prefix: how many tokens come before the patches, the class token first.
        out_width: of what `finish` returns.
        shares_text: whether that is in the space of the model's texts.
    """

    width: int
    depth: int
    prefix: int
    out_width: int
    shares_text: bool

    def start(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) float32 pixels to (B, prefix + h * w, width) tokens and the grid (h, w)."""
        ...

    def block(self, number: int, tokens: Tensor) -> Tensor:
        """Run a block, from 0, on (B, N, width) tokens of any kind."""
        ...

    def finish(self, tokens: Tensor) -> Tensor:
        """(B, N, width) tokens after the last block to (B, N, out_width): the last norm and the projection."""
        ...


class NativeTokens:
    """The tokens of open_clip's own ViT.

    Args:
        visual: with a class-token pool.
        grid_as_released: side in patches of the grid that positions pass through, bilinear both times, while the class
            embedding is added twice: what the released weights of ZegCLIP are used to. 0 = as open_clip does it.
    """

    prefix, shares_text = 1, True

    def __init__(self, visual: Any, *, grid_as_released: int = 0) -> None:
        self._visual, self._released = visual, grid_as_released
        self.width, self.depth = int(visual.class_embedding.shape[0]), len(visual.transformer.resblocks)
        self.out_width = self.width if visual.proj is None else int(visual.proj.shape[1])

    def start(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """See `TokenTower`."""
        if not self._released:
            return first_tokens(self._visual, pixels)
        patch = self._visual.conv1.kernel_size[0]
        positions = bilinear_positions(self._visual.positional_embedding, (self._released, self._released))
        positions = bilinear_positions(positions, (pixels.shape[2] // patch, pixels.shape[3] // patch))
        positions = torch.cat([positions[:1] + self._visual.class_embedding, positions[1:]])
        return first_tokens(self._visual, pixels, positions=positions)

    def block(self, number: int, tokens: Tensor) -> Tensor:
        """See `TokenTower`."""
        return run_block(self._visual.transformer.resblocks[number], tokens)

    def finish(self, tokens: Tensor) -> Tensor:
        """See `TokenTower`."""
        tokens = self._visual.ln_post(tokens)
        return tokens if self._visual.proj is None else tokens @ self._visual.proj


class TimmTokens:
    """The tokens of a plain ViT of timm, such as a DINOv2: it shares no space with texts."""

    shares_text = False

    def __init__(self, trunk: VisionTransformer) -> None:
        self._trunk = trunk
        self.width = self.out_width = int(trunk.embed_dim)
        self.depth, self.prefix = len(trunk.blocks), int(trunk.num_prefix_tokens)

    def start(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """See `TokenTower`."""
        patches = self._trunk.patch_embed(pixels)  # (B, h, w, width): such towers take any size
        grid = (patches.shape[1], patches.shape[2])
        return self._trunk.norm_pre(self._trunk._pos_embed(patches)), grid

    def block(self, number: int, tokens: Tensor) -> Tensor:
        """See `TokenTower`."""
        return torch.as_tensor(self._trunk.blocks[number](tokens))

    def finish(self, tokens: Tensor) -> Tensor:
        """See `TokenTower`."""
        return torch.as_tensor(self._trunk.norm(tokens))


def token_tower(tower: Tower, *, grid_as_released: int = 0) -> TokenTower:
    """Read a tower token by token.

    Args:
        tower: of the loaded model, or of timm.
        grid_as_released: see `NativeTokens`.

    Raises:
        ModelUnavailable: it is no ViT with a class token, or of a family that is not read this way.
    """
    module = tower.module
    if has_class_token(module):
        return NativeTokens(module, grid_as_released=grid_as_released)
    if isinstance(module, VisionTransformer) and module.cls_token is not None:
        return TimmTokens(module)
    if isinstance(getattr(module, "trunk", None), VisionTransformer):
        problem = "a ViT of timm inside a model of open_clip is not read token by token"
        remedy = "Name a ViT of timm by --tower NAME or NAME:FILE, or choose a model whose ViT is open_clip's own."
        raise ModelUnavailable(f"tower {tower.config.name}", problem, remedy)
    kind = type(getattr(module, "trunk", module)).__name__
    raise ModelUnavailable(f"tower {tower.config.name}", f"a {kind} is no plain ViT with a class token", _REMEDY)


def bilinear_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize (1 + n * n, width) position embeddings, class token first, to (1 + h * w, width)."""
    native = round((len(positions) - 1) ** 0.5)
    if grid == (native, native):
        return positions
    patches = positions[1:].reshape(1, native, native, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], patches.flatten(2)[0].T])
