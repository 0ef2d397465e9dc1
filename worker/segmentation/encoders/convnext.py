"""Patch features of a timm ConvNeXt inside an open_clip model, every 16 pixels, in one forward.

The tower ends at a stride of 32 pixels. Its last stage therefore runs with dilation (*à trous*; Chen et al., DeepLab,
TPAMI 2018): where it would halve the grid, the grid is kept and the convolutions are dilated by two, so that every
second position has the value of the plain forward. That quadruples the cost of the cheapest stage; the stage before
holds most of the work and is unchanged. The model's own head then reads every position by itself, as if the image had
no other (FC-CLIP, Yu et al., NeurIPS 2023).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.segmentation.encoders.readouts import Proxy, mix_patches
from worker.segmentation.encoders.tiling import Tiling

PATCH = 16  # pixels from one feature to the next
# Averaging a position with its lower right neighbour shifts features by half a patch; shifting the input undoes it.
_SHIFT = PATCH // 2
_DILATION = 2


def is_supported(trunk: Any) -> bool:
    """Whether a trunk is a ConvNeXt whose last stage halves the grid."""
    stages = getattr(trunk, "stages", None)
    if stages is None or not all(hasattr(trunk, part) for part in ("stem", "norm_pre", "head")):
        return False
    last = stages[-1]
    conv = last.downsample[1] if isinstance(getattr(last, "downsample", None), torch.nn.Sequential) else None
    blocks = getattr(last, "blocks", [None])
    return getattr(conv, "stride", None) == (2, 2) and all(hasattr(block, "conv_dw") for block in blocks)


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
        visual: open_clip's `TimmModel` around a ConvNeXt.
        hidden: (B, C, h, w) from `last_stage`.
        proxy: how positions are averaged before the head, as its global pool averages all; None = each alone.
        proxies: (B, h, w, P) features of another model, for a proxy.
        tiling: where the members of the batch lie in one image, to average over all of them at once.

    Returns:
        (B, h, w, D) features, not normalised.
    """
    mixed = mix_patches(proxy, proxies, hidden.permute(0, 2, 3, 1), tiling=tiling)
    projected: Tensor = visual.head(visual.trunk.head(mixed.reshape(-1, mixed.shape[-1], 1, 1)))
    return projected.reshape(*mixed.shape[:3], -1)


def last_stage(visual: Any, pixels: Tensor) -> Tensor:
    """Run everything before the head, the last stage dilated.

    Args:
        visual: open_clip's `TimmModel` around a ConvNeXt.
        pixels: (B, 3, H, W) float, normalised as the model expects; H and W multiples of 16.

    Returns:
        (B, C, H / 16, W / 16).
    """
    trunk = visual.trunk
    hidden = trunk.stem(F.pad(pixels, (_SHIFT, 0, _SHIFT, 0), mode="replicate")[..., :-_SHIFT, :-_SHIFT])
    for stage in trunk.stages[:-1]:
        hidden = stage(hidden)
    norm, conv = trunk.stages[-1].downsample
    hidden = F.conv2d(F.pad(norm(hidden), (0, 1, 0, 1), mode="replicate"), conv.weight, conv.bias)
    for block in trunk.stages[-1].blocks:
        hidden = _dilated_block(block, hidden)
    return torch.as_tensor(trunk.norm_pre(hidden))


def _dilated_block(block: Any, hidden: Tensor) -> Tensor:
    conv = block.conv_dw
    padding = _DILATION * (conv.kernel_size[0] // 2)
    output = F.conv2d(hidden, conv.weight, conv.bias, padding=padding, dilation=_DILATION, groups=conv.groups)
    if block.use_conv_mlp:
        output = block.mlp(block.norm(output))
    else:
        output = block.mlp(block.norm(output.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    if block.gamma is not None:
        output = output * block.gamma.reshape(1, -1, 1, 1)
    return torch.as_tensor(block.shortcut(hidden) + output)
