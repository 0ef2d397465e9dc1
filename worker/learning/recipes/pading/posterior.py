"""Proposals and a classifier -> the posterior of each cell, as MaskFormer reads masks (Cheng et al., NeurIPS 2021), and
which proposal each cell is part of, as its panoptic inference decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST = 1e-30  # posterior: keeps logarithms finite, and small shares apart
_LEAST_LEFT = 0.8  # of a mask that others leave to a proposal: with less it is a second proposal of what they found
_INSIDE = 0.5  # of a mask, from which a cell is in it
_EMPTY = 0.5  # probability of no object, from which a proposal is none


def label_shares(masks: Tensor, probabilities: Tensor) -> Tensor:
    """How much of each cell is of each label, and of none.

    Args:
        masks: (Q, h, w) float32 mask logits.
        probabilities: (Q, C + 1) float32 of each proposal's labels, no object last.

    Returns:
        (C + 1, h, w) float32: the sum over proposals of the label's probability times the mask's; last the probability
        that no proposal of an object covers the cell.
    """
    inside = masks.sigmoid()
    labels = torch.einsum("qc,qhw->chw", probabilities[:, :-1], inside)
    objects = 1 - probabilities[:, -1]
    free = (1 - objects[:, None, None] * inside).clamp_min(_SMALLEST).log().sum(dim=0).exp()
    return torch.cat([labels, free[None]])


def share_logits(shares: Tensor) -> Tensor:
    """(C, h, w) shares as logits whose softmax is the posterior."""
    return shares.clamp_min(_SMALLEST).log()


def proposal_numbers(masks: Tensor, probabilities: Tensor) -> Tensor:
    """Which proposal each cell is part of.

    Of proposals that are an object, each cell goes to the one with the largest product of probability and mask; then
    those to which others leave less than 0.8 of their mask are dropped, and the cells dealt again.

    Args:
        masks: (Q, h, w) float32 mask logits.
        probabilities: (Q, C + 1) float32, no object last.

    Returns:
        (h, w) int64: number of a proposal, from 1; 0 where none covers the cell.
    """
    inside, objects = masks.sigmoid(), 1 - probabilities[:, -1]
    kept = objects > _EMPTY
    numbers = _dealt(inside, objects, kept)
    for row in kept.nonzero()[:, 0].tolist():
        whole = inside[row] >= _INSIDE
        left = (whole & (numbers == row + 1)).sum()
        kept[row] = bool(whole.any()) and bool(left >= _LEAST_LEFT * whole.sum())
    return _dealt(inside, objects, kept)


def _dealt(inside: Tensor, objects: Tensor, kept: Tensor) -> Tensor:
    if not bool(kept.any()):
        return torch.zeros(inside.shape[1:], dtype=torch.int64, device=inside.device)
    rows = kept.nonzero()[:, 0]
    best = (inside[rows] * objects[rows, None, None]).argmax(dim=0)
    covered = inside[rows].gather(0, best[None])[0] >= _INSIDE
    return torch.where(covered, rows[best] + 1, 0)
