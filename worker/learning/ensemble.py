"""Small networks trained side by side, each on all folds but its own, so that every cell has one that never saw it.

It must not know what its inputs mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Lesson:
    """What an ensemble learns from.

    Attributes:
        inputs: (N, F) float32, each column of about unit size.
        shares: (N, C) float32 of the classes in each row; they sum to 1.
        offset: (N, C) float32 logits that the networks add to.
        weight: (N,) float32: how often a row is drawn.
        fold: (N,) int64 in [0, members).
    """

    inputs: Tensor
    shares: Tensor
    offset: Tensor
    weight: Tensor
    fold: Tensor


@dataclass(frozen=True)
class Training:
    """How an ensemble is trained.

    Attributes:
        hidden: units of each of the two hidden layers.
        steps: of AdamW, on `batch` rows for each member.
        rate: the highest learning rate; warm-up over a tenth of the steps, then a cosine to 0.
        decay: weight decay.
        dropout: of hidden units.
        blind: probability that the columns of `blinded` are hidden from a row.
    """

    hidden: int = 64
    steps: int = 250
    batch: int = 768
    rate: float = 4e-3
    decay: float = 0.02
    dropout: float = 0.1
    blind: float = 0.3


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
                values = F.dropout(values.relu_(), dropout, training=dropout > 0)
        return values

    def all(self, inputs: Tensor, offset: Tensor) -> Tensor:
        """(E, N, C) logits of every member for (N, F) inputs and (N, C) offsets."""
        return offset + self(inputs.expand(self.members, *inputs.shape))

    def member(self, number: int, inputs: Tensor, offset: Tensor) -> Tensor:
        """(N, C) logits of one member."""
        one = Ensemble(tuple(w[number, None] for w in self.weights), tuple(b[number, None] for b in self.biases))
        return one.all(inputs, offset)[0]


def train(lesson: Lesson, members: int, training: Training, *, blinded: Sequence[int] = (), seed: int = 0) -> Ensemble:
    """Train by cross-entropy with the shares; member e never sees fold e. Deterministic on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train(lesson, members, training, list(blinded))


def _train(lesson: Lesson, members: int, training: Training, blinded: list[int]) -> Ensemble:
    sizes = (lesson.inputs.shape[1], training.hidden, training.hidden, lesson.shares.shape[1])
    net = _fresh(members, sizes)
    groups = [{"params": net.weights, "weight_decay": training.decay}, {"params": net.biases, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=training.rate)
    drawn = torch.stack([_draw(lesson, member, training) for member in range(members)])  # (E, steps, batch)
    for step in range(training.steps):
        for group in optimiser.param_groups:
            group["lr"] = training.rate * _pace((step + 1) / training.steps)
        rows = drawn[:, step]
        inputs = lesson.inputs[rows]
        if blinded and training.blind:
            inputs[..., blinded] *= (torch.rand(*rows.shape, 1) >= training.blind).float()
        logits = lesson.offset[rows] + net(inputs, dropout=training.dropout)
        loss = -(lesson.shares[rows] * logits.log_softmax(dim=-1)).sum() / training.batch  # a sum: members are strangers
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return Ensemble(tuple(w.detach() for w in net.weights), tuple(b.detach() for b in net.biases))


def _fresh(members: int, sizes: Sequence[int]) -> Ensemble:
    """He's initialisation; the last layer starts at nothing, so that learning starts from the offsets."""
    weights, biases = [], []
    for layer, (before, after) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        scale = math.sqrt(2 / before) if layer + 2 < len(sizes) else 0.01
        weights.append((scale * torch.randn(members, before, after)).requires_grad_())
        biases.append(torch.zeros(members, 1, after).requires_grad_())
    return Ensemble(tuple(weights), tuple(biases))


def _draw(lesson: Lesson, member: int, training: Training) -> Tensor:
    rows = (lesson.fold != member).nonzero()[:, 0]
    picked = torch.multinomial(lesson.weight[rows], training.steps * training.batch, replacement=True)
    return rows[picked].view(training.steps, training.batch)


def _pace(done: float) -> float:
    return min(10 * done, 0.5 + 0.5 * math.cos(math.pi * done))
