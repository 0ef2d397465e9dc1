"""How an image enters a dense network: at one scale or several, mirrored too, in one pass or in overlapping windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.segmentation.pictures import entered_pixels


@dataclass(frozen=True)
class Inference:
    """The views of an image whose results are averaged.

    Attributes:
        short_side: pixels of the short side at which it enters.
        scales: factors on that.
        flip: whether each view is also seen mirrored.
        window: pixels of the side of square windows; 0 = one pass.
        overlap: share of a window that the next one sees again.
    """

    short_side: int
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: int = 0
    overlap: float = 1 / 3


def average_views(
    image: NDArray[np.uint8], inference: Inference, multiple: int, run: Callable[[Tensor], Tensor]
) -> Tensor:
    """Average what a network says about the views of an image.

    Args:
        image: (H, W, 3) uint8 RGB of any size.
        inference: which views.
        multiple: sides of the pixels are multiples of it.
        run: (3, h, w) uint8 pixels -> (C, h', w') float32.

    Returns:
        (C, h', w') float32 on the grid of the first scale.
    """
    total: Tensor | None = None
    for scale in inference.scales:
        pixels = entered_pixels(image, inference.short_side * scale, multiple)
        for flipped in (False, True) if inference.flip else (False,):
            found = _windowed(pixels.flip(-1) if flipped else pixels, inference, multiple, run)
            found = found.flip(-1) if flipped else found
            if total is not None and found.shape != total.shape:
                found = F.interpolate(found[None], size=total.shape[1:], mode="bilinear", align_corners=False)[0]
            total = found if total is None else total + found
    if total is None:
        raise ValueError("scales must name at least one")
    return total / (len(inference.scales) * (1 + inference.flip))


def _windowed(pixels: Tensor, inference: Inference, multiple: int, run: Callable[[Tensor], Tensor]) -> Tensor:
    """(C, h', w') of one view, in one pass or averaged over windows."""
    window = round(inference.window / multiple) * multiple
    height, width = pixels.shape[1:]
    if not window or (height <= window and width <= window):
        return run(pixels)
    side = (min(window, height), min(window, width))
    total = weight = torch.zeros(0)
    for top in window_starts(height, side[0], inference.overlap, multiple):
        for left in window_starts(width, side[1], inference.overlap, multiple):
            found = run(pixels[:, top : top + side[0], left : left + side[1]])
            rows, columns = found.shape[1] / side[0], found.shape[2] / side[1]  # cells per pixel
            if not len(total):
                total = found.new_zeros(len(found), round(height * rows), round(width * columns))
                weight = found.new_zeros(1, *total.shape[1:])
            down, right = round(top * rows), round(left * columns)
            part = (slice(None), slice(down, down + found.shape[1]), slice(right, right + found.shape[2]))
            total[part] += found
            weight[part] += 1
    return total / weight


def window_starts(length: int, side: int, overlap: float, multiple: int) -> list[int]:
    """Where windows begin, in multiples; the last one ends with the image."""
    step = max(multiple, round(side * (1 - overlap) / multiple) * multiple)
    return [*range(0, length - side, step), length - side]
