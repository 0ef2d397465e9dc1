"""Patch features of an open_clip ResNet (RN50 and its variants), every 8 pixels, in one forward.

CLIP's ResNets end at a stride of 32 pixels, too coarse for masks. The last two stages therefore run with dilation
(*à trous*; Chen et al., DeepLab, TPAMI 2018): where they would halve the grid, it is kept and the convolutions after
that are dilated, so that every fourth position has the value of the plain forward and the others lie between.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.segmentation.encoders.readouts import Proxy, mix_patches
from worker.segmentation.encoders.tiling import Tiling

PATCH = 8  # pixels from one feature to the next
# Averaging a position with its lower right neighbour shifts features by half a patch; shifting the input undoes it.
_SHIFT = PATCH // 2


def read_features(
    visual: Any,
    hidden: Tensor,
    *,
    proxy: Proxy | None = None,
    proxies: Tensor | None = None,
    tiling: Tiling | None = None,
) -> Tensor:
    """Project every position of the last stage into the space shared with the text.

    Args:
        visual: open_clip's `ModifiedResNet` with an attention pool.
        hidden: (B, 32 * width, h, w) from `last_stage`.
        proxy: how the values of positions are averaged by another model's features; None = each position alone.
        proxies: (B, h, w, P) features of that model, for a proxy.
        tiling: where the members of the batch lie in one image, to average over all of them at once.

    Returns:
        (B, h, w, D) features, not normalised.
    """
    features = project(visual, hidden)
    # The map from a value to its feature is affine, so averaging the features averages the values.
    return mix_patches(proxy, proxies, features, tiling=tiling)


def last_stage(visual: Any, pixels: Tensor) -> Tensor:
    """Run everything before the pool, the last two stages dilated.

    Args:
        visual: open_clip's `ModifiedResNet`.
        pixels: (B, 3, H, W) float, normalised as the model expects; H and W multiples of 8.

    Returns:
        (B, 32 * width, H / 8, W / 8).
    """
    return dilated_stages(visual, middle_stage(visual, pixels))


def middle_stage(visual: Any, pixels: Tensor) -> Tensor:
    """Run the stages that shrink the grid: (B, 3, H, W) to (B, 8 * width, H / 8, W / 8)."""
    hidden: Tensor = visual.layer2(visual.layer1(visual.stem(_shifted(pixels))))
    return hidden


def dilated_stages(visual: Any, hidden: Tensor) -> Tensor:
    """Run the last two stages dilated on the middle stage's (B, 8 * width, h, w): to (B, 32 * width, h, w)."""
    return _dilated(visual, hidden)[-1]


def dilated_levels(visual: Any, pixels: Tensor) -> tuple[Tensor, ...]:
    """Run all four stages, the last two dilated, and return the map of each.

    Args:
        visual: open_clip's `ModifiedResNet`.
        pixels: (B, 3, H, W) float, normalised as the model expects; H and W multiples of 8.

    Returns:
        (B, C, h, w) maps at 4, 8, 8 and 8 pixels from one position to the next, each above its pixels: the shift of the
        input, which the dilated stages undo, is undone for the other two as well.
    """
    first = visual.layer1(visual.stem(_shifted(pixels)))
    second = visual.layer2(first)
    third, fourth = _dilated(visual, second)
    moved = F.pad(first[..., 1:, 1:], (0, 1, 0, 1), mode="replicate")
    return moved, _average(second, 1), third, fourth


def project(visual: Any, hidden: Tensor) -> Tensor:
    """Apply the value path of the attention pool to (B, C, h, w): (B, h, w, D), not normalised.

    `c_proj(v_proj(x))` at each position instead of attention over all of them, so that a feature describes its position
    and not the whole image (MaskCLIP, Zhou et al., ECCV 2022).
    """
    value, out = visual.attnpool.v_proj, visual.attnpool.c_proj
    weight = out.weight @ value.weight  # both are linear, so one narrow product does for both
    bias = out.weight @ value.bias + out.bias
    return F.linear(hidden.permute(0, 2, 3, 1), weight, bias)


def _shifted(pixels: Tensor) -> Tensor:
    return F.pad(pixels, (_SHIFT, 0, _SHIFT, 0), mode="replicate")[..., :-_SHIFT, :-_SHIFT]


def _dilated(visual: Any, hidden: Tensor) -> list[Tensor]:
    """The maps of the last two stages, dilated."""
    dilation, found = 1, []
    for stage in (visual.layer3, visual.layer4):
        for block in stage:
            hidden = _dilated_block(block, hidden, dilation)
            dilation *= block.stride
        found.append(hidden)
    return found


def _dilated_block(block: Any, hidden: Tensor, dilation: int) -> Tensor:
    """Run one bottleneck block dilated; where it would halve the grid, it averages positions `dilation` apart."""
    output = block.act1(block.bn1(block.conv1(hidden)))
    output = F.conv2d(output, block.conv2.weight, padding=dilation, dilation=dilation)
    output = block.act2(block.bn2(output))
    skip = hidden
    if block.stride > 1:
        output, skip = _average(output, dilation), _average(hidden, dilation)
    if block.downsample is not None:
        skip = block.downsample[2](block.downsample[1](skip))
    return torch.as_tensor(block.act3(block.bn3(block.conv3(output)) + skip))


def _average(hidden: Tensor, dilation: int) -> Tensor:
    """Average the 2x2 positions that lie `dilation` apart, as centred on each position as the grid allows."""
    before = dilation // 2
    padded = F.pad(hidden, (before, dilation - before, before, dilation - before), mode="replicate")
    height, width = hidden.shape[-2:]
    rows = padded[..., :height, :] + padded[..., dilation : dilation + height, :]
    return (rows[..., :width] + rows[..., dilation : dilation + width]) / 4
