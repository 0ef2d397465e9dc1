"""Small networks trained side by side on the same rows; what they agree on is surer than what one says.

It must not know what its inputs mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

Blinded = tuple[slice, float]
"""Columns that are hidden together from a row, and how often: what is not always seen is not leant on alone."""


@dataclass(frozen=True)
class Lesson:
    """What an ensemble learns from.

    Attributes:
        inputs: (N, F) float32, each column of about unit size.
        shares: (N, C) float32 of the classes in each row; they sum to 1.
        offset: (N, C) float32 logits that the networks add to.
        weight: (N,) float32: how often a row is drawn.
    """

    inputs: Tensor
    shares: Tensor
    offset: Tensor
    weight: Tensor

    def of(self, rows: Tensor) -> Lesson:
        """Some of the rows, (N,) bool."""
        return Lesson(self.inputs[rows], self.shares[rows], self.offset[rows], self.weight[rows])


@dataclass(frozen=True)
class Training:
    """How an ensemble is trained.

    Attributes:
        hidden: units of each of the two hidden layers.
        steps: of AdamW, on `batch` rows for each member.
        rate: the highest learning rate; warm-up over a tenth of the steps, then a cosine to 0.
        decay: weight decay.
        dropout: of hidden units.
    """

    hidden: int = 64
    steps: int = 250
    batch: int = 768
    rate: float = 4e-3
    decay: float = 0.2
    dropout: float = 0.0


@dataclass(frozen=True)
class Ensemble:
    """Two hidden layers with rectifiers, E members at once: weights (E, in, out) and biases (E, 1, out) by layer."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    @property
    def members(self) -> int:
        """How many there are."""
        return len(self.weights[0])

    def __call__(self, inputs: Tensor, *, dropout: float = 0.0) -> Tensor:
        """(E, N, F) to what is added to the offsets, (E, N, C)."""
        values = inputs
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = torch.baddbmm(bias, values, weight)
            if layer + 1 < len(self.weights):
                values = values.relu_() if not dropout else F.dropout(values.relu_(), dropout)
        return values

    def posterior(self, inputs: Tensor, offset: Tensor, strength: float) -> Tensor:
        """(N, C) mean posterior of the members for (N, F) inputs, their logits times the strength added to offsets."""
        logits = offset + strength * self(inputs.expand(self.members, *inputs.shape))
        return logits.softmax(dim=-1).mean(dim=0)


def train(lesson: Lesson, members: int, training: Training, *, blinded: Sequence[Blinded] = (), seed: int) -> Ensemble:
    """Train by cross-entropy with the shares. Deterministic on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train(lesson, members, training, blinded)


def _train(lesson: Lesson, members: int, training: Training, blinded: Sequence[Blinded]) -> Ensemble:
    sizes = (lesson.inputs.shape[1], training.hidden, training.hidden, lesson.shares.shape[1])
    net = _fresh(members, sizes)
    groups = [{"params": net.weights, "weight_decay": training.decay}, {"params": net.biases, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=training.rate, fused=True)
    drawn = torch.multinomial(lesson.weight, members * training.steps * training.batch, replacement=True)
    drawn = drawn.view(members, training.steps, training.batch)
    for step in range(training.steps):
        for group in optimiser.param_groups:
            group["lr"] = training.rate * _pace((step + 1) / training.steps)
        rows = drawn[:, step]
        inputs = lesson.inputs.index_select(0, rows.flatten()).view(*rows.shape, -1)
        for columns, often in blinded:
            inputs[..., columns] *= (torch.rand(*rows.shape, 1) >= often).float()
        logits = lesson.offset[rows] + net(inputs, dropout=training.dropout)
        # Summed over the members, which are strangers to each other.
        loss = -(lesson.shares[rows] * logits.log_softmax(dim=-1)).sum() / training.batch
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return Ensemble(tuple(w.detach() for w in net.weights), tuple(b.detach() for b in net.biases))


def _fresh(members: int, sizes: Sequence[int]) -> Ensemble:
    """He's initialisation; the last layer starts at nothing, so that learning starts from the offsets."""
    weights, biases = [], []
    for layer, (before, after) in enumerate(pairwise(sizes)):
        scale = math.sqrt(2 / before) if layer + 2 < len(sizes) else 0.01
        weights.append((scale * torch.randn(members, before, after)).requires_grad_())
        biases.append(torch.zeros(members, 1, after).requires_grad_())
    return Ensemble(tuple(weights), tuple(biases))


def _pace(done: float) -> float:
    return min(10 * done, 0.5 + 0.5 * math.cos(math.pi * done))
