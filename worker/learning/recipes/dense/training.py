"""Training of dense networks, step by step, so that it can be broken off and resumed with the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from plugin_config.errors import LearningError
from worker.learning.corrections.class_maps import shrink_nearest
from worker.learning.recipes.dense.batches import CropConfig, Sample, batch_rng, draw_batch
from worker.learning.recipes.dense.labels import LabelVectors
from worker.learning.recipes.dense.networks import DenseNetwork, DenseOutput

DenseLoss = Callable[[DenseOutput, Tensor], Mapping[str, Tensor]]
"""(output, truth) -> terms by name and their sum as "total"; truth (B, H, W) int64: rows of labels, or VOID."""

_MOMENTUM = 0.9
_SEED_STEP = 1_000_003  # a prime: seeds of neighbouring trainings do not meet
_NO_NUMBER = "Lower the learning rate, or train in fp32."


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    Attributes:
        steps: in all; the learning rate falls to 0 over them.
        batch: crops per step.
        crop: how they are drawn.
        optimizer: "sgd", as the papers, or "adamw".
        rate: learning rate of everything but the tower.
        tower_share: of that rate, for a tower that is trained.
        weight_decay: of weights; not of biases, norms and learned label vectors.
        power: of the decay of the learning rate.
        warmup: steps over which the learning rate rises first.
        precision: "fp32" or "bf16", of the network.
    """

    steps: int = 300
    batch: int = 4
    crop: CropConfig = field(default_factory=CropConfig)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    rate: float = 7e-4
    tower_share: float = 0.1
    weight_decay: float = 1e-4
    power: float = 0.9
    warmup: int = 10
    precision: Literal["fp32", "bf16"] = "fp32"


