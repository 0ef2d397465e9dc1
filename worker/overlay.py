"""Masks painted over their picture, for people. It must not know where either came from."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's palette: told apart by colour-blind readers too.
_COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
_STRENGTH = 0.5


def draw_overlay(image: NDArray[np.uint8], masks: Sequence[tuple[str, NDArray[np.bool_]]]) -> Image.Image:
    """Tint each mask in its label's colour, outline it, and add a legend.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: label and (H, W) bool mask, in the image's pixels.
    """
    painted = image.astype(np.float32)
    names = list(dict.fromkeys(name for name, _ in masks))
    for name, mask in masks:
        colour = np.array(_COLOURS[names.index(name) % len(_COLOURS)], dtype=np.float32)
        painted[mask] = (1 - _STRENGTH) * painted[mask] + _STRENGTH * colour
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(painted, outlines, -1, colour.tolist(), max(1, round(min(mask.shape) / 250)))
    picture = Image.fromarray(painted.round().astype(np.uint8))
    _legend(picture, names)
    return picture


def _legend(picture: Image.Image, names: Sequence[str]) -> None:
    if not names:
        return
    size = max(11, round(min(picture.size) / 28))
    font, line = ImageFont.load_default(size), round(size * 1.4)
    draw = ImageDraw.Draw(picture, "RGBA")
    width = max(draw.textlength(name, font=font) for name in names) + 2.2 * size
    draw.rectangle((0, 0, width, line * len(names) + size * 0.4), fill=(0, 0, 0, 150))
    for row, name in enumerate(names):
        top = size * 0.2 + row * line
        draw.rectangle((size * 0.4, top + size * 0.2, size * 1.3, top + size * 1.1), fill=_COLOURS[row % len(_COLOURS)])
        draw.text((size * 1.7, top), name, font=font, fill=(255, 255, 255))
