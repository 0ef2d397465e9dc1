"""Images and maps resized, and images as small tensors in Lab or RGB."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

RGBImage = NDArray[np.uint8]
"""(H, W, 3) RGB."""

_MAX_ASPECT = 4.0


def shrink(image: RGBImage, long_side: int) -> RGBImage:
    """The image itself, or an area-averaged copy whose long side is `long_side` pixels."""
    scale = long_side / max(image.shape[:2])
    if scale >= 1:
        return image
    return resize(image, (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))))


def resize(image: RGBImage, size: tuple[int, int]) -> RGBImage:
    """Area-averaged to (h, w)."""
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)


def lab_picture(image: RGBImage, size: tuple[int, int]) -> Tensor:
    """(3, h, w) float32 CIE Lab, L in 0..100."""
    lab = cv2.cvtColor(resize(image, size).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return torch.from_numpy(lab).permute(2, 0, 1).contiguous()


def rgb_picture(image: RGBImage, size: tuple[int, int]) -> Tensor:
    """(3, h, w) float32 RGB in [0, 1]."""
    return rgb_rows(resize(image, size))


def rgb_rows(image: RGBImage) -> Tensor:
    """(3, H, W) float32 RGB in [0, 1] of an image or a strip of its rows."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)


def resize_map(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, h, w) to (C, *size), bilinear; averaged where the size is the smaller."""
    smaller = size[0] < values.shape[1] or size[1] < values.shape[2]
    return F.interpolate(values[None], size=size, mode="bilinear", align_corners=False, antialias=smaller)[0]


def entered_pixels(image: RGBImage, short_side: float, multiple: int) -> Tensor:
    """(3, h, w) uint8 pixels at the size at which an image enters a network; longer than 4:1 it is compressed to that.

    Args:
        image: of any size.
        short_side: pixels, before rounding.
        multiple: h and w are multiples of it.
    """
    height, width = image.shape[:2]
    short = max(1, round(short_side / multiple))
    long = max(1, round(short_side / multiple * min(_MAX_ASPECT, max(height, width) / min(height, width))))
    size = (short, long) if height <= width else (long, short)
    resized = Image.fromarray(image).resize(
        (size[1] * multiple, size[0] * multiple), Image.Resampling.BICUBIC, reducing_gap=3.0
    )
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
