"""Losses of PADing (He et al., CVPR 2023) on generated vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNELS = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0)
"""s of the kernels exp(-|u - v|^2 / 2 s), for vectors of squared length around D, as after a LayerNorm."""

_TEMPERATURE = 0.1
_ROUNDING = 1e-6  # a squared discrepancy below it is rounding; its root has no useful gradient


def mmd(real: Tensor, generated: Tensor, labels: Tensor | None = None) -> Tensor:
    """Maximum mean discrepancy of two sets of vectors: the root of the sum over the kernels.

    Args:
        real: (N, D) float32.
        generated: (M, D) float32.
        labels: (N,) int64 of both sets, row by row (M = N). Then each label's vectors are compared by themselves, as
            ZS3Net does; None = the sets as a whole, as PADing does.
    """
    among = _kernels(real, real), _kernels(generated, generated), _kernels(real, generated)
    if labels is None:
        squared = among[0].mean() + among[1].mean() - 2 * among[2].mean()
    else:
        same = (labels[:, None] == labels[None]).float()
        weights = same / same.sum(dim=1, keepdim=True) / len(labels)  # every label by its share of the vectors
        squared = (weights * (among[0] + among[1] - 2 * among[2])).sum()
    return torch.where(squared > _ROUNDING, squared.clamp_min(_ROUNDING).sqrt(), 0 * squared)


def _kernels(left: Tensor, right: Tensor) -> Tensor:
    """(N, M) sums of the kernels."""
    lengths = left.square().sum(dim=1)[:, None] + right.square().sum(dim=1)[None]
    squared = (lengths - 2 * left @ right.T).clamp_min(0)
    return torch.stack([torch.exp(-squared / (2 * sigma)) for sigma in KERNELS]).sum(dim=0)


def classification(generated: Tensor, labels: Tensor, classifier: nn.Linear, seen: int) -> Tensor:
    """Cross-entropy of generated vectors among the seen rows of the classifier, which gets no gradient from it.

    Args:
        generated: (N, D) float32.
        labels: (N,) int64, rows of seen labels.
        classifier: rows of seen labels first.
        seen: how many these are.
    """
    logits = F.linear(generated, classifier.weight[:seen].detach(), classifier.bias[:seen].detach())
    return F.cross_entropy(logits, labels)


def relatedness(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the scores of the relation network; they are sigmoids, and the paper takes them as logits.

    Args:
        scores: (N, C) in (0, 1).
        labels: (N,) int64.
    """
    return F.cross_entropy(scores, labels)


def unrelatedness(parts: Tensor, noise: Tensor) -> Tensor:
    """How far unrelated parts are from noise: KL(softmax(noise / 0.1) || softmax(parts / 0.1)), mean over all entries.

    Args:
        parts: (N, D) float32.
        noise: (N, D) standard normal.
    """
    return _divergence(noise / _TEMPERATURE, parts / _TEMPERATURE)


def reconstruction(decoded: Tensor, generated: Tensor) -> Tensor:
    """Mean absolute difference of (N, D) vectors that were put together from their parts."""
    return F.l1_loss(decoded, generated)


def relations(left: Tensor, right: Tensor) -> Tensor:
    """(N, M) cosines of (N, D) and (M, D) vectors."""
    return F.normalize(left, dim=1) @ F.normalize(right, dim=1).T


def alignment(visual: tuple[Tensor, Tensor], semantic: tuple[Tensor, Tensor]) -> Tensor:
    """How far relations among generated vectors are from those among label vectors.

    KL(semantic || visual) of the rows' softmax at temperature 0.1, mean over all entries; the mean of seen among seen,
    unseen among unseen, and seen among unseen.

    Label vectors are the target and get no gradient. In the authors' code they do, through the learned projection: then
    the loss can also be made small by projecting all labels to one vector.

    Args:
        visual: (S, D) and (U, D), one generated vector (or its related part) for each seen and each unseen label.
        semantic: (S, D) and (U, D) projected label vectors, in the same order.
    """
    (seen, unseen), (seen_words, unseen_words) = visual, (semantic[0].detach(), semantic[1].detach())
    compared = (
        (relations(seen_words, seen_words), relations(seen, seen)),
        (relations(unseen_words, unseen_words), relations(unseen, unseen)),
        (relations(seen_words, unseen_words), relations(seen, unseen)),
    )
    return torch.stack([_divergence(wanted / _TEMPERATURE, found / _TEMPERATURE) for wanted, found in compared]).mean()


def _divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """KL(softmax(wanted) || softmax(found)) of (N, M) logits, summed and divided by N times M."""
    targets = F.log_softmax(wanted, dim=1)
    return (targets.exp() * (targets - F.log_softmax(found, dim=1))).mean()
