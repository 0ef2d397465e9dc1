"""What a classifier of segments works on: masks that know no label, each with a vector; and true segments beside them.

A grid divides an image evenly: its cells are all of one size, and a value belongs to the centre of its cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.segmentation.metrics import VOID


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class Proposals:
    """The proposals of one image; they may overlap.

    Attributes:
        masks: (Q, h, w) float32 logits on a grid that divides the image evenly, above 0 inside.
        vectors: (Q, D) float32.

    Raises:
        ValueError: the two do not belong together, or hold something that is no number.
    """

    masks: Tensor
    vectors: Tensor

    def __post_init__(self) -> None:
        if self.masks.dim() != 3 or self.vectors.dim() != 2 or len(self.masks) != len(self.vectors):
            shapes = f"{tuple(self.masks.shape)} and {tuple(self.vectors.shape)}"
            raise ValueError(f"masks and vectors must be (Q, h, w) and (Q, D), got {shapes}")
        if self.masks.dtype != torch.float32 or self.vectors.dtype != torch.float32:
            raise ValueError(f"masks and vectors must be float32, got {self.masks.dtype} and {self.vectors.dtype}")
        if not bool(self.masks.isfinite().all()) or not bool(self.vectors.isfinite().all()):
            raise ValueError("masks and vectors must be finite")

    def __len__(self) -> int:
        return len(self.masks)

    def at_pixels(self, size: tuple[int, int]) -> Tensor:
        """(Q, H, W) float32 mask logits in the pixels of an image of a size (H, W)."""
        if not len(self):
            return self.masks.new_zeros(0, *size)
        return F.interpolate(self.masks[None], size=size, mode="bilinear", align_corners=False)[0]


@dataclass(frozen=True)
class SegmentedImage:
    """An image with its true segments: things one by one, each stuff as a whole.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        segments: (H, W) int16: number of each pixel's segment, from 0, or VOID where nothing is learned.
        classes: for each segment the row of its label.
    """

    image: NDArray[np.uint8]
    segments: NDArray[np.int16]
    classes: tuple[int, ...]

    def shares(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """How much of each cell of a grid (h, w) is of each segment, and is of any: (n, h, w) and (h, w) float32."""
        numbers = torch.from_numpy(self.segments.astype(np.int64))
        rows = torch.arange(len(self.classes))[:, None, None]
        shares = F.adaptive_avg_pool2d((numbers == rows).float()[None], grid)[0]
        known = F.adaptive_avg_pool2d((numbers != VOID).float()[None, None], grid)[0, 0]
        return shares, known
