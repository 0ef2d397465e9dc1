"""Outlines, tones, patterns and stuff of the drawn world, as arrays. It must not know where anything is placed.

All lengths are pixels; `unit` is the length everything scales with (an object is about a quarter to a half of it).
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pigment:
    """Ranges a named colour is drawn from: hue in degrees, saturation and value in [0, 1], allowed second tones."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]
    tones: tuple[str, ...] = ("darker", "lighter")


# Second tones leave out what would read as another name: pale red is pink, dark orange is brown.
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
# Between and beside the named ones, so that textures and shapes are learned whatever the hue.
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
class Ground:
    """One kind of stuff: RGB, grain cell (height, width) as a share of the unit, grain strength in grey levels."""

    rgb: tuple[int, int, int]
    cell: tuple[float, float]
    grain: float


GROUNDS = {
    "grass": Ground((104, 122, 82), (0.10, 0.02), 34.0),
    "water": Ground((112, 140, 160), (0.03, 0.16), 26.0),
    "sand": Ground((206, 190, 158), (0.015, 0.015), 22.0),
    "stone": Ground((132, 130, 128), (0.07, 0.07), 44.0),
}


@cache
def outline(shape: str) -> tuple[Floats, ...]:
    """Contours of a shape inside the unit disc, (N, 2) x right, y down; two contours mean a hole (even-odd rule)."""
    if shape == "circle":
        return (_arc(0, 2 * np.pi, 0.9),)
    if shape == "ring":
        return (_arc(0, 2 * np.pi, 1.0), _arc(0, 2 * np.pi, 0.5))
    if shape == "square":
        return (_points([(-0.76, -0.76), (0.76, -0.76), (0.76, 0.76), (-0.76, 0.76)]),)
    if shape == "triangle":
        return (_polar([(1.05, -np.pi / 2 + k * 2 * np.pi / 3) for k in range(3)]),)
    if shape == "star":
        return (_polar([(1.08 if k % 2 == 0 else 0.46, -np.pi / 2 + k * np.pi / 5) for k in range(10)]),)
    if shape == "cross":
        arm = _points([(-0.32, -1.0), (0.32, -1.0), (0.32, -0.32)])  # a quarter, then turned three times
        turn = np.array([[0, 1], [-1, 0]], dtype=np.float32)
        return (np.concatenate([arm @ np.linalg.matrix_power(turn, k) for k in range(4)]),)
    if shape == "heart":
        t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        x = 16 * np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
        return (np.stack([x, y - 2], axis=1).astype(np.float32) / 16.5,)
    outer = _arc(0.28 * np.pi, 1.72 * np.pi, 1.0)  # crescent: a disc less a disc shifted to the right
    tip, shift = outer[0], 0.5
    reach = float(np.arctan2(tip[1], tip[0] - shift))
    inner = _arc(2 * np.pi - reach, reach, float(np.hypot(tip[0] - shift, tip[1]))) + _points([(shift, 0.0)])
    return (np.concatenate([outer, inner]),)


@cache
def outline_area(shape: str) -> float:
    """Area of a shape whose unit disc has radius 1, holes taken off."""
    body, *holes = (float(cv2.contourArea(part)) for part in outline(shape))
    return body - sum(holes)


def _arc(start: float, end: float, radius: float) -> Floats:
    angles = np.linspace(start, end, 32)
    return (radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)


def _polar(points: list[tuple[float, float]]) -> Floats:
    return _points([(r * float(np.cos(a)), r * float(np.sin(a))) for r, a in points])


def _points(points: list[tuple[float, float]]) -> Floats:
    return np.array(points, dtype=np.float32)


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
    """Draw where the second tone goes, (h, w) bool, with random direction, phase and period (5 to 9 px at unit 96)."""
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


def ground(rng: np.random.Generator, stuff: str, size: tuple[int, int], unit: float) -> Bytes:
    """Paint one kind of stuff over a whole image, (H, W, 3) uint8 RGB: muted tone, grain of its own form."""
    kind = GROUNDS[stuff]
    height, width = size
    rows = max(2, round(height / (kind.cell[0] * unit)))
    columns = max(2, round(width / (kind.cell[1] * unit)))
    grain = cv2.resize(rng.random((rows, columns), dtype=np.float32) - np.float32(0.5), (width, height))
    grain *= 2 * kind.grain * rng.uniform(0.7, 1.2)
    tone = np.array(kind.rgb, dtype=np.float32) * rng.uniform(0.85, 1.12) + rng.uniform(-6, 6, 3).astype(np.float32)
    return np.asarray(np.clip(tone + grain[..., None], 0, 255), dtype=np.uint8)
