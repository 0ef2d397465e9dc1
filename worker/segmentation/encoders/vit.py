"""Patch features of a native open_clip ViT at any image size, in one forward.

It reads the tower's parameters by name, because open_clip changes its attention classes between releases.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.segmentation.encoders.readouts import READOUTS, Readout, Source, attend
from worker.segmentation.encoders.tiling import Tiling

_VALUE = READOUTS["value"]
_STANDARD = READOUTS["standard"]
_ORDER: tuple[Source, ...] = ("q", "k", "v")  # the thirds of in_proj


def interpolate_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize learned position embeddings to another patch grid, as open_clip does when it loads other sizes.

    Args:
        positions: (1 + n * n, width) float, class token first, square native grid.
        grid: (h, w) patches of the new grid.

    Returns:
        (1 + h * w, width) float; the same tensor when the grid is the native one.
    """
    native = int((positions.shape[0] - 1) ** 0.5)
    if grid == (native, native):
        return positions
    patches = positions[1:].reshape(1, native, native, -1).permute(0, 3, 1, 2)  # (1, width, n, n)
    patches = F.interpolate(patches, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], patches.flatten(2)[0].T])  # (1 + h * w, width)


def has_class_token(visual: Any) -> bool:
    """Whether an image tower is open_clip's own ViT, pooled by its class token."""
    if not all(hasattr(visual, part) for part in ("conv1", "class_embedding", "transformer", "ln_post")):
        return False
    return getattr(visual, "attn_pool", None) is None and getattr(visual, "pool_type", "tok") == "tok"


def first_tokens(visual: Any, pixels: Tensor, *, positions: Tensor | None = None) -> tuple[Tensor, tuple[int, int]]:
    """Turn pixels into what the first block takes.

    Args:
        visual: open_clip's own `VisionTransformer` with a class-token pool.
        pixels: (B, 3, H, W) float, normalised as the model expects; H and W multiples of the patch size.
        positions: (1 + h * w, width) embeddings for this grid; interpolated here when None.

    Returns:
        (B, 1 + h * w, width) tokens, class token first, then the grid row by row; and the grid (h, w) of patches.
    """
    tokens = visual.conv1(pixels)  # (B, width, h, w)
    grid = (tokens.shape[2], tokens.shape[3])
    if positions is None:
        positions = interpolate_positions(visual.positional_embedding, grid)
    tokens = tokens.flatten(2).transpose(1, 2)  # (B, h * w, width)
    cls = visual.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
    return visual.ln_pre(torch.cat([cls, tokens], dim=1) + positions.to(tokens.dtype)), grid


def run_block(block: Any, tokens: Tensor) -> Tensor:
    """Run one block as it was trained, on (B, N, width) tokens of any kind."""
    return _run_block(block, tokens, (0, 0), _STANDARD, None)  # attention between all tokens needs no grid


def token_features(
    visual: Any,
    pixels: Tensor,
    *,
    positions: Tensor | None = None,
    readout: Readout = _VALUE,
    proxies: Tensor | None = None,
    collected: dict[int, Tensor] | None = None,
) -> Tensor:
    """Project every token of the last block into the space shared with the text.

    Args:
        visual: open_clip's own `VisionTransformer` with a class-token pool.
        pixels: (B, 3, H, W) float, normalised as the model expects; H and W multiples of the patch size.
        positions: (1 + h * w, width) embeddings for this grid; interpolated here when None.
        readout: what replaces the last block's attention. With `standard`, token 0 equals `encode_image`.
        proxies: (B, h, w, P) features of another model, for a proxy readout.
        collected: takes (B, 1 + h * w, width) tokens after those blocks that are its keys, as the tower was trained:
            the readout changes nothing about them.

    Returns:
        (B, 1 + h * w, D) features, class token first, then the grid row by row; not normalised.
    """
    patch = visual.conv1.kernel_size[0]
    grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
    tokens = deep_tokens(visual, pixels, positions=positions, collected=collected)
    return read_tokens(visual, tokens, grid, readout=readout, proxies=proxies)


def deep_tokens(
    visual: Any, pixels: Tensor, *, positions: Tensor | None = None, collected: dict[int, Tensor] | None = None
) -> Tensor:
    """Run every block but the last; see `token_features`: (B, 1 + h * w, width) tokens."""
    tokens, grid = first_tokens(visual, pixels, positions=positions)
    *blocks, last = visual.transformer.resblocks
    wanted = {} if collected is None else collected
    for number, block in enumerate(blocks):  # not torch's fast path, which materialises the attention matrix: slower
        tokens = _run_block(block, tokens, grid, _STANDARD, None)
        if number in wanted:
            wanted[number] = tokens
    if len(blocks) in wanted:
        wanted[len(blocks)] = _run_block(last, tokens, grid, _STANDARD, None)
    return tokens


def read_tokens(
    visual: Any,
    tokens: Tensor,
    grid: tuple[int, int],
    *,
    readout: Readout,
    proxies: Tensor | None = None,
    tiling: Tiling | None = None,
) -> Tensor:
    """Run the last block and project its tokens: what `token_features` makes of `deep_tokens`.

    Args:
        visual, readout, proxies: see `token_features`.
        tokens: (B, 1 + h * w, width) after all blocks but the last.
        grid: (h, w) patches of each member of the batch.
        tiling: where the members lie in one image, for attention over all of them at once.

    Returns:
        (B, 1 + h * w, D) features, not normalised.
    """
    tokens = _run_block(visual.transformer.resblocks[-1], tokens, grid, readout, proxies, tiling)
    projected: Tensor = visual.ln_post(tokens) @ visual.proj
    return projected


def _run_block(
    block: Any,
    tokens: Tensor,
    grid: tuple[int, int],
    readout: Readout,
    proxies: Tensor | None,
    tiling: Tiling | None = None,
) -> Tensor:
    attention, heads = block.attn, int(block.attn.num_heads)
    sources = _sources(attention, block.ln_1(tokens), heads, readout)
    scale = (tokens.shape[-1] // heads) ** -0.5
    mixed = attend(readout, sources, grid, scale=scale, proxies=proxies, tiling=tiling).transpose(1, 2).flatten(2)
    output: Tensor = block.ls_1(attention.out_proj(mixed))
    if readout.residual:
        output = tokens + output
    if readout.mlp:
        output = output + block.ls_2(block.mlp(block.ln_2(output)))
    return output


def _sources(attention: Any, tokens: Tensor, heads: int, readout: Readout) -> dict[Source, Tensor]:
    """Compute the queries, keys and values that the readout needs, (B, heads, N, d) each."""
    width = tokens.shape[-1]
    found: dict[Source, Tensor] = {}
    for place, source in enumerate(_ORDER):
        if source == "v" or source in readout.compared:
            third = slice(place * width, (place + 1) * width)
            flat = F.linear(tokens, attention.in_proj_weight[third], attention.in_proj_bias[third])
            found[source] = flat.reshape(*tokens.shape[:2], heads, width // heads).transpose(1, 2)
    return found
