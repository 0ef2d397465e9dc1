"""Small networks trained side by side on the same rows; what they agree on is surer than what one says.

It must not know what its inputs mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

_MEAN, _SQUARE, _TINY = 0.9, 0.999, 1e-8  # of AdamW: how long gradients and their squares are remembered
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
        untold: (C,) bool: classes of which the offsets say nothing.
    """

    inputs: Tensor
    shares: Tensor
    offset: Tensor
    weight: Tensor
    untold: Tensor

    def of(self, rows: Tensor) -> Lesson:
        """Some of the rows, (N,) bool."""
        return Lesson(self.inputs[rows], self.shares[rows], self.offset[rows], self.weight[rows], self.untold)

    def without(self, rows: Tensor) -> Lesson:
        """The same with some of the rows, (N,) bool, never drawn; nothing is copied."""
        return replace(self, weight=self.weight * ~rows)


@dataclass(frozen=True)
class Training:
    """How an ensemble is trained.

    Attributes:
        hidden: units of each of the two hidden layers.
        steps: of AdamW, on `batch` rows for each member.
        rate: the highest learning rate; warm-up over a tenth of the steps, then a cosine to 0.
        decay: weight decay.
    """

    hidden: int = 64
    steps: int = 250
    batch: int = 512
    rate: float = 12e-3
    decay: float = 0.2


@dataclass(frozen=True)
class Ensemble:
    """Two hidden layers with rectifiers, E members at once: weights (E, in, out) and biases (E, 1, out) by layer."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    @property
    def members(self) -> int:
        """How many there are."""
        return len(self.weights[0])

    def __call__(self, inputs: Tensor) -> Tensor:
        """(E, N, F) to what is added to the offsets, (E, N, C)."""
        values = inputs
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = torch.baddbmm(bias, values, weight)
            if layer + 1 < len(self.weights):
                values.relu_()
        return values

    def posterior(self, inputs: Tensor, offset: Tensor, strength: float, untold: Tensor) -> Tensor:
        """(N, C) float32 mean posterior of the members.

        Args:
            inputs: (N, F).
            offset: (N, C) logits that theirs, times the strength, are added to.
            strength: in [0, 1]: how far to go from what the offsets say.
            untold: (C,) bool: classes of which they say nothing, and whose posterior is at any strength what the
                members say of them. At least one class is not among them.
        """
        added = self(inputs.expand(self.members, *inputs.shape))
        moved = offset + strength * added
        if strength == 1 or not untold.any():
            return moved.softmax(dim=-1).mean(dim=0)
        learned = (offset + added).softmax(dim=-1)
        left = 1 - learned[..., untold].sum(dim=-1, keepdim=True)
        others = moved.masked_fill_(untold, -torch.inf).softmax(dim=-1)
        return torch.where(untold, learned, left * others).mean(dim=0)


def train(lesson: Lesson, members: int, training: Training, *, blinded: Sequence[Blinded] = (), seed: int) -> Ensemble:
    """Train by cross-entropy with the shares. Deterministic on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train(lesson, members, training, blinded)


@torch.no_grad()
def _train(lesson: Lesson, members: int, training: Training, blinded: Sequence[Blinded]) -> Ensemble:
    sizes = (lesson.inputs.shape[1], training.hidden, training.hidden, lesson.shares.shape[1])
    net = fresh(members, sizes)
    gradients = Gradients(net, training.batch)
    descent = Descent(net, gradients.of, training.decay)
    drawn = torch.multinomial(lesson.weight, training.steps * training.batch, replacement=True)
    for step, rows in enumerate(drawn.view(training.steps, training.batch), start=1):
        inputs = lesson.inputs.index_select(0, rows)
        for columns, often in blinded:
            inputs[:, columns] *= torch.rand(training.batch, 1) >= often
        gradients.take(inputs, lesson.offset.index_select(0, rows), lesson.shares.index_select(0, rows))
        descent.step(training.rate * _pace(step / training.steps))
    return net


