"""Pictures as small tensors for the graphs: resized, in Lab or RGB. It must not know what is done with them."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""


def shrink(image: Picture, long_side: int) -> Picture:
    """The picture itself, or an area-averaged copy whose long side is `long_side` pixels."""
    scale = long_side / max(image.shape[:2])
    if scale >= 1:
        return image
    return resize(image, (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))))


def resize(image: Picture, size: tuple[int, int]) -> Picture:
    """Area-averaged to (h, w)."""
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)


def lab_picture(image: Picture, size: tuple[int, int]) -> Tensor:
    """(3, h, w) float32 CIE Lab, L in 0..100."""
    lab = cv2.cvtColor(resize(image, size).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return torch.from_numpy(lab).permute(2, 0, 1).contiguous()


def rgb_picture(image: Picture, size: tuple[int, int]) -> Tensor:
    """(3, h, w) float32 RGB in [0, 1]."""
    return rgb_rows(resize(image, size))


def rgb_rows(image: Picture) -> Tensor:
    """(3, H, W) float32 RGB in [0, 1] of a picture or a strip of its rows."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)
