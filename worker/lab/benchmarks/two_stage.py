"""The other way to segment by words: propose regions, cut each out, show it to the same model by itself.

ZegFormer (Ding et al., CVPR 2022) does so with 100 proposals. Here the proposals, boxes and masks, are given and cost
nothing: cropping and encoding are counted, and the class map that the masks make together. It must not know what it is
compared with.
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
_STRIDE = 4  # pixels between two values of a proposed mask, as MaskFormer makes them
_SOFTNESS = 0.1  # of a proposed mask's border, in radii
_SCALE = 100.0  # of cosines, as CLIP was trained

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, right and bottom beyond."""


@dataclass(frozen=True)
class Proposals:
    """Where something may be: a box each, and (n, h, w) float32 shares in [0, 1], a value for every four pixels."""

    boxes: Sequence[Box]
    masks: Tensor


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
    def pixel_classes(self, image: NDArray[np.uint8], proposals: Proposals) -> NDArray[np.int64]:
        """(H, W) the best text for each pixel of an (H, W, 3) uint8 RGB image, their number = background.

        Masks weighed with the posteriors of their crops, as MaskFormer and ZegFormer infer; summed before they are
        enlarged, which is cheaper. What no mask covers is background.
        """
        posteriors = (_SCALE * self.cosines(image, proposals.boxes)).softmax(dim=1)
        shares = torch.einsum("qc,qhw->chw", posteriors, proposals.masks.to(posteriors.device))
        rest = 1 - proposals.masks.amax(dim=0, keepdim=True).to(posteriors.device)
        size = (image.shape[0], image.shape[1])
        grown = F.interpolate(torch.cat([shares, rest])[None], size=size, mode="bilinear", align_corners=False)[0]
        return grown.argmax(dim=0).cpu().numpy()

    @torch.inference_mode()
    def cosines(self, image: NDArray[np.uint8], boxes: Sequence[Box]) -> Tensor:
        """(len(boxes), n) of each box's crop with each text."""
        found = []
        for start in range(0, len(boxes), _AT_ONCE):
            cut = np.stack([self._cut(image, box) for box in boxes[start : start + _AT_ONCE]])
            pixels = torch.from_numpy(cut).to(self.texts.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            found.append(F.normalize(self.tower(pixels), dim=-1) @ self.texts.T)
        return torch.cat(found)

    def _cut(self, image: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
        left, top, right, bottom = box
        crop = Image.fromarray(image[top:bottom, left:right])
        return np.array(crop.resize((self.side, self.side), Image.Resampling.BICUBIC))


def proposals(count: int, height: int, width: int) -> Proposals:
    """Ellipses of the sizes that things have, anywhere in a picture."""
    rng = np.random.default_rng(0)
    sizes = (rng.uniform(*_SIDES, (count, 2)) * (height, width)).astype(int) + 1
    corners = (rng.random((count, 2)) * ((height, width) - sizes)).astype(int)
    boxes = [(int(x), int(y), int(x + w), int(y + h)) for (y, x), (h, w) in zip(corners, sizes, strict=True)]
    down, across = (_STRIDE * (torch.arange(-(-side // _STRIDE)) + 0.5) for side in (height, width))
    middles, radii = (torch.from_numpy(pairs).float()[:, :, None, None] for pairs in (corners + sizes / 2, sizes / 2))
    away = torch.hypot((down[:, None] - middles[:, 0]) / radii[:, 0], (across - middles[:, 1]) / radii[:, 1])
    return Proposals(boxes, torch.sigmoid((1 - away) / _SOFTNESS))
