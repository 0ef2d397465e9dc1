"""SAZS: Delving into shape-aware zero-shot semantic segmentation (Liu et al., CVPR 2023).

LSeg's network with a boundary head on the embeddings, and three losses on it beside the alignment of pixels and labels.
What differs from the released code, and why, is said where it differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.learning.recipes.dense.edges import EdgeTarget, edge_target
from worker.learning.recipes.dense.inverse_form import InverseForm
from worker.learning.recipes.dense.lseg import LSegNetwork, cross_entropy
from worker.learning.recipes.dense.networks import EDGES, DenseOutput, PixelFeatures
from worker.learning.recipes.dense.presets import Preset
from worker.segmentation.encoders.towers import Tower, TowerMaps
from worker.segmentation.metrics import VOID

TERMS = ("bce", "attention", "shape")
"""Losses on the boundaries; each may be left out."""


class SazsNetwork(LSegNetwork):
    """LSeg's network and one convolution of 1x1 from the embedding to a boundary logit."""

    def __init__(self, preset: Preset, tower: Tower, width: int) -> None:
        super().__init__(preset, tower, width)
        self.boundary = nn.Conv2d(width, 1, 1)

    def read(self, maps: TowerMaps) -> PixelFeatures:
        """See `DenseNetwork`."""
        embedding = super().read(maps).embedding
        return PixelFeatures(embedding, {EDGES: self.boundary(embedding)})


@dataclass(frozen=True)
class SazsLoss:
    """L = align + bce + attention + shape, each with its weight; as released by default.

    Attributes:
        bce: weight of the balanced cross-entropy of the boundaries.
        attention: weight of the cross-entropy of the classes near predicted boundaries.
        shape: weight of the transformation between predicted and true boundaries.
        attention_from: boundary logit from which a cell is near one.
        at_pixels: whether the alignment is measured at the pixels, as in LSeg, instead of the cells, as released.
        inverse_form: measures the transformation; loaded when it is None and needed.
    """

    bce: float = 0.3
    attention: float = 0.1
    shape: float = 0.3
    attention_from: float = 0.8
    at_pixels: bool = True
    inverse_form: InverseForm | None = field(default=None, compare=False)

    def __call__(self, output: DenseOutput, truth: Tensor) -> dict[str, Tensor]:
        """Compute the terms and their "total".

        Args:
            output: with a map of boundary logits.
            truth: (B, H, W) int64: a row of the label vectors, or VOID, which pixels of unseen classes must be.
        """
        edges = output.maps[EDGES]
        grid = (edges.shape[2], edges.shape[3])
        target = edge_target(truth, grid)
        terms = {"align": cross_entropy(output.logits, truth if self.at_pixels else _on_cells(truth, output.logits))}
        weights = {"align": 1.0, "bce": self.bce, "attention": self.attention, "shape": self.shape}
        if self.bce:
            terms["bce"] = balanced_bce(edges, target)
        if self.attention:
            terms["attention"] = edge_attention(output.logits, edges, target, self.attention_from)
        if self.shape:
            measure = self.inverse_form or InverseForm.shipped(edges.device)
            terms["shape"] = measure(edges.sigmoid() * target.known, target.edges)
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return {**terms, "total": total}


def balanced_bce(edges: Tensor, target: EdgeTarget) -> Tensor:
    """Cross-entropy of boundary logits (B, 1, h, w), in which boundaries and the rest of the batch weigh the same."""
    logits, wanted = edges[target.known], target.edges[target.known]
    share = wanted.mean() if len(wanted) else wanted.sum()
    weight = torch.where(wanted > 0, 1 - share, share)
    total = F.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="sum")
    return total / max(1, len(wanted))


def edge_attention(logits: Tensor, edges: Tensor, target: EdgeTarget, threshold: float) -> Tensor:
    """Cross-entropy of the classes where a boundary is predicted; rare classes of the batch weigh up to twice as much.

    The mean over these cells, where the released code has their sum: its weight then does not depend on the size of the
    images.
    """
    near = (edges.detach()[:, 0] > threshold) & (target.classes != VOID)
    if not bool(near.any()):
        return logits.sum() * 0
    classes, logits = target.classes[near], logits.float()  # blocks under autocast give low precision
    if logits.shape[-2:] != edges.shape[-2:]:
        logits = F.interpolate(logits, size=edges.shape[-2:], mode="bilinear", align_corners=False)
    shares = torch.bincount(classes, minlength=logits.shape[1]) / len(classes)
    return F.cross_entropy(logits.permute(0, 2, 3, 1)[near], classes, 2 - shares)


def _on_cells(truth: Tensor, logits: Tensor) -> Tensor:
    return F.interpolate(truth[:, None].double(), size=logits.shape[-2:], mode="nearest-exact")[:, 0].long()
