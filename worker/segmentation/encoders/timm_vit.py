"""Patch features of a ViT of timm inside an open_clip model (SigLIP, SigLIP2, PE-Core, EVA02), at any image size.

Two kinds of pool. With a class token the last block's attention is the pool, as in a native ViT. With an attention pool
(a learned query looks at all patches last) that pool is what a readout replaces: its values, its output projection and
its MLP stay, so that a patch is read exactly as if the pool had looked at that patch alone. That is MaskCLIP's value
path (Zhou et al., ECCV 2022) where these towers have it. It must not know about text, files or Label Studio.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Format, PatchEmbed, apply_rot_embed_cat
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block
from torch import Tensor

from worker.segmentation.encoders.readouts import Readout, Source, attend

TOKEN_POOL: frozenset[Source] = frozenset({"q", "k", "v"})
ATTENTION_POOL: frozenset[Source] = frozenset({"k", "v"})  # its query belongs to no patch


def offered(trunk: Any) -> frozenset[Source] | None:
    """What of every patch the trunk's last attention offers to compare; None where the trunk cannot be read so."""
    blocks, pool = getattr(trunk, "blocks", None), getattr(trunk, "global_pool", None)
    if not blocks or not isinstance(getattr(trunk, "patch_embed", None), PatchEmbed):
        return None
    if not isinstance(blocks[-1], Block | EvaBlock | EvaBlockPostNorm) or getattr(trunk, "rope_mixed", False):
        return None
    if pool == "map" and trunk.attn_pool.pos_embed is None:
        return ATTENTION_POOL
    return TOKEN_POOL if pool == "token" and getattr(blocks[-1].attn, "gate", None) is None else None


def free_size(trunk: Any) -> None:
    """Let the trunk take pictures of any size: positions are interpolated and rotations made for the grid at hand."""
    trunk.dynamic_img_size = True
    embed = trunk.patch_embed
    embed.strict_img_size, embed.flatten, embed.output_fmt = False, False, Format.NHWC


def set_grid(trunk: Any, grid: tuple[int, int]) -> None:
    """Make the rotary embedding, which timm keeps for one grid at a time, fit this one."""
    if getattr(trunk, "rope", None) is not None:
        trunk.rope.update_feat_shape(grid)


def patch_features(visual: Any, pixels: Tensor, *, readout: Readout, proxies: Tensor | None = None) -> Tensor:
    """Project every patch into the space shared with the text.

    Args:
        visual: open_clip's `TimmModel` around a ViT that `offered` accepts, `free_size` has freed and `set_grid` fits.
        pixels: (B, 3, H, W) float, normalised as the model wants it; H and W multiples of the patch size.
        readout: what the last attention is replaced by.
        proxies: (B, h, w, P) features of another tower, for a readout by proxy.

    Returns:
        (B, h, w, D) features, not normalised.
    """
    trunk = visual.trunk
    tokens = trunk.patch_embed(pixels)  # (B, h, w, width)
    grid = (tokens.shape[1], tokens.shape[2])
    placed = trunk._pos_embed(tokens)
    tokens, rope = placed if isinstance(placed, tuple) else (placed, None)
    tokens = trunk.norm_pre(tokens)
    by_pool = trunk.global_pool == "map"
    for block in trunk.blocks if by_pool else trunk.blocks[:-1]:
        tokens = block(tokens) if rope is None else block(tokens, rope=rope)
    if by_pool:
        tokens = _read_pool(trunk.attn_pool, trunk.norm(tokens), grid, readout, proxies)
    else:
        tokens = trunk.norm(_read_block(trunk.blocks[-1], tokens, rope, grid, readout, proxies))
    patches = tokens[:, -grid[0] * grid[1] :].reshape(len(tokens), *grid, -1)
    projected: Tensor = visual.head(trunk.head(trunk.fc_norm(patches)))
    return projected


def _read_pool(pool: Any, tokens: Tensor, grid: tuple[int, int], readout: Readout, proxies: Tensor | None) -> Tensor:
    keys, values = _heads(pool.kv(tokens), pool.num_heads, parts=2)
    sources: dict[Source, Tensor] = {"k": pool.k_norm(keys).type_as(values), "v": values}
    mixed = attend(readout, sources, grid, scale=pool.scale, proxies=proxies).transpose(1, 2).flatten(2)
    seen: Tensor = pool.proj(mixed)
    return seen if pool.mlp is None else seen + pool.mlp(pool.norm(seen))


def _read_block(
    block: Any,
    tokens: Tensor,
    rope: Tensor | None,
    grid: tuple[int, int],
    readout: Readout,
    proxies: Tensor | None,
) -> Tensor:
    attention, norm_after = block.attn, isinstance(block, EvaBlockPostNorm)
    sources = _sources(attention, tokens if norm_after else block.norm1(tokens), rope)
    mixed = attend(readout, sources, grid, scale=attention.scale, proxies=proxies).transpose(1, 2).flatten(2)
    seen = attention.proj(attention.norm(mixed))
    seen = block.norm1(seen) if norm_after else _scaled(block, seen, 1)
    if readout.residual:
        seen = tokens + seen
    if readout.mlp:
        seen = seen + (block.norm2(block.mlp(seen)) if norm_after else _scaled(block, block.mlp(block.norm2(seen)), 2))
    return torch.as_tensor(seen)


def _scaled(block: Any, seen: Tensor, number: int) -> Tensor:
    """Layer scale, which timm's two kinds of block name differently."""
    if hasattr(block, f"ls{number}"):
        return torch.as_tensor(getattr(block, f"ls{number}")(seen))
    gamma = getattr(block, f"gamma_{number}")
    return seen if gamma is None else seen * gamma


def _sources(attention: Any, tokens: Tensor, rope: Tensor | None) -> dict[Source, Tensor]:
    """Queries, keys and values of every token as the block's own attention makes them, (B, heads, N, d) each."""
    heads = attention.num_heads
    if attention.qkv is not None:
        bias = getattr(attention, "q_bias", None)
        if bias is None:
            flat = attention.qkv(tokens)
        else:
            whole = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
            flat = F.linear(tokens, attention.qkv.weight, whole)
        queries, keys, values = _heads(flat, heads, parts=3)
    else:
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        queries, keys, values = (_heads(projection(tokens), heads, parts=1)[0] for projection in projections)
    queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    if rope is not None:
        prefix, half = attention.num_prefix_tokens, bool(getattr(attention, "rotate_half", False))
        queries, keys = (
            torch.cat([x[:, :, :prefix], apply_rot_embed_cat(x[:, :, prefix:], rope, half=half)], dim=2)
            for x in (queries, keys)
        )
    return {"q": queries.type_as(values), "k": keys.type_as(values), "v": values}


def _heads(flat: Tensor, heads: int, *, parts: int) -> tuple[Tensor, ...]:
    """(B, N, parts * heads * d) -> as many of (B, heads, N, d)."""
    return tuple(flat.reshape(*flat.shape[:2], parts, heads, -1).permute(2, 0, 3, 1, 4))
