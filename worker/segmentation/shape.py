"""Patch logits -> a class for every pixel of the image.

Memory stays bounded whatever the image and the number of classes: rows are made in strips. It must not know about
labels or regions.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_STRIP_VALUES = 16_000_000  # class scores held at once, 64 MB


def pixel_classes(coarse: Tensor, size: tuple[int, int]) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Upsample logits bilinearly and take the best class of each pixel.

    Args:
        coarse: (C, h, w) float32 logits; softmax over C is the posterior.
        size: (H, W) of the image, pixels.

    Returns:
        (H, W) int16 class of each pixel, and (H, W) float32 posterior of that class in (0, 1].
    """
    height, width = size
    count, rows, _ = coarse.shape
    wide = F.interpolate(coarse[None], size=(rows, width), mode="bilinear", align_corners=False)[0]  # (C, h, W)
    top, bottom, weight = _row_weights(rows, height, coarse.device)
    classes = np.empty(size, dtype=np.int16)
    confidence = np.empty(size, dtype=np.float32)
    strip = max(1, _STRIP_VALUES // (count * width))
    for start in range(0, height, strip):
        part = slice(start, min(start + strip, height))
        logits = torch.lerp(wide[:, top[part]], wide[:, bottom[part]], weight[None, part, None])  # (C, strip, W)
        best, index = logits.softmax(dim=0).max(dim=0)
        classes[part] = index.to(torch.int16).cpu().numpy()
        confidence[part] = best.cpu().numpy()
    return classes, confidence


def _row_weights(rows: int, height: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Where each pixel row falls between two patch rows, half-pixel centres as in `F.interpolate`."""
    centre = ((torch.arange(height, device=device) + 0.5) * rows / height - 0.5).clamp_min(0.0)
    top = centre.floor().long().clamp_max(rows - 1)
    return top, (top + 1).clamp_max(rows - 1), centre - top
