"""Outlines of the shapes, and the pixels that a posed outline covers. All lengths are pixels of the scene."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

@cache
def outline(shape: str) -> tuple[Floats, ...]:
    """Contours of a shape inside the unit disc, (N, 2) each, x right, y down; a second contour is a hole (even-odd)."""
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
    """Area of a shape in a unit disc of radius 1, without its holes."""
    body, *holes = (float(cv2.contourArea(part)) for part in outline(shape))
    return body - sum(holes)


def _arc(start: float, end: float, radius: float) -> Floats:
    angles = np.linspace(start, end, 32)
    return (radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)


def _polar(points: list[tuple[float, float]]) -> Floats:
    return _points([(r * float(np.cos(a)), r * float(np.sin(a))) for r, a in points])


def _points(points: list[tuple[float, float]]) -> Floats:
    return np.array(points, dtype=np.float32)


@dataclass(frozen=True)
class Pose:
    """Placement of an outline.

    Attributes:
        radius: of its unit disc, pixels.
        stretch: factor along the outline's own y axis.
        angle: radians.
        centre: (x, y) in pixels.
    """

    radius: float
    stretch: float
    angle: float
    centre: NDArray[np.float64]


Silhouette = tuple[NDArray[np.bool_], tuple[slice, slice]]
"""(h, w) bool mask, and the (rows, columns) of the image that it covers."""


def random_pose(rng: np.random.Generator, size: tuple[int, ...], unit: float) -> Pose:
    """Draw a pose of any angle and 0.3 to 0.62 units in size, with most of the outline inside the image."""
    radius, angle = 0.5 * unit * rng.uniform(0.3, 0.62), rng.uniform(0, 2 * np.pi)
    stretch = rng.uniform(0.85, 1.15)
    centre = rng.uniform(0.6 * radius, np.maximum([size[1] - 0.6 * radius, size[0] - 0.6 * radius], 0.6 * radius + 1))
    return Pose(radius, stretch, angle, centre)


def silhouette_of(shape: str, size: tuple[int, ...], pose: Pose) -> Silhouette:
    """Rotate, stretch and place an outline, clipped to an image of `size` (H, W) pixels."""
    cos, sin = np.cos(pose.angle), np.sin(pose.angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    scale = np.array([1.0, pose.stretch]) * pose.radius
    contours = [(part * scale) @ turn + pose.centre for part in outline(shape)]
    low = np.maximum(np.floor(contours[0].min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(contours[0].max(axis=0)).astype(int) + 1, [size[1], size[0]])
    mask = np.zeros((max(int(high[1] - low[1]), 1), max(int(high[0] - low[0]), 1)), dtype=np.uint8)
    cv2.fillPoly(mask, [np.round((part - low) * 16).astype(np.int32) for part in contours], 1, cv2.LINE_8, 4)
    top, left = int(low[1]), int(low[0])
    return mask.astype(np.bool_), (slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1]))
