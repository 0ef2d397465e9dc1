"""Vectors that a generator learns from: what they must be, and the scale on which they are learned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plugin_config.errors import LearningError

NO_OBJECT = -1
"""Label of a vector that is of no object."""

SUBJECT = "generator"
"""What errors are about."""

EQUAL = 1 - 1e-6
"""Cosine from which two label vectors are the same."""

_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, eq=False)
class RealVectors:
    """Vectors that a segmenter made of images.

    Attributes:
        vectors: (N, D) float32.
        labels: (N,) int64, the row of a seen label, or NO_OBJECT.
    """

    vectors: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Scaling:
    """Brings vectors to zero mean and mean squared length D, as after a LayerNorm, and back.

    Widths of kernels, noise and learning rates are meant for such vectors; those of an engine may have length 1 and lie
    in one corner.

    Attributes:
        centre: (D,) float32.
        factor: what one unit is in the vectors' own.
    """

    centre: Tensor
    factor: float

    @classmethod
    def of(cls, vectors: Tensor) -> Scaling:
        """The scaling of (N, D) vectors."""
        centre = vectors.mean(dim=0)
        spread = float((vectors - centre).square().mean().sqrt())
        return cls(centre, max(spread, _LEAST_SPREAD))

    def scaled(self, vectors: Tensor) -> Tensor:
        """(N, D) on the scale of the generator."""
        return (vectors - self.centre) / self.factor

    def restored(self, vectors: Tensor) -> Tensor:
        """(N, D) as the segmenter's."""
        return vectors * self.factor + self.centre

    def scaled_classifier(self, classifier: nn.Linear) -> nn.Linear:
        """The same classifier for scaled vectors."""
        weight, bias = classifier.weight.detach(), classifier.bias.detach()
        return linear(weight * self.factor, bias + weight @ self.centre)

    def restored_classifier(self, classifier: nn.Linear) -> nn.Linear:
        """The same classifier for the segmenter's vectors."""
        weight, bias = classifier.weight.detach() / self.factor, classifier.bias.detach()
        return linear(weight, bias - weight @ self.centre)


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A layer that holds copies of (K, D) weights and (K,) biases."""
    layer = nn.Linear(weight.shape[1], len(weight), device=weight.device)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def check_real(real: RealVectors, seen: int) -> None:
    """Check vectors and the labels that they name.

    Raises:
        LearningError: they cannot be learned from.
    """
    vectors, labels = real.vectors, real.labels
    if vectors.ndim != 2 or labels.shape != vectors.shape[:1] or labels.dtype != torch.int64:
        found = f"{tuple(vectors.shape)} and {tuple(labels.shape)} {labels.dtype}"
        raise LearningError(
            SUBJECT, f"vectors and labels must be (N, D) and (N,) int64, got {found}", "Give one label for each vector."
        )
    if not bool(vectors.isfinite().all()):
        row = int((~vectors.isfinite().all(dim=1)).nonzero()[0])
        raise LearningError(SUBJECT, f"vector {row} is no number", "Look for what made it, or leave it out.")
    if len(labels) and not NO_OBJECT <= int(labels.min()) <= int(labels.max()) < seen:
        found = f"{int(labels.min())} to {int(labels.max())}"
        problem = f"labels of vectors must be {NO_OBJECT} to {seen - 1}, got {found}"
        raise LearningError(SUBJECT, problem, "Number the seen labels from 0.")
    if not bool((labels >= 0).any()):
        raise LearningError(
            SUBJECT, "no vector is of a seen label", "Give pictures in which a seen label is found, with its masks."
        )


def check_texts(seen: Tensor, unseen: Tensor) -> None:
    """Check label vectors. Two seen labels may have the same one: their real vectors tell them apart.

    Args:
        seen: (S, T) float32.
        unseen: (U, T) float32.

    Raises:
        LearningError: there is no seen or no unseen label, a vector is none, or an unseen label has that of another.
    """
    for name, texts, remedy in (
        ("seen", seen, "Annotate some labels."),
        ("unseen", unseen, "There is nothing to generate: train without a generator."),
    ):
        if texts.ndim != 2 or not len(texts):
            raise LearningError(SUBJECT, f"there is no {name} label", remedy)
    if seen.shape[1] != unseen.shape[1]:
        problem = f"label vectors of seen and unseen labels have {seen.shape[1]} and {unseen.shape[1]} numbers"
        raise LearningError(SUBJECT, problem, "Make all of them with one text tower.")
    texts = torch.cat([seen, unseen])
    check_known(texts, ["seen"] * len(seen) + ["unseen"] * len(unseen))
    cosines = F.normalize(texts, dim=1) @ F.normalize(texts, dim=1).T
    same = (cosines > EQUAL).triu(diagonal=1)
    same[:, : len(seen)] = False
    if bool(same.any()):
        first, second = (int(row) for row in same.nonzero()[0])
        kind = f"seen label {first}" if first < len(seen) else f"unseen label {first - len(seen)}"
        problem = f"unseen label {second - len(seen)} has the same vector as {kind}"
        raise LearningError(SUBJECT, problem, "Give it other words, or leave it out.")


def check_known(texts: Tensor, kinds: list[str]) -> None:
    """Check that label vectors are numbers and not 0, which those of unreadable words may be.

    Args:
        texts: (C, T) float32.
        kinds: what each is called; numbers are counted for each kind from 0.

    Raises:
        LearningError: one is not.
    """
    usable = texts.isfinite().all(dim=1) & texts.any(dim=1)
    if not bool(usable.all()):
        row = int((~usable).nonzero()[0])
        label = f"{kinds[row]} label {row - kinds.index(kinds[row])}"
        raise LearningError(
            SUBJECT, f"{label} has no vector", "Leave labels out whose words cannot be read: nothing is made for them."
        )


def check_finite(values: dict[str, float], step: int) -> None:
    """Raise LearningError where a term of the loss of a step, counted from 0, is no number."""
    for name, value in values.items():
        if not math.isfinite(value):
            problem = f"the {name} loss of step {step + 1} is no number"
            raise LearningError(SUBJECT, problem, "Lower the learning rates or the weights of the losses.")