class DenseTrainer:
    """Holds a network, its label vectors and the optimizer.

    Args:
        network: to train, on the device of its tower.
        labels: the rows that the truth is about.
        loss: what is made small.
        config: how.
        seed: of dropout; the batches come from outside, or from `draw`.
        before: steps of a training that this one follows: its batches and dropout do not come again.
    """

    def __init__(
        self, network: DenseNetwork, labels: LabelVectors, loss: DenseLoss, config: TrainingConfig, *, seed: int = 0,
        before: int = 0,
    ) -> None:  # fmt: skip
        self.network, self.labels, self.config = network, labels, config
        self.steps_done = 0
        self._loss, self._seed, self._before = loss, seed, before
        groups = _parameter_groups(network, labels, config)
        if config.optimizer == "sgd":
            self._optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, config.rate, momentum=_MOMENTUM)
        else:
            self._optimizer = torch.optim.AdamW(groups, config.rate)
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]

    def draw(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Draw the batch of the next step: (B, 3, side, side) uint8 pixels and (B, side, side) int64 classes."""
        return draw_batch(samples, self.config.batch, self.config.crop, batch_rng(self._seed, self._number))

    def step(self, pixels: Tensor, truth: Tensor) -> dict[str, float]:
        """Take one step.

        Args:
            pixels: (B, 3, H, W) uint8 RGB.
            truth: (B, H, W) int64: a row of the label vectors, or VOID.

        Returns:
            The terms of the loss before the step.

        Raises:
            LearningError: the loss is no number; the weights are as they were.
        """
        self.network.train()
        tower, precision = self.network.tower, self.config.precision
        factor = self._rate_factor()
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        with torch.random.fork_rng():
            torch.manual_seed(self._seed * _SEED_STEP + self._number)
            with torch.autocast(tower.device.type, torch.bfloat16, enabled=precision == "bf16"):
                output, truth = self._forward(tower.normalise(pixels), truth.to(tower.device))
            terms = self._terms(output, truth)
        values = {name: float(value.detach()) for name, value in terms.items()}
        if not all(map(math.isfinite, values.values())):
            raise LearningError("training", f"the loss of step {self.steps_done + 1} is no number", _NO_NUMBER)
        self._optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.steps_done += 1
        return values

    @property
    def _number(self) -> int:
        """Of the next step, counted from the first one of the training that this one follows."""
        return self._before + self.steps_done

    def _forward(self, pixels: Tensor, truth: Tensor) -> tuple[DenseOutput, Tensor]:
        """What the network says about (B, 3, H, W) float32 pixels, and the truth that it is compared with."""
        return self.network(pixels, self.labels()), truth

    def _rate_factor(self) -> float:
        """Share of the learning rate at this step."""
        return rate_factor(self.config, self.steps_done)

    def _terms(self, output: DenseOutput, truth: Tensor) -> Mapping[str, Tensor]:
        """The terms of the loss at this step."""
        return self._loss(output, truth)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, for `torch.save`; loads with `weights_only=True`."""
        return {
            "network": self.network.state_dict(), "labels": self.labels.state_dict(),
            "optimizer": self._optimizer.state_dict(), "steps_done": self.steps_done, "seed": self._seed,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            LearningError: it is of another network, other labels or another seed.
        """
        remedy = "Resume with the settings it was begun with, or begin anew in another folder."
        if state.get("seed") != self._seed:
            raise LearningError("training", f"was begun with seed {state.get('seed')}, not {self._seed}", remedy)
        try:
            self.network.load_state_dict(state["network"])
            self.labels.load_state_dict(state["labels"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.steps_done = int(state["steps_done"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            problem = f"was begun with another network, labels or optimizer ({str(error)[:200]})"
            raise LearningError("training", problem, remedy) from error


def rate_factor(config: TrainingConfig, step: int) -> float:
    """Share of the learning rate at a step, from 0: a linear rise, times a polynomial fall."""
    warmup = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return float(warmup * max(0.0, 1 - step / config.steps) ** config.power)


def count_trained(network: nn.Module, labels: LabelVectors) -> int:
    """How many numbers are trained."""
    return sum(one.numel() for module in (network, labels) for one in module.parameters() if one.requires_grad)


def showing(samples: Sequence[Sample], rows: Sequence[int], *, most: int) -> list[Sample]:
    """The samples that show one of some classes, the first `most` of each."""
    found: dict[int, Sample] = {}
    for row in rows:
        shown = [place for place, sample in enumerate(samples) if bool((sample.truth == row).any())]
        found |= {place: samples[place] for place in shown[:most]}
    return [found[place] for place in sorted(found)]


@torch.no_grad()
def mean_features(embed: Callable[[NDArray[np.uint8]], Tensor], samples: Sequence[Sample], rows: int) -> Tensor:
    """Average features over the cells of each class.

    Args:
        embed: (H, W, 3) uint8 RGB -> (D, h, w) float32 of unit length.
        samples: annotated images, one or more.
        rows: T, classes and background.

    Returns:
        (T, D) float32 of unit length; 0 where no cell is of the class.
    """
    sums = []
    for sample in samples:
        features = embed(sample.image)
        cells = torch.from_numpy(shrink_nearest(sample.truth, (features.shape[1], features.shape[2])).astype(np.int64))
        cells = cells.to(features.device)
        known = cells >= 0
        sums.append(features.new_zeros(rows, len(features)).index_add_(0, cells[known], features[:, known].T))
    return F.normalize(torch.stack(sums).sum(dim=0), dim=1)


def _parameter_groups(network: DenseNetwork, labels: LabelVectors, config: TrainingConfig) -> list[dict[str, Any]]:
    tower = set(map(id, network.tower_module.parameters())) if network.trains_tower else set()
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for one in network.parameters():
        if one.requires_grad:
            groups.setdefault((id(one) in tower, one.dim() > 1), []).append(one)
    groups.setdefault((False, False), []).extend(labels.parameters())
    return [
        {"params": found, "lr": config.rate * (config.tower_share if in_tower else 1.0),
         "weight_decay": config.weight_decay if decays else 0.0}
        for (in_tower, decays), found in groups.items()
    ]  # fmt: skip
