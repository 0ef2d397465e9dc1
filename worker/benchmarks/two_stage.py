"""The other way to segment by words: propose regions, cut each out, show it to the same model by itself.

ZegFormer (Ding et al., CVPR 2022) does so with 100 proposals. Here the proposals are given, and making masks of them
costs nothing: only cropping and encoding are counted. It must not know what it is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

_AT_ONCE = 16
_SIDES = (0.15, 0.6)  # of the picture's

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, right and bottom beyond."""


@dataclass(frozen=True)
class Crops:
    """Encodes crops with an open_clip image tower.

    Attributes:
        tower: takes (B, 3, side, side), gives (B, D).
        side: pixels.
        texts: (n, D) float32 of unit length.
    """

    tower: Any
    side: int
    texts: Tensor

    @torch.inference_mode()
    def classify(self, image: NDArray[np.uint8], boxes: Sequence[Box]) -> Tensor:
        """(len(boxes),) the best text for each box of an (H, W, 3) uint8 RGB image."""
        found = []
        for start in range(0, len(boxes), _AT_ONCE):
            cut = np.stack([self._cut(image, box) for box in boxes[start : start + _AT_ONCE]])
            pixels = torch.from_numpy(cut).to(self.texts.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            found.append((F.normalize(self.tower(pixels), dim=-1) @ self.texts.T).argmax(dim=1))
        return torch.cat(found)

    def _cut(self, image: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
        left, top, right, bottom = box
        crop = Image.fromarray(image[top:bottom, left:right])
        return np.array(crop.resize((self.side, self.side), Image.Resampling.BICUBIC))


def proposals(count: int, height: int, width: int) -> list[Box]:
    """Boxes of the sizes that things have, anywhere in a picture."""
    rng = np.random.default_rng(0)
    sizes = (rng.uniform(*_SIDES, (count, 2)) * (height, width)).astype(int) + 1
    corners = (rng.random((count, 2)) * ((height, width) - sizes)).astype(int)
    return [(int(x), int(y), int(x + w), int(y + h)) for (y, x), (h, w) in zip(corners, sizes, strict=True)]
