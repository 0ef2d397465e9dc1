"""A sheet of pictures with masks painted over them and a legend. It must not know files or regions."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_COLUMNS = 3
_ROW = 26


def overlay_sheet(
    pictures: Sequence[tuple[NDArray[np.uint8], Mapping[str, NDArray[np.bool_]]]], labels: Sequence[str]
) -> NDArray[np.uint8]:
    """Tint each picture by its masks and put them side by side over a legend.

    Args:
        pictures: (H, W, 3) uint8 RGB with its (H, W) bool mask per label.
        labels: the legend, in order; masks of other labels are not painted.

    Returns:
        (rows, columns, 3) uint8 RGB.
    """
    if not pictures:
        return _legend(labels, 480)
    height, width = pictures[0][0].shape[:2]
    cells = [_tinted(image, masks, labels) for image, masks in pictures]
    cells = [np.asarray(cv2.resize(cell, (width, height)), dtype=np.uint8) for cell in cells]
    columns = min(_COLUMNS, len(cells))
    while len(cells) % columns:
        cells.append(np.full((height, width, 3), 255, dtype=np.uint8))
    rows = [np.concatenate(cells[k : k + columns], axis=1) for k in range(0, len(cells), columns)]
    return np.concatenate([*rows, _legend(labels, columns * width)])


def _tinted(
    image: NDArray[np.uint8], masks: Mapping[str, NDArray[np.bool_]], labels: Sequence[str]
) -> NDArray[np.uint8]:
    painted = image.astype(np.float32)
    for k, label in enumerate(labels):
        mask = masks.get(label)
        if mask is None:
            continue
        tint = np.array(_tint(k, len(labels)), dtype=np.float32)
        painted[mask] = 0.45 * painted[mask] + 0.55 * tint
        edge = mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)
        painted[edge] = 255
    return painted.astype(np.uint8)


def _legend(labels: Sequence[str], width: int) -> NDArray[np.uint8]:
    legend = np.full((_ROW * max(1, len(labels)) + 10, width, 3), 255, dtype=np.uint8)
    for k, label in enumerate(labels):
        top = 8 + k * _ROW
        cv2.rectangle(legend, (10, top), (34, top + 16), _tint(k, len(labels)), -1)
        cv2.putText(legend, label, (44, top + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    return legend


def _tint(k: int, count: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(k / count, 1.0, 1.0)
    return int(255 * red), int(255 * green), int(255 * blue)
