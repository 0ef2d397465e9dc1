"""Tones, patterns and stuff of the drawn world, as arrays.

All lengths are pixels; `unit` is the length that everything scales with (an object is about a quarter to a half of it).
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pigment:
    """Ranges of a colour: hue in degrees, saturation and value in [0, 1]; and allowed second tones."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]
    tones: tuple[str, ...] = ("darker", "lighter")


# Second tones that would be another colour's are left out: pale red is pink, dark orange is brown.
PIGMENTS = {
    "red": Pigment((-7, 6), (0.85, 1.0), (0.75, 0.95), ("darker",)),
    "orange": Pigment((25, 33), (0.85, 1.0), (0.92, 1.0), ("lighter",)),
    "yellow": Pigment((50, 58), (0.8, 1.0), (0.88, 1.0), ("darker",)),
    "green": Pigment((108, 138), (0.7, 1.0), (0.5, 0.8)),
    "blue": Pigment((212, 234), (0.75, 1.0), (0.7, 1.0)),
    "purple": Pigment((268, 283), (0.65, 0.9), (0.55, 0.8)),
    "pink": Pigment((324, 338), (0.42, 0.58), (0.94, 1.0), ("lighter",)),
    "brown": Pigment((20, 28), (0.62, 0.78), (0.38, 0.5)),
}
# Between the named ones, so that textures and shapes are learned for any hue.
UNNAMED_PIGMENTS = (
    Pigment((10, 20), (0.85, 1.0), (0.8, 1.0)),  # vermilion
    Pigment((37, 46), (0.8, 1.0), (0.85, 1.0)),  # amber
    Pigment((342, 352), (0.75, 1.0), (0.75, 0.95)),  # crimson
    Pigment((350, 365), (0.7, 0.95), (0.3, 0.45), ("lighter",)),  # maroon
    Pigment((22, 40), (0.25, 0.42), (0.92, 1.0), ("darker",)),  # peach
    Pigment((52, 64), (0.6, 0.9), (0.35, 0.55)),  # olive
    Pigment((110, 150), (0.25, 0.45), (0.8, 0.95)),  # mint
    Pigment((202, 210), (0.35, 0.6), (0.9, 1.0)),  # sky
    Pigment((215, 240), (0.7, 1.0), (0.25, 0.45)),  # navy
    Pigment((255, 285), (0.2, 0.4), (0.85, 1.0)),  # lavender
    Pigment((70, 96), (0.65, 1.0), (0.6, 0.95)),  # lime
    Pigment((150, 176), (0.65, 1.0), (0.55, 0.9)),  # teal
    Pigment((176, 200), (0.65, 1.0), (0.6, 1.0)),  # cyan
    Pigment((246, 256), (0.65, 0.9), (0.7, 0.95)),  # indigo
    Pigment((295, 312), (0.7, 1.0), (0.7, 1.0)),  # magenta
    Pigment((0, 360), (0.0, 0.05), (0.9, 1.0), ("darker",)),  # white
    Pigment((0, 360), (0.0, 0.2), (0.05, 0.14), ("lighter",)),  # black
)


@dataclass(frozen=True)
class StuffStyle:
    """One kind of stuff: RGB, grain cell (height, width) as a share of the unit, grain strength in grey levels."""

    rgb: tuple[int, int, int]
    cell: tuple[float, float]
    grain: float


STUFF_STYLES = {
    "grass": StuffStyle((104, 122, 82), (0.10, 0.02), 34.0),
    "water": StuffStyle((112, 140, 160), (0.03, 0.16), 26.0),
    "sand": StuffStyle((206, 190, 158), (0.015, 0.015), 22.0),
    "stone": StuffStyle((132, 130, 128), (0.07, 0.07), 44.0),
}


def mix_tones(rng: np.random.Generator, colour: str | None) -> Bytes:
    """Draw the main and the second tone of a colour: (2, 3) uint8 RGB of one hue, far apart in lightness."""
    pigment = PIGMENTS[colour] if colour else UNNAMED_PIGMENTS[int(rng.integers(len(UNNAMED_PIGMENTS)))]
    hue, saturation, value = (rng.uniform(*span) for span in (pigment.hue, pigment.saturation, pigment.value))
    main = np.array(colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value))
    if pigment.tones[int(rng.integers(len(pigment.tones)))] == "darker":
        second = main * rng.uniform(0.36, 0.48)
    else:
        second = main + (1 - main) * rng.uniform(0.6, 0.72)
    return (np.stack([main, second]) * 255).astype(np.uint8)


def pattern(rng: np.random.Generator, texture: str, size: tuple[int, int], unit: float) -> NDArray[np.bool_]:
    """Draw the mask of the second tone, (h, w) bool, in random direction, phase and period (5 to 9 px at unit 96)."""
    height, width = size
    if texture == "plain":
        return np.zeros(size, dtype=np.bool_)
    angle, period = rng.uniform(0, np.pi), unit * rng.uniform(5.2, 9.0) / 96
    y, x = np.ogrid[:height, :width]
    cos, sin = np.float32(np.cos(angle) / period), np.float32(np.sin(angle) / period)
    u = x * cos + y * sin + np.float32(rng.random())  # (h, w) in periods
    if texture == "striped":
        return np.asarray((u - np.floor(u)) < 0.5)
    v = y * cos - x * sin + np.float32(rng.random())
    if texture == "checkered":
        return np.asarray((np.floor(u * 1.6) + np.floor(v * 1.6)) % 2 == 0)
    u, v = u * np.float32(0.85), v * np.float32(0.85)
    return np.asarray((u - np.floor(u) - 0.5) ** 2 + (v - np.floor(v) - 0.5) ** 2 < 0.1)


def paint_stuff(rng: np.random.Generator, stuff: str, size: tuple[int, int], unit: float) -> Bytes:
    """Paint one kind of stuff over a whole image, (H, W, 3) uint8 RGB: a muted tone with the grain of the kind."""
    kind = STUFF_STYLES[stuff]
    height, width = size
    rows = max(2, round(height / (kind.cell[0] * unit)))
    columns = max(2, round(width / (kind.cell[1] * unit)))
    grain = cv2.resize(rng.random((rows, columns), dtype=np.float32) - np.float32(0.5), (width, height))
    grain *= 2 * kind.grain * rng.uniform(0.7, 1.2)
    tone = np.array(kind.rgb, dtype=np.float32) * rng.uniform(0.85, 1.12) + rng.uniform(-6, 6, 3).astype(np.float32)
    return np.asarray(np.clip(tone + grain[..., None], 0, 255), dtype=np.uint8)
