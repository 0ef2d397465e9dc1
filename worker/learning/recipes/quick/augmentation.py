"""Other views of a picture to learn from: part of it, larger, in other light. It must not know what is learned."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_SMALLEST = 0.6  # share of each side that a view keeps at least
_GAMMA, _LIGHT, _CHROMA = 0.3, 0.15, 0.25  # log of the exponent; gain of each channel; change of saturation


@dataclass(frozen=True)
class View:
    """A part of a picture, in patches of its (h, w) grid, and the light it is seen in.

    Attributes:
        box: top, left, bottom, right, patches.
        gamma, gains, saturation: of the colours.
    """

    box: tuple[int, int, int, int]
    gamma: float = 1.0
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    saturation: float = 1.0

    @classmethod
    def whole(cls, patches: tuple[int, int]) -> View:
        """The picture as it is."""
        return cls((0, 0, *patches))

    @classmethod
    def drawn(cls, patches: tuple[int, int], rng: np.random.Generator) -> View:
        """Some part in some light."""
        keep = rng.uniform(_SMALLEST, 1.0)
        size = [max(1, round(keep * side)) for side in patches]
        corner = [int(rng.integers(side - kept + 1)) for side, kept in zip(patches, size, strict=True)]
        red, green, blue = (rng.uniform(0.9, 1.1) * rng.uniform(1 - _LIGHT, 1 + _LIGHT, 3)).tolist()
        return cls(
            (corner[0], corner[1], corner[0] + size[0], corner[1] + size[1]),
            float(np.exp(rng.uniform(-_GAMMA, _GAMMA))),
            (red, green, blue),
            rng.uniform(1 - _CHROMA, 1 + _CHROMA),
        )

    def pixels(self, size: tuple[int, int], patches: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the part in an array of (H, W) pixels, at least one of each."""
        found = []
        for k in (0, 1):
            start = min(self.box[k] * size[k] // patches[k], size[k] - 1)
            found.append(slice(start, max(start + 1, self.box[k + 2] * size[k] // patches[k])))
        return found[0], found[1]

    def relit(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The (H, W, 3) uint8 RGB picture in this light."""
        if (self.gamma, self.gains, self.saturation) == (1.0, (1.0, 1.0, 1.0), 1.0):
            return image
        level = np.arange(256, dtype=np.float32)[:, None] / 255
        table = 255 * level**self.gamma * np.array(self.gains, dtype=np.float32)
        lit = cv2.LUT(image, table[:, None].astype(np.float32))
        mixing = self.saturation * np.eye(3) + (1 - self.saturation) / 3  # towards the mean of the channels and beyond
        return np.asarray(cv2.transform(lit, mixing).clip(0, 255).astype(np.uint8))