class Descent:
    """AdamW (Loshchilov and Hutter, ICLR 2019), bare: of networks this small, what torch's does besides takes longer.

    Args:
        net: what descends; biases do not decay.
        gradient: of every weight, then of every bias, one after the other as one vector.
        decay: of the weights.
    """

    def __init__(self, net: Ensemble, gradient: Tensor, decay: float) -> None:
        parameters = [*net.weights, *net.biases]
        self._flat = torch.cat([parameter.flatten() for parameter in parameters])
        self._parts = list(zip(parameters, _parts(self._flat, net), strict=True))
        self._decaying = self._flat[: sum(weight.numel() for weight in net.weights)]
        self._decay, self._steps = decay, 0
        self._gradient = gradient
        self._mean, self._square = torch.zeros_like(gradient), torch.zeros_like(gradient)

    def step(self, rate: float) -> None:
        """Go on by the gradient as it is now."""
        self._steps += 1
        self._mean.lerp_(self._gradient, 1 - _MEAN)
        self._square.mul_(_SQUARE).addcmul_(self._gradient, self._gradient, value=1 - _SQUARE)
        size = (self._square / (1 - _SQUARE**self._steps)).sqrt_().add_(_TINY)
        self._decaying.mul_(1 - rate * self._decay)
        self._flat.addcdiv_(self._mean, size, value=-rate / (1 - _MEAN**self._steps))
        for parameter, part in self._parts:
            parameter.copy_(part)


class Gradients:
    """The gradients of cross-entropy with shares, by hand: both passes write to buffers that are kept.

    Every member sees the same rows.

    Attributes:
        of: gradients of every weight, then of every bias, one after the other as one vector.
    """

    def __init__(self, net: Ensemble, batch: int) -> None:
        self._net = net
        self._layers = list(zip(net.weights, net.biases, strict=True))
        self._values = [torch.empty(net.members, batch, weight.shape[2]) for weight in net.weights]
        self._errors = [torch.empty_like(values) for values in self._values]
        self.of = torch.empty(sum(parameter.numel() for parameter in (*net.weights, *net.biases)))
        parts = _parts(self.of, net)
        self._slopes = list(zip(parts[: len(net.weights)], parts[len(net.weights) :], strict=True))

    def take(self, inputs: Tensor, offset: Tensor, shares: Tensor) -> None:
        """Set all gradients, for rows (B, F), their offsets (B, C) and shares (B, C)."""
        below = [inputs.expand(self._net.members, *inputs.shape), *self._values]
        for (weight, bias), before, values in zip(self._layers, below, self._values, strict=False):
            torch.baddbmm(bias, before, weight, out=values)
            if values is not self._values[-1]:
                values.relu_()
        error = self._values[-1].add_(offset).softmax(dim=-1).sub_(shares).div_(len(inputs))
        for layer in reversed(range(len(self._layers))):
            of_weight, of_bias = self._slopes[layer]
            torch.bmm(below[layer].transpose(1, 2), error, out=of_weight)
            torch.sum(error, dim=1, keepdim=True, out=of_bias)
            if layer:
                error = torch.bmm(error, self._layers[layer][0].transpose(1, 2), out=self._errors[layer - 1])
                error.mul_(below[layer].sign_())  # the rectifier's slope; its output is not needed any more


def _parts(flat: Tensor, net: Ensemble) -> list[Tensor]:
    """Views of a vector in the shapes of every weight, then of every bias."""
    found, start = [], 0
    for parameter in (*net.weights, *net.biases):
        found.append(flat[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()
    return found


def fresh(members: int, sizes: Sequence[int]) -> Ensemble:
    """Networks of layers of so many units, inputs first, classes last, by He's initialisation.

    The last layer starts next to nothing, so that learning starts from the offsets.
    """
    weights, biases = [], []
    for layer, (before, after) in enumerate(pairwise(sizes)):
        scale = math.sqrt(2 / before) if layer + 2 < len(sizes) else 0.01
        weights.append(scale * torch.randn(members, before, after))
        biases.append(torch.zeros(members, 1, after))
    return Ensemble(tuple(weights), tuple(biases))


def _pace(done: float) -> float:
    return min(10 * done, 0.5 + 0.5 * math.cos(math.pi * done))
