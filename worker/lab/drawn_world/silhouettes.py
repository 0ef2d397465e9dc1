"""Where a thing lies and which pixels it then covers. It must not know what it is painted with.

All lengths are pixels of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.lab.drawn_world.painting import outline


@dataclass(frozen=True)
class Pose:
    """Where an outline lies: its unit disc's radius in pixels, stretch along its own y, angle, (x, y) of its centre."""

    radius: float
    stretch: float
    angle: float
    centre: NDArray[np.float64]


Silhouette = tuple[NDArray[np.bool_], tuple[slice, slice]]
"""(h, w) mask inside the image, and the (rows, columns) of the image it covers."""


def random_pose(rng: np.random.Generator, size: tuple[int, ...], unit: float) -> Pose:
    """Any angle and a size of 0.3 to 0.62 units, its centre far enough inside to show most of it."""
    radius, angle = 0.5 * unit * rng.uniform(0.3, 0.62), rng.uniform(0, 2 * np.pi)
    stretch = rng.uniform(0.85, 1.15)
    centre = rng.uniform(0.6 * radius, np.maximum([size[1] - 0.6 * radius, size[0] - 0.6 * radius], 0.6 * radius + 1))
    return Pose(radius, stretch, angle, centre)


def silhouette_of(shape: str, size: tuple[int, ...], pose: Pose) -> Silhouette:
    """Turn, stretch and place an outline, cut off at the image's edge."""
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
