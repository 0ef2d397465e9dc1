"""Augmentation of training images: random crops and colour jitter."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_LEAST_SIDE = 0.6  # share of each side that a crop keeps at least
_GAMMA, _GAIN, _SATURATION = 0.3, 0.15, 0.25  # ranges: log of the exponent, gain of each channel, change of saturation


@dataclass(frozen=True)
class Augmentation:
    """A crop, aligned to the (h, w) grid of patches, and a change of colours.

    Attributes:
        box: top, left, bottom, right, patches.
        gamma, gains, saturation: of the colours.
    """

    box: tuple[int, int, int, int]
    gamma: float = 1.0
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    saturation: float = 1.0

    @classmethod
    def identity(cls, patches: tuple[int, int]) -> Augmentation:
        """The whole image in its own colours."""
        return cls((0, 0, *patches))

    @classmethod
    def random(cls, patches: tuple[int, int], rng: np.random.Generator) -> Augmentation:
        """Draw a crop and a change of colours."""
        keep = rng.uniform(_LEAST_SIDE, 1.0)
        size = [max(1, round(keep * side)) for side in patches]
        corner = [int(rng.integers(side - kept + 1)) for side, kept in zip(patches, size, strict=True)]
        red, green, blue = (rng.uniform(0.9, 1.1) * rng.uniform(1 - _GAIN, 1 + _GAIN, 3)).tolist()
        return cls(
            (corner[0], corner[1], corner[0] + size[0], corner[1] + size[1]),
            float(np.exp(rng.uniform(-_GAMMA, _GAMMA))),
            (red, green, blue),
            rng.uniform(1 - _SATURATION, 1 + _SATURATION),
        )

    def window(self, size: tuple[int, int], patches: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the crop in an array of (H, W) pixels, at least one of each."""
        found = []
        for k in (0, 1):
            start = min(self.box[k] * size[k] // patches[k], size[k] - 1)
            found.append(slice(start, max(start + 1, self.box[k + 2] * size[k] // patches[k])))
        return found[0], found[1]

    def recoloured(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Apply the change of colours to an (H, W, 3) uint8 RGB image."""
        if (self.gamma, self.gains, self.saturation) == (1.0, (1.0, 1.0, 1.0), 1.0):
            return image
        level = np.arange(256, dtype=np.float32)[:, None] / 255
        table = 255 * level**self.gamma * np.array(self.gains, dtype=np.float32)
        lit = cv2.LUT(image, table[:, None].astype(np.float32))
        mixing = self.saturation * np.eye(3) + (1 - self.saturation) / 3  # towards the mean of the channels and beyond
        return np.asarray(cv2.transform(lit, mixing).clip(0, 255).astype(np.uint8))
