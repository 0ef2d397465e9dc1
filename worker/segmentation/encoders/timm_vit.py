"""Patch features of a timm ViT inside an open_clip model (SigLIP, SigLIP2, PE-Core, EVA02), at any image size.

There are two kinds of pool. With a class token, a readout replaces the attention of the last block, as in a native ViT.
With an attention pool (a learned query that attends to all patches last), a readout replaces that pool: its values, its
output projection and its MLP stay, so that a patch feature is what the pool would give for that patch alone. That is
MaskCLIP's value path (Zhou et al., ECCV 2022) for these towers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Format, PatchEmbed, apply_rot_embed_cat
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block
from torch import Tensor

from worker.segmentation.encoders.readouts import Readout, Source, attend
from worker.segmentation.encoders.tiling import Tiling

TOKEN_POOL: frozenset[Source] = frozenset({"q", "k", "v"})
ATTENTION_POOL: frozenset[Source] = frozenset({"k", "v"})  # its query is a parameter, not a patch


def comparable_sources(trunk: Any) -> frozenset[Source] | None:
    """Return what the last attention has of every patch to compare; None for an unsupported trunk."""
    blocks, pool = getattr(trunk, "blocks", None), getattr(trunk, "global_pool", None)
    if not blocks or not isinstance(getattr(trunk, "patch_embed", None), PatchEmbed):
        return None
    if not isinstance(blocks[-1], Block | EvaBlock | EvaBlockPostNorm) or getattr(trunk, "rope_mixed", False):
        return None
    if pool == "map" and trunk.attn_pool.pos_embed is None:
        return ATTENTION_POOL
    return TOKEN_POOL if pool == "token" and getattr(blocks[-1].attn, "gate", None) is None else None


def allow_any_size(trunk: Any) -> None:
    """Let the trunk take images of any size: timm then interpolates positions for each grid."""
    trunk.dynamic_img_size = True
    embed = trunk.patch_embed
    embed.strict_img_size, embed.flatten, embed.output_fmt = False, False, Format.NHWC


def set_grid(trunk: Any, grid: tuple[int, int]) -> None:
    """Set the rotary embedding, which timm keeps for one grid at a time, to this grid of (h, w) patches.

    Whoever sets it holds `Backbone.lock` until the trunk has run: another thread may need another grid.
    """
    if getattr(trunk, "rope", None) is not None:
        trunk.rope.update_feat_shape(grid)


def has_rotary_positions(trunk: Any) -> bool:
    """Whether its attention turns queries and keys by their place, which is one within a window of an image."""
    return getattr(trunk, "rope", None) is not None


def deep_tokens(visual: Any, pixels: Tensor) -> Tensor:
    """Run everything before what a readout replaces.

    Args:
        visual: open_clip's `TimmModel` around a ViT that `comparable_sources` supports, after `allow_any_size` and
            `set_grid`.
        pixels: (B, 3, H, W) float, normalised as the model expects; H and W multiples of the patch size.

    Returns:
        (B, prefix + h * w, width) tokens, those that are no patches first.
    """
    trunk = visual.trunk
    embedded = trunk._pos_embed(trunk.patch_embed(pixels))
    tokens, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
    tokens = trunk.norm_pre(tokens)
    for block in trunk.blocks if trunk.global_pool == "map" else trunk.blocks[:-1]:
        tokens = block(tokens) if rope is None else block(tokens, rope=rope)
    return torch.as_tensor(tokens)


def read_tokens(
    visual: Any,
    tokens: Tensor,
    grid: tuple[int, int],
    *,
    readout: Readout,
    proxies: Tensor | None = None,
    tiling: Tiling | None = None,
) -> Tensor:
    """Project every patch into the space shared with the text.

    Args:
        visual: as `deep_tokens` takes it, set to the same grid.
        tokens: (B, prefix + h * w, width) from `deep_tokens`.
        grid: (h, w) patches of each member of the batch.
        readout: what replaces the last attention.
        proxies: (B, h, w, P) features of another model, for a proxy readout.
        tiling: where the members lie in one image, for attention over all of them at once; not with rotary positions.

    Returns:
        (B, h, w, D) features, not normalised.
    """
    trunk, attention = visual.trunk, _Attention(readout, grid, proxies, tiling)
    if trunk.global_pool == "map":
        tokens = _run_pool(trunk.attn_pool, trunk.norm(tokens), attention)
    else:
        rope = trunk.rope.get_embed(shape=grid) if has_rotary_positions(trunk) else None
        tokens = trunk.norm(_run_block(trunk.blocks[-1], tokens, rope, attention))
    patches = tokens[:, -grid[0] * grid[1] :].reshape(len(tokens), *grid, -1)
    projected: Tensor = visual.head(trunk.head(trunk.fc_norm(patches)))
    return projected


@dataclass(frozen=True)
class _Attention:
    """What `attend` needs besides queries, keys, values and their scale."""

    readout: Readout
    grid: tuple[int, int]
    proxies: Tensor | None
    tiling: Tiling | None

    def __call__(self, sources: dict[Source, Tensor], scale: float) -> Tensor:
        """(B, N, heads * d) averaged values."""
        mixed = attend(self.readout, sources, self.grid, scale=scale, proxies=self.proxies, tiling=self.tiling)
        return mixed.transpose(1, 2).flatten(2)


def _run_pool(pool: Any, tokens: Tensor, attention: _Attention) -> Tensor:
    keys, values = _heads(pool.kv(tokens), pool.num_heads, parts=2)
    sources: dict[Source, Tensor] = {"k": pool.k_norm(keys).type_as(values), "v": values}
    output: Tensor = pool.proj(attention(sources, pool.scale))
    return output if pool.mlp is None else output + pool.mlp(pool.norm(output))


def _run_block(block: Any, tokens: Tensor, rope: Tensor | None, attention: _Attention) -> Tensor:
    own, norm_after, readout = block.attn, isinstance(block, EvaBlockPostNorm), attention.readout
    sources = _sources(own, tokens if norm_after else block.norm1(tokens), rope)
    output = own.proj(own.norm(attention(sources, own.scale)))
    output = block.norm1(output) if norm_after else _layer_scaled(block, output, 1)
    if readout.residual:
        output = tokens + output
    if readout.mlp:
        if norm_after:
            output = output + block.norm2(block.mlp(output))
        else:
            output = output + _layer_scaled(block, block.mlp(block.norm2(output)), 2)
    return torch.as_tensor(output)


def _layer_scaled(block: Any, values: Tensor, number: int) -> Tensor:
    """Apply a block's layer scale, which timm's two kinds of block name differently."""
    if hasattr(block, f"ls{number}"):
        return torch.as_tensor(getattr(block, f"ls{number}")(values))
    gamma = getattr(block, f"gamma_{number}")
    return values if gamma is None else values * gamma


def _sources(attention: Any, tokens: Tensor, rope: Tensor | None) -> dict[Source, Tensor]:
    """Compute queries, keys and values of every token as the block's attention does, (B, heads, N, d) each."""
    heads = attention.num_heads
    if attention.qkv is not None:
        bias = getattr(attention, "q_bias", None)
        if bias is None:
            flat = attention.qkv(tokens)
        else:
            biases = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
            flat = F.linear(tokens, attention.qkv.weight, biases)
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
    """Split (B, N, parts * heads * d) into `parts` tensors of (B, heads, N, d)."""
    return tuple(flat.reshape(*flat.shape[:2], parts, heads, -1).permute(2, 0, 3, 1, 4))
