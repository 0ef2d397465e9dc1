"""Colours of a picture's ICC profile -> sRGB, where they would look wildly different without.

The model does not care for the exact colour, and the profiles of cameras and screens (sRGB, Display P3, Adobe RGB)
change it little: converting by them would take longer than decoding. A profile of swapped channels, of linear light or
of a printing press makes another picture.
"""

from __future__ import annotations

import io
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_MOST_DIFFERENCE = 16.0  # of 255 levels, the mean over all colours: Display P3 and Adobe RGB have 10, ProPhoto has 22
_STRIP_PIXELS = 2_000_000
_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}


def ink_colours(strip: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a CMYK strip to RGB by its profile; without one as browsers do."""
    transform = _transform(profile, "CMYK") if profile else None
    return (transform.apply(strip) if transform else strip).convert("RGB")


def converted(pixels: NDArray[np.uint8], profile: bytes | None, *, grey: bool) -> NDArray[np.uint8]:
    """Convert (h, w, 3) uint8 RGB to sRGB where the profile makes a wild difference; else return them as they are.

    Args:
        profile: of the picture; None = sRGB.
        grey: whether the picture has one channel, whose profile may be one of grey.
    """
    transform = _wild_transform(profile, "RGB") if profile else None
    if transform is None:
        transform = _wild_transform(profile, "L") if profile and grey else None
        if transform is None:
            return pixels
        levels = np.asarray(transform.apply(Image.fromarray(np.arange(256, dtype=np.uint8)[None])))[0]
        return np.asarray(levels[pixels[..., 0]], dtype=np.uint8)
    found = np.empty_like(pixels)
    step = max(1, _STRIP_PIXELS // pixels.shape[1])
    for top in range(0, pixels.shape[0], step):
        found[top : top + step] = np.asarray(transform.apply(Image.fromarray(pixels[top : top + step])))
    return found


def lightened(pixels: NDArray[np.uint8], gamma: float) -> NDArray[np.uint8]:
    """Convert (h, w, 3) uint8 RGB of a gamma to sRGB, where that makes a wild difference.

    Args:
        gamma: the pixels are light to this power; about 0.45 is as good as sRGB.
    """
    known = np.linspace(0, 1, 256)
    light = known ** (1 / gamma)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    if np.abs(shown - known).mean() * 255 <= _MOST_DIFFERENCE:
        return pixels
    return np.asarray(cv2.LUT(pixels, (shown * 255).round().astype(np.uint8)), dtype=np.uint8)


@lru_cache(maxsize=4)
def _wild_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    transform = _transform(profile, mode)
    if transform is None:
        return None
    levels = np.linspace(0, 255, 6).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(36, 6, 3)
    colours = cube if mode == "RGB" else np.repeat(levels[None, :, None], 3, axis=2)
    asked = Image.fromarray(colours if mode == "RGB" else levels[None])
    different = np.abs(np.asarray(transform.apply(asked), dtype=float) - colours).mean()
    return transform if different > _MOST_DIFFERENCE else None


@lru_cache(maxsize=4)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion from a mode of Pillow; None where the profile is broken or is for other channels."""
    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if found.profile.xcolor_space != _SPACES[mode]:
            return None
        return ImageCms.ImageCmsTransform(found, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
