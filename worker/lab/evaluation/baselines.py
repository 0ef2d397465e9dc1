"""What a refiner is compared with: plain upsampling, two refiners of the literature, and an oracle, which is no method.

Only the oracle receives the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.segmentation.metrics import mask_iou
from worker.segmentation.outlines.guided import fit_local_lines
from worker.segmentation.pictures import rgb_picture, rgb_rows

_GUIDED_STEP, _GUIDED_RADIUS, _GUIDED_SMOOTHNESS = 4, 6, 1e-3  # 24 pixels of the full image
_HALF_DILATIONS, _PAMR_ROUNDS = (1, 2, 4, 8, 12), 10
FULL_DILATIONS = (1, 2, 4, 8, 12, 24)
"""Distances of PAMR's neighbours in pixels, as published."""
Image = NDArray[np.uint8]


def bilinear(coarse: Tensor, image: Image) -> Tensor:
    """Upsample (C, h, w) patch logits to (C, H, W) without looking at the image."""
    return F.interpolate(coarse[None], size=image.shape[:2], mode="bilinear", align_corners=False)[0]


def guided_filter(coarse: Tensor, image: Image) -> Tensor:
    """Fast guided filter (He and Sun, 2015) on the class posterior, (C, H, W) float32; radius 24 pixels."""
    grid = (max(2, image.shape[0] // _GUIDED_STEP), max(2, image.shape[1] // _GUIDED_STEP))
    posterior = bilinear(coarse, image).softmax(dim=0)
    small = F.interpolate(posterior[None], size=grid, mode="area")[0]
    guide = rgb_picture(image, grid)
    return fit_local_lines(small, guide, radius=_GUIDED_RADIUS, smoothness=_GUIDED_SMOOTHNESS).at(rgb_rows(image))


def pamr(coarse: Tensor, image: Image, *, step: int = 2, dilations: Sequence[int] = _HALF_DILATIONS) -> Tensor:
    """Pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020) in 10 rounds, (C, H, W) float32.

    Args:
        coarse: (C, h, w) float32 patch logits.
        image: (H, W, 3) uint8 RGB.
        step: subsampling of the image, in pixels; 1 = full resolution.
        dilations: distance of the neighbours, in pixels after subsampling.
    """
    grid = (max(2, image.shape[0] // step), max(2, image.shape[1] // step))
    colour = rgb_picture(image, grid).to(coarse.device)
    around = torch.stack(list(_neighbours(colour, dilations)))  # (n, 3, h, w)
    unlike = (around - colour).abs() / (0.1 * around.std(dim=0) + 1e-8)
    weight = torch.softmax(-unlike.mean(dim=1), dim=0)
    mask = F.interpolate(coarse[None], size=grid, mode="bilinear", align_corners=False)[0].softmax(dim=0)
    for _ in range(_PAMR_ROUNDS):
        moved = torch.zeros_like(mask)
        for share, neighbour in zip(weight, _neighbours(mask, dilations), strict=True):
            moved.addcmul_(share, neighbour)
        mask = moved
    return bilinear(mask, image)


def _neighbours(values: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Values of the eight neighbours at every dilation, (K, h, w) each."""
    height, width = values.shape[-2:]
    for distance in dilations:
        wide = F.pad(values[None], (distance,) * 4, mode="replicate")[0]
        for row in range(3):
            for column in range(3):
                if (row, column) != (1, 1):
                    top, left = row * distance, column * distance
                    yield wide[:, top : top + height, left : left + width]


def oracle_fusion(logits: Tensor, masks: NDArray[np.bool_], truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """SAZS's released fusion: each class takes the candidate mask of best IoU with the TRUTH, if that beats its own.

    An upper bound of what the candidate masks could give; not a method, because it needs the truth.

    Args:
        logits: (C, H, W) float32.
        masks: (K, H, W) bool candidates.
        truth: (H, W) int64 class of each pixel.

    Returns:
        (H, W) int64 class of each pixel.
    """
    order = logits.topk(2, dim=0).indices.numpy()
    found: NDArray[np.int64] = order[0].copy()
    second = order[1]
    for c in range(1, len(logits)):
        wanted = truth == c
        if not wanted.any():
            continue
        best = max(masks, key=lambda mask: mask_iou(mask, wanted))
        if mask_iou(best, wanted) > mask_iou(found == c, wanted):
            left = np.where(second == c, order[0], second)
            found = np.where(best, c, np.where(found == c, left, found)).astype(np.int64)
    return found
