"""An ensemble of small networks, trained side by side on the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from worker.segmentation.class_scores import ClassScores, blend

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # of AdamW
ColumnDropout = tuple[slice, float]
"""Columns that are dropped together from a row, and how often, so that the networks do not depend on them alone."""


@dataclass(frozen=True)
class TrainingSet:
    """What an ensemble is trained on.

    Attributes:
        inputs: (N, F) float32, each column of about unit variance.
        shares: (N, C) float32 soft labels with sum 1 over C.
        offset: (N, C) float32 logits that the networks add to; 0 for classes without text.
        weight: (N,) float32: relative frequency with which a row is drawn.
        has_text: (C,) bool: classes whose offset comes from zero-shot scores.
    """

    inputs: Tensor
    shares: Tensor
    offset: Tensor
    weight: Tensor
    has_text: Tensor

    def subset(self, rows: Tensor) -> TrainingSet:
        """Copy some of the rows, (N,) bool."""
        return TrainingSet(self.inputs[rows], self.shares[rows], self.offset[rows], self.weight[rows], self.has_text)

    def without(self, rows: Tensor) -> TrainingSet:
        """The same where some of the rows, (N,) bool, are never drawn; nothing is copied."""
        return replace(self, weight=self.weight * ~rows)


@dataclass(frozen=True)
class EnsembleConfig:
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
    """E networks with two hidden ReLU layers: weights (E, in, out) and biases (E, 1, out) by layer."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    @property
    def members(self) -> int:
        """E, the number of networks."""
        return len(self.weights[0])

    def __call__(self, inputs: Tensor) -> Tensor:
        """Compute what is added to the offsets: (E, N, F) -> (E, N, C)."""
        values = inputs
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = torch.baddbmm(bias, values, weight)
            if layer + 1 < len(self.weights):
                values.relu_()
        return values

    def posterior(self, inputs: Tensor, offset: Tensor, strength: float, has_text: Tensor) -> Tensor:
        """Average the posteriors of the members, each blended with the offsets: (N, C) float32.

        Args:
            inputs: (N, F).
            offset: (N, C) logits that the networks add to.
            strength: in [0, 1], see `worker.segmentation.class_scores.blend`.
            has_text: (C,) bool: classes whose offset comes from zero-shot scores; at least one.
        """
        learned = offset + self(inputs.expand(self.members, *inputs.shape))  # (E, N, C)
        if strength == 1:
            return learned.softmax(dim=-1).mean(dim=0)
        by_class = ClassScores(learned.permute(2, 0, 1), torch.ones_like(has_text))
        zero_shot = ClassScores.of(offset.T[:, None], has_text)  # (C, 1, N)
        return blend(zero_shot, by_class, strength).logits.exp().mean(dim=1).T


def train_ensemble(
    data: TrainingSet, members: int, config: EnsembleConfig, *, column_dropout: Sequence[ColumnDropout] = (), seed: int
) -> Ensemble:
    """Train by cross-entropy with soft labels. Deterministic on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train(data, members, config, column_dropout)


@torch.no_grad()
def _train(
    data: TrainingSet, members: int, config: EnsembleConfig, column_dropout: Sequence[ColumnDropout]
) -> Ensemble:
    sizes = (data.inputs.shape[1], config.hidden, config.hidden, data.shares.shape[1])
    net = initialised(members, sizes)
    backward = Backward(net, config.batch)
    optimiser = AdamW(net, backward.gradient, config.decay)
    drawn = torch.multinomial(data.weight, config.steps * config.batch, replacement=True)
    for step, rows in enumerate(drawn.view(config.steps, config.batch), start=1):
        inputs = data.inputs.index_select(0, rows)
        for columns, rate in column_dropout:
            inputs[:, columns] *= torch.rand(config.batch, 1) >= rate
        backward(inputs, data.offset.index_select(0, rows), data.shares.index_select(0, rows))
        optimiser.step(config.rate * _schedule(step / config.steps))
    return net


class AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019) on all parameters as one vector.

    torch.optim.AdamW(fused=True) gives the same posteriors within 4e-7 and is slower for networks this small: 310
    instead of 190 us a step, 1.20 instead of 1.06 s a fit (medians of 15 fits of 250 steps, 3 networks 193-64-64-5,
    batches of 512, one thread of a 2-core CPU, torch 2.14.1, November 2026; its other variants are slower still).

    Args:
        net: what is trained; biases do not decay.
        gradient: of every weight, then of every bias, concatenated as one vector.
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
        """Take one step at a learning rate, with the gradient as it is now."""
        self._steps += 1
        self._mean.lerp_(self._gradient, 1 - _BETA1)
        self._square.mul_(_BETA2).addcmul_(self._gradient, self._gradient, value=1 - _BETA2)
        size = (self._square / (1 - _BETA2**self._steps)).sqrt_().add_(_EPSILON)
        self._decaying.mul_(1 - rate * self._decay)
        self._flat.addcdiv_(self._mean, size, value=-rate / (1 - _BETA1**self._steps))
        for parameter, part in self._parts:
            parameter.copy_(part)


class Backward:
    """Forward and backward pass of cross-entropy with soft labels, into buffers that are reused.

    All members see the same rows.

    Attributes:
        gradient: of every weight, then of every bias, concatenated as one vector.
    """

    def __init__(self, net: Ensemble, batch: int) -> None:
        self._net = net
        self._layers = list(zip(net.weights, net.biases, strict=True))
        self._values = [torch.empty(net.members, batch, weight.shape[2]) for weight in net.weights]
        self._errors = [torch.empty_like(values) for values in self._values]
        self.gradient = torch.empty(sum(parameter.numel() for parameter in (*net.weights, *net.biases)))
        parts = _parts(self.gradient, net)
        self._slopes = list(zip(parts[: len(net.weights)], parts[len(net.weights) :], strict=True))

    def __call__(self, inputs: Tensor, offset: Tensor, shares: Tensor) -> None:
        """Set the gradient, for rows (B, F), their offsets (B, C) and soft labels (B, C)."""
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
                error.mul_(below[layer].sign_())  # slope of the ReLU, in place of its output, which is not needed again


def _parts(flat: Tensor, net: Ensemble) -> list[Tensor]:
    """Views of a vector in the shapes of every weight, then of every bias."""
    found, start = [], 0
    for parameter in (*net.weights, *net.biases):
        found.append(flat[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()
    return found


def initialised(members: int, sizes: Sequence[int]) -> Ensemble:
    """Initialise networks with layers of so many units, inputs first, classes last (He et al., ICCV 2015).

    The last layer starts near zero, so that training starts from the offsets.
    """
    weights, biases = [], []
    for layer, (before, after) in enumerate(pairwise(sizes)):
        scale = math.sqrt(2 / before) if layer + 2 < len(sizes) else 0.01
        weights.append(scale * torch.randn(members, before, after))
        biases.append(torch.zeros(members, 1, after))
    return Ensemble(tuple(weights), tuple(biases))


def _schedule(progress: float) -> float:
    return min(10 * progress, 0.5 + 0.5 * math.cos(math.pi * progress))
