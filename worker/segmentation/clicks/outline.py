"""Cells that may be the thing -> its pixels: what the cells around it decide roughly follows the image's colours."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from worker.segmentation.clicks.scene import ClickScene
from worker.segmentation.clicks.superpixels import Floats
from worker.segmentation.outlines.guided import fit_local_lines
from worker.segmentation.pictures import rgb_picture

Mask = NDArray[np.bool_]

_LIKELY = 0.2  # probability from which a cell is looked at in detail
_MARGIN = 12  # pixels of the working image around such cells
_LONG_SIDE = 224  # pixels to which the part that is looked at is reduced
_RADIUS, _SMOOTHNESS = 4, 1e-3  # of the guided step: pixels of that part, variance of colour in [0, 1]


@dataclass(frozen=True)
class Window:
    """Rows and columns of the image that are looked at, and (h, w) float32 probability of each of their pixels."""

    rows: slice
    columns: slice
    likely: Floats


def look_closer(scene: ClickScene, likely: Floats) -> Window:
    """Turn probabilities of the cells, (n,), into those of the pixels around the likely ones."""
    labels = scene.cells.labels
    on_pixels = likely[labels]
    left, top, width, height = cv2.boundingRect((on_pixels >= min(_LIKELY, float(likely.max()))).astype(np.uint8))
    rows = slice(max(0, top - _MARGIN), min(labels.shape[0], top + height + _MARGIN))
    columns = slice(max(0, left - _MARGIN), min(labels.shape[1], left + width + _MARGIN))
    down, across = np.array(scene.size) / labels.shape
    full_rows = slice(int(rows.start * down), min(scene.size[0], int(np.ceil(rows.stop * down))))
    full_columns = slice(int(columns.start * across), min(scene.size[1], int(np.ceil(columns.stop * across))))
    part = scene.image[full_rows, full_columns]
    scale = min(1.0, _LONG_SIDE / max(part.shape[:2]))
    size = (max(2, round(part.shape[0] * scale)), max(2, round(part.shape[1] * scale)))
    rough = cv2.resize(on_pixels[rows, columns], size[::-1], interpolation=cv2.INTER_LINEAR)
    lines = fit_local_lines(
        torch.from_numpy(rough)[None], rgb_picture(part, size), radius=_RADIUS, smoothness=_SMOOTHNESS
    )
    fine = lines.at(rgb_picture(part, (part.shape[0], part.shape[1])))[0].numpy()
    return Window(full_rows, full_columns, np.clip(fine, 0, 1))
