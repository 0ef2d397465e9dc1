"""Two-stage zero-shot segmentation for comparison: propose regions, crop each, classify each crop with the model.

As in ZegFormer (Ding et al., CVPR 2022), with 100 proposals. Here the proposals, boxes and masks, are given and cost
nothing; timed are cropping, encoding, and combining the masks into a class map.
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
_SIDES = (0.15, 0.6)  # of a proposal, as a share of the image's
_STRIDE = 4  # pixels between two values of a proposed mask, as in MaskFormer
_SOFTNESS = 0.1  # of a proposed mask's border, in radii
_SCALE = 100.0  # of cosines, as CLIP was trained

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are exclusive."""


@dataclass(frozen=True)
class Proposals:
    """Proposed regions.

    Attributes:
        boxes: n of them.
        masks: (n, h, w) float32 in [0, 1], one value for every four pixels.
    """

    boxes: Sequence[Box]
    masks: Tensor


@dataclass(frozen=True)
class Crops:
    """Classifier of crops with an open_clip image tower.

    Attributes:
        tower: maps (B, 3, side, side) pixels to (B, D) embeddings.
        side: pixels.
        texts: (n, D) float32 text embeddings of unit length.
    """

    tower: Any
    side: int
    texts: Tensor

    @torch.inference_mode()
    def pixel_classes(self, image: NDArray[np.uint8], proposals: Proposals) -> NDArray[np.int64]:
        """Predict the best of n texts for each pixel of an (H, W, 3) uint8 RGB image, (H, W); n is the background.

        Masks are weighted with the posteriors of their crops and summed, as in MaskFormer and ZegFormer, and then
        upsampled, which is cheaper. What no mask covers is background.
        """
        posteriors = (_SCALE * self.cosines(image, proposals.boxes)).softmax(dim=1)
        shares = torch.einsum("qc,qhw->chw", posteriors, proposals.masks.to(posteriors.device))
        rest = 1 - proposals.masks.amax(dim=0, keepdim=True).to(posteriors.device)
        size = (image.shape[0], image.shape[1])
        grown = F.interpolate(torch.cat([shares, rest])[None], size=size, mode="bilinear", align_corners=False)[0]
        return grown.argmax(dim=0).cpu().numpy()

    @torch.inference_mode()
    def cosines(self, image: NDArray[np.uint8], boxes: Sequence[Box]) -> Tensor:
        """Cosine of each box's crop with each text, (len(boxes), n) float32."""
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
    """Random ellipses in an image of height x width pixels; the same arguments give the same proposals."""
    rng = np.random.default_rng(0)
    sizes = (rng.uniform(*_SIDES, (count, 2)) * (height, width)).astype(int) + 1
    corners = (rng.random((count, 2)) * ((height, width) - sizes)).astype(int)
    boxes = [(int(x), int(y), int(x + w), int(y + h)) for (y, x), (h, w) in zip(corners, sizes, strict=True)]
    down, across = (_STRIDE * (torch.arange(-(-side // _STRIDE)) + 0.5) for side in (height, width))
    middles, radii = (torch.from_numpy(pairs).float()[:, :, None, None] for pairs in (corners + sizes / 2, sizes / 2))
    away = torch.hypot((down[:, None] - middles[:, 0]) / radii[:, 0], (across - middles[:, 1]) / radii[:, 1])
    return Proposals(boxes, torch.sigmoid((1 - away) / _SOFTNESS))
