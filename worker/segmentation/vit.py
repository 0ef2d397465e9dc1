"""Patch features of a native open_clip ViT at any image size, in one forward.

Works on the tower's parameters alone (names, not classes), because open_clip swaps attention classes between releases.
It must not know about text, files or Label Studio.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Readout = Literal["value", "standard"]


def interpolate_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize learned position embeddings to another patch grid, as open_clip does when it loads other sizes.

    Args:
        positions: (1 + n * n, width) float, class token first, square native grid.
        grid: (h, w) patches wanted.

    Returns:
        (1 + h * w, width) float; the very same tensor when the grid is the native one.
    """
    native = int((positions.shape[0] - 1) ** 0.5)
    if grid == (native, native):
        return positions
    patches = positions[1:].reshape(1, native, native, -1).permute(0, 3, 1, 2)  # (1, width, n, n)
    patches = F.interpolate(patches, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], patches.flatten(2)[0].T])  # (1 + h * w, width)


def token_features(
    visual: Any, pixels: Tensor, *, positions: Tensor | None = None, readout: Readout = "value"
) -> Tensor:
    """Project every token of the last block into the space shared with the text.

    Args:
        visual: open_clip's own `VisionTransformer` with a class-token pool.
        pixels: (B, 3, H, W) float, normalised as the model wants it; H and W multiples of the patch size.
        positions: (1 + h * w, width) embeddings for this grid; interpolated here when None.
        readout: "standard" runs the last block as trained, so that token 0 equals `encode_image`. "value" lets every
            token see only itself there: out_proj(v(x)) without residual and MLP (MaskCLIP, Zhou et al., ECCV 2022;
            residual and MLP dropped as in ClearCLIP, Lan et al., ECCV 2024). Patch tokens then speak for their place.

    Returns:
        (B, 1 + h * w, D) features, class token first, rows of the grid after it; not normalised.
    """
    tokens = visual.conv1(pixels)  # (B, width, h, w)
    grid = (tokens.shape[2], tokens.shape[3])
    if positions is None:
        positions = interpolate_positions(visual.positional_embedding, grid)
    tokens = tokens.flatten(2).transpose(1, 2)  # (B, h * w, width)
    cls = visual.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
    tokens = visual.ln_pre(torch.cat([cls, tokens], dim=1) + positions.to(tokens.dtype))
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    tokens = _value_block(last, tokens) if readout == "value" else last(tokens)
    projected: Tensor = visual.ln_post(tokens) @ visual.proj  # (B, 1 + h * w, D)
    return projected


def _value_block(block: Any, tokens: Tensor) -> Tensor:
    width = tokens.shape[-1]
    attention = block.attn
    weight, bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
    seen: Tensor = block.ls_1(attention.out_proj(F.linear(block.ln_1(tokens), weight, bias)))
    return seen
