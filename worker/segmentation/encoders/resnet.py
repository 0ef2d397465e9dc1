"""Patch features of an open_clip ResNet (RN50 and its kin) every 8 pixels, in one forward.

CLIP's ResNets end at one feature per 32 pixels, too coarse for masks. The last two stages therefore run *à trous*:
where they would halve the grid, it is kept and the later convolutions reach twice as far, so that every fourth feature
is the one the plain forward has and the others lie between (Chen et al., DeepLab, TPAMI 2018). It must not know about
text, files or Label Studio.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.segmentation.encoders.readouts import Proxy, spread

PATCH = 8  # pixels from one feature to the next
# Averaging a patch with its lower right neighbour moves what a feature speaks for by half a patch; entering the picture
# as much later moves it back.
_SHIFT = PATCH // 2


def dense_features(visual: Any, pixels: Tensor, *, proxy: Proxy | None = None, proxies: Tensor | None = None) -> Tensor:
    """Project every place of the last stage into the space shared with the text.

    Args:
        visual: open_clip's `ModifiedResNet` with an attention pool.
        pixels: (B, 3, H, W) float, normalised as the model wants it; H and W multiples of 8.
        proxy: how the values of places are averaged by another tower's features; None = each place alone.
        proxies: (B, H / 8, W / 8, P) features of that tower, for a proxy.

    Returns:
        (B, H / 8, W / 8, D) features, not normalised.
    """
    features = project(visual, last_stage(visual, pixels))
    if proxy is None or proxies is None:
        return features
    # Nothing bends between a value and its feature, so averaging the features averages the values.
    return spread(proxy, proxies.flatten(1, 2), features.flatten(1, 2)).reshape(features.shape)


def last_stage(visual: Any, pixels: Tensor) -> Tensor:
    """Run everything before the pool à trous: (B, 3, H, W) to (B, 32 * width, H / 8, W / 8)."""
    return deepen(visual, middle_stage(visual, pixels))


def middle_stage(visual: Any, pixels: Tensor) -> Tensor:
    """Run the stages that shrink the grid: (B, 3, H, W) to (B, 8 * width, H / 8, W / 8)."""
    shifted = F.pad(pixels, (_SHIFT, 0, _SHIFT, 0), mode="replicate")[..., :-_SHIFT, :-_SHIFT]
    places: Tensor = visual.layer2(visual.layer1(visual.stem(shifted)))
    return places


def deepen(visual: Any, places: Tensor) -> Tensor:
    """Run the last two stages à trous on the middle stage's (B, 8 * width, h, w): to (B, 32 * width, h, w)."""
    reach = 1
    for stage in (visual.layer3, visual.layer4):
        for block in stage:
            places = _block(block, places, reach)
            reach *= block.stride
    return places


def project(visual: Any, places: Tensor) -> Tensor:
    """Read (B, C, h, w) places as the value path of the attention pool does: (B, h, w, D), not normalised.

    `c_proj(v_proj(x))` at each place instead of attention over all of them, so that a feature speaks for its place and
    not for the whole picture (MaskCLIP, Zhou et al., ECCV 2022).
    """
    value, out = visual.attnpool.v_proj, visual.attnpool.c_proj
    weight = out.weight @ value.weight  # nothing bends between the two, so one narrow product does for both
    bias = out.weight @ value.bias + out.bias
    return F.linear(places.permute(0, 2, 3, 1), weight, bias)


def _block(block: Any, places: Tensor, reach: int) -> Tensor:
    """One bottleneck whose neighbours are `reach` places apart; instead of halving the grid it doubles the reach."""
    seen = block.act1(block.bn1(block.conv1(places)))
    seen = F.conv2d(seen, block.conv2.weight, padding=reach, dilation=reach)
    seen = block.act2(block.bn2(seen))
    skip = places
    if block.stride > 1:
        seen, skip = _average(seen, reach), _average(places, reach)
    if block.downsample is not None:
        skip = block.downsample[2](block.downsample[1](skip))
    return torch.as_tensor(block.act3(block.bn3(block.conv3(seen)) + skip))


def _average(places: Tensor, reach: int) -> Tensor:
    """Mean of the 2x2 places that lie `reach` apart, as centred on each place as the grid allows."""
    before = reach // 2
    padded = F.pad(places, (before, reach - before, before, reach - before), mode="replicate")
    height, width = places.shape[-2:]
    rows = padded[..., :height, :] + padded[..., reach : reach + height, :]
    return (rows[..., :width] + rows[..., reach : reach + width]) / 4
