"""Which proposal answers for which true segment, and the losses of both, as Mask2Former (Cheng et al., CVPR 2022) has
them; but masks are compared at every cell of their grid, not at 12,544 points of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from worker.learning.proposals.proposals import Proposals, SegmentedImage
from worker.learning.proposals.query_decoder import QueryPredictions

NO_OBJECT = -1
"""Label of a proposal that matches no true segment."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms, in matching and in the loss.

    Attributes:
        classes: of the cross-entropy of labels; in matching, of the probability of the true label.
        masks: of the sigmoid cross-entropy of the mask, mean over cells.
        dice: of the dice loss of the mask.
        no_object: class weight of the row of no object in the cross-entropy of labels.
    """

    classes: float = 2.0
    masks: float = 5.0
    dice: float = 5.0
    no_object: float = 0.1


@dataclass(frozen=True)
class TrueMasks:
    """The true segments of one image on the grid of its proposals.

    Attributes:
        shares: (n, h, w) float32, how much of each cell is of each segment.
        known: (h, w) float32, how much of each cell is of any; the rest is neither inside nor outside.
        classes: (n,) int64 rows of their labels.
    """

    shares: Tensor
    known: Tensor
    classes: Tensor

    @classmethod
    def of(cls, sample: SegmentedImage, grid: tuple[int, int]) -> TrueMasks:
        """Those of an image on a grid (h, w)."""
        shares, known = sample.shares(grid)
        return cls(shares, known, torch.tensor(sample.classes, dtype=torch.int64))

    def to(self, device: torch.device) -> TrueMasks:
        """The same on a device."""
        return TrueMasks(self.shares.to(device), self.known.to(device), self.classes.to(device))

    def flipped(self) -> TrueMasks:
        """The same, mirrored from left to right."""
        return TrueMasks(self.shares.flip(-1), self.known.flip(-1), self.classes)


def match(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Assign columns to rows so that the sum of their costs is least (Kuhn, 1955).

    Args:
        costs: (Q, n) float32; what is no number costs nothing, and is left to the loss to be found.

    Returns:
        (m,) int64 rows and (m,) int64 columns, m being the smaller of Q and n.
    """
    rows, columns = linear_sum_assignment(costs.detach().double().nan_to_num().cpu().numpy())
    return torch.as_tensor(rows, device=costs.device), torch.as_tensor(columns, device=costs.device)


@torch.no_grad()
def match_costs(masks: Tensor, logits: Tensor | None, truth: TrueMasks, weights: LossWeights) -> Tensor:
    """How badly each proposal fits each true segment of its image.

    Args:
        masks: (Q, h, w) float32 mask logits.
        logits: (Q, S + 1) of the labels; None = masks alone count.
        truth: n segments.
        weights: of the terms.

    Returns:
        (Q, n) float32.
    """
    known = truth.known.flatten()
    cells = known.sum().clamp_min(1)
    flat, shares = masks.flatten(1).float(), truth.shares.flatten(1)  # (Q, N), (n, N)
    entropy = (F.softplus(-flat) @ shares.T + F.softplus(flat) @ (known - shares).T) / cells
    inside = flat.sigmoid()
    dice = 1 - (2 * inside @ shares.T + 1) / ((inside @ known)[:, None] + shares.sum(dim=1) + 1)
    costs = weights.masks * entropy + weights.dice * dice
    if logits is not None:
        costs = costs - weights.classes * logits.softmax(dim=1)[:, truth.classes]
    return costs


def query_losses(
    predictions: Sequence[QueryPredictions], truths: Sequence[TrueMasks], weights: LossWeights
) -> Mapping[str, Tensor]:
    """Losses of what the queries say after each layer, each layer matched by itself.

    Args:
        predictions: of a batch of B images, after each layer.
        truths: B times the segments of an image, which may be none.
        weights: of the terms.

    Returns:
        "classes", "masks" and "dice" of the last layer, unweighted, and "total" over all layers.
    """
    terms: dict[str, Tensor] = {}
    total = predictions[0].masks.new_zeros(())
    for one in predictions:
        terms = _layer_losses(one, truths, weights)
        total = total + sum(getattr(weights, name) * value for name, value in terms.items())
    return {**terms, "total": total}


def _layer_losses(found: QueryPredictions, truths: Sequence[TrueMasks], weights: LossWeights) -> dict[str, Tensor]:
    rows = found.logits.shape[2]
    targets = torch.full(found.logits.shape[:2], rows - 1, device=found.logits.device)
    entropy, dice, segments = [], [], 0
    for place, truth in enumerate(truths):
        queries, columns = match(match_costs(found.masks[place], found.logits[place], truth, weights))
        targets[place, queries] = truth.classes[columns]
        logits, shares = found.masks[place, queries].flatten(1), truth.shares[columns].flatten(1)
        known = truth.known.flatten()
        # A cell counts by how much of it is known, and of what is known the share is shares / known.
        pixels = F.softplus(-logits) * shares + F.softplus(logits) * (known - shares)
        entropy.append(pixels.sum() / known.sum().clamp_min(1))
        drawn = logits.sigmoid()
        overlap = 2 * (drawn * shares).sum(dim=1) + 1
        dice.append((1 - overlap / ((drawn * known).sum(dim=1) + shares.sum(dim=1) + 1)).sum())
        segments += len(columns)
    balance = found.logits.new_ones(rows)
    balance[-1] = weights.no_object
    classes = F.cross_entropy(found.logits.flatten(0, 1), targets.flatten(), weight=balance)
    count = max(1, segments)
    return {"classes": classes, "masks": torch.stack(entropy).sum() / count, "dice": torch.stack(dice).sum() / count}


def label_proposals(proposals: Proposals, sample: SegmentedImage, logits: Tensor | None = None) -> Tensor:
    """Find the label of each proposal of an annotated image: that of the true segment it is matched with.

    PADing (He et al., CVPR 2023) takes the vectors of matched queries as real examples of their labels, and all others
    as examples of no object.

    Args:
        proposals: Q of the image.
        sample: the image and its segments.
        logits: (Q, S + 1) what the decoder says of its labels, which then counts in matching as in its training; None =
            masks alone count.

    Returns:
        (Q,) int64 rows of labels, or NO_OBJECT.
    """
    labels = torch.full((len(proposals),), NO_OBJECT)
    truth = TrueMasks.of(sample, (proposals.masks.shape[1], proposals.masks.shape[2])).to(proposals.masks.device)
    if not len(proposals) or not len(truth.classes):
        return labels
    queries, columns = match(match_costs(proposals.masks, logits, truth, LossWeights()))
    labels[queries.cpu()] = truth.classes[columns].cpu()
    return labels
