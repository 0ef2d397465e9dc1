"""Patch features of a ConvNeXt of timm inside an open_clip model, every 16 pixels, in one forward.

The tower ends at one place per 32 pixels. Its last stage therefore runs *à trous*: where it would halve the grid, the
grid is kept and the convolutions reach twice as far, so that every second place is the one the plain forward has (Chen
et al., DeepLab, TPAMI 2018). That quadruples the cheapest stage; the stage before holds most of the work and stays as
it is. Every place is then read by the model's own head as if the picture had no other (FC-CLIP, Yu et al., NeurIPS
2023). It must not know about text, files or Label Studio.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.segmentation.encoders.readouts import Proxy, spread

PATCH = 16  # pixels from one feature to the next
# A place joined with its lower right neighbour speaks for half a patch further on; entering as much later undoes it.
_SHIFT = PATCH // 2
_REACH = 2


def can_be_read(trunk: Any) -> bool:
    """Whether a trunk is a ConvNeXt that halves its grid last."""
    stages = getattr(trunk, "stages", None)
    if stages is None or not all(hasattr(trunk, part) for part in ("stem", "norm_pre", "head")):
        return False
    last = stages[-1]
    conv = last.downsample[1] if isinstance(getattr(last, "downsample", None), torch.nn.Sequential) else None
    blocks = getattr(last, "blocks", [None])
    return getattr(conv, "stride", None) == (2, 2) and all(hasattr(block, "conv_dw") for block in blocks)


def dense_features(visual: Any, pixels: Tensor, *, proxy: Proxy | None = None, proxies: Tensor | None = None) -> Tensor:
    """Project every place of the last stage into the space shared with the text.

    Args:
        visual: open_clip's `TimmModel` around a ConvNeXt.
        pixels: (B, 3, H, W) float, normalised as the model wants it; H and W multiples of 16.
        proxy: how places are averaged before the head, as its own pool does with all of them; None = each alone.
        proxies: (B, H / 16, W / 16, P) features of another tower, for a proxy.

    Returns:
        (B, H / 16, W / 16, D) features, not normalised.
    """
    places = last_stage(visual.trunk, pixels)
    batch, channels, *grid = places.shape
    flat = places.flatten(2).transpose(1, 2)  # (B, h * w, C)
    if proxy is not None and proxies is not None:
        flat = spread(proxy, proxies.flatten(1, 2), flat)
    projected: Tensor = visual.head(visual.trunk.head(flat.reshape(-1, channels, 1, 1)))
    return projected.reshape(batch, *grid, -1)


def last_stage(trunk: Any, pixels: Tensor) -> Tensor:
    """Run everything before the head à trous: (B, 3, H, W) to (B, C, H / 16, W / 16)."""
    places = trunk.stem(F.pad(pixels, (_SHIFT, 0, _SHIFT, 0), mode="replicate")[..., :-_SHIFT, :-_SHIFT])
    for stage in trunk.stages[:-1]:
        places = stage(places)
    norm, conv = trunk.stages[-1].downsample
    places = F.conv2d(F.pad(norm(places), (0, 1, 0, 1), mode="replicate"), conv.weight, conv.bias)
    for block in trunk.stages[-1].blocks:
        places = _block(block, places)
    return torch.as_tensor(trunk.norm_pre(places))


def _block(block: Any, places: Tensor) -> Tensor:
    """One block whose neighbours are twice as far apart."""
    conv = block.conv_dw
    reach = _REACH * (conv.kernel_size[0] // 2)
    seen = F.conv2d(places, conv.weight, conv.bias, padding=reach, dilation=_REACH, groups=conv.groups)
    if block.use_conv_mlp:
        seen = block.mlp(block.norm(seen))
    else:
        seen = block.mlp(block.norm(seen.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    if block.gamma is not None:
        seen = seen * block.gamma.reshape(1, -1, 1, 1)
    return torch.as_tensor(block.shortcut(places) + seen)
