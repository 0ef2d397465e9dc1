"""Cells of pictures and the share of each class in them -> a classifier of every cell, in seconds on a CPU.

Small networks that start from given logits, and retrieval of the most alike cells. It must not know about words,
images or encoders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.ensemble import Blinded, Ensemble, Lesson, Training, train
from worker.learning.retrieval import Bank

_FARTHEST = 4.0  # deviations at which inputs are cut off
_LEAST = 1e-6


@dataclass(frozen=True)
class Options:
    """How a classifier is made.

    Attributes:
        members: networks of the ensemble.
        cells: that are learned from, of all pictures together; and of one at most.
        balance: rows of a class of n cells are drawn n ** -balance as often; 0.5 is the square-root rule.
        training: of the networks.
        retrieval: weight of what alike cells were, in [0, 1]; 0 = no bank.
        seed: of all chance in it.
    """

    members: int = 3
    cells: tuple[int, int] = (60_000, 6_000)
    balance: float = 0.5
    training: Training = field(default_factory=Training)
    retrieval: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class Picture:
    """What is known of the cells of one picture.

    Attributes:
        values: (F, h, w) float32 descriptors.
        offset: (C, h, w) float32 logits that learning starts from.
    """

    values: Tensor
    offset: Tensor


@dataclass(frozen=True)
class Classifier:
    """Networks, a bank, and the scale of their inputs.

    Attributes:
        mean, spread: (F,) float32 of the descriptors.
        networks: what classifies a cell.
        bank: cells that others are compared with, or None.
        retrieval: weight of the bank.
    """

    mean: Tensor
    spread: Tensor
    networks: Ensemble
    bank: Bank | None
    retrieval: float

    @torch.no_grad()
    def logits(self, picture: Picture) -> Tensor:
        """(C, h, w) float32 log-posteriors."""
        rows = self.scaled(picture)
        posterior = self.networks.all(rows, _rows(picture.offset)).softmax(dim=-1).mean(dim=0)
        if self.bank is not None:
            posterior = torch.lerp(posterior, self.bank.recall(rows), self.retrieval)
        return posterior.clamp_min(_LEAST).log().T.reshape(picture.offset.shape)

    def scaled(self, picture: Picture) -> Tensor:
        """(N, F) descriptors of the cells, of unit size, outliers cut off."""
        return ((_rows(picture.values) - self.mean) / self.spread).clamp_(-_FARTHEST, _FARTHEST)

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the weight of the bank by name, for storage."""
        named = {"mean": self.mean, "spread": self.spread}
        named |= {f"weight{layer}": weight for layer, weight in enumerate(self.networks.weights)}
        named |= {f"bias{layer}": bias for layer, bias in enumerate(self.networks.biases)}
        return named if self.bank is None else named | {"bank.keys": self.bank.keys, "bank.shares": self.bank.shares}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], retrieval: float) -> Classifier:
        """Make one again from `tensors`.

        Raises:
            KeyError: one is missing.
        """
        layers = range(sum(name.startswith("weight") for name in tensors))
        weights, biases = (tuple(tensors[f"{kind}{layer}"] for layer in layers) for kind in ("weight", "bias"))
        bank = Bank(tensors["bank.keys"], tensors["bank.shares"]) if retrieval else None
        return cls(tensors["mean"], tensors["spread"], Ensemble(weights, biases), bank, retrieval)


def learn(
    seen: Iterable[tuple[Picture, Tensor]], count: int, options: Options, *, blinded: Sequence[Blinded]
) -> Classifier:
    """Learn from pictures, `count` of them, each with the shares (C, h, w) of the classes in its cells.

    What is void is in no share. Of a picture only the cells picked are kept.

    Raises:
        LearningError: everything is void.
    """
    chance = torch.Generator().manual_seed(options.seed)
    most = min(options.cells[1], options.cells[0] // count)
    picked = [_pick(picture, share, most, chance) for picture, share in seen]
    raw, offset, known = (torch.cat(parts) for parts in zip(*picked, strict=True))
    if not len(raw):
        raise LearningError("corrections", "all of them is void", "Accept a picture with a label in it.")
    mean, spread = raw.mean(dim=0), raw.std(dim=0) + 1e-3
    inputs = ((raw - mean) / spread).clamp_(-_FARTHEST, _FARTHEST)
    weight = known @ known.sum(dim=0).clamp_min(1).pow(-options.balance)
    lesson = Lesson(inputs, known / known.sum(dim=1, keepdim=True), offset, weight)
    networks = train(lesson, options.members, options.training, blinded=blinded, seed=options.seed)
    bank = Bank.gather(inputs, lesson.shares, chance) if options.retrieval else None
    return Classifier(mean, spread, networks, bank, options.retrieval)


def _pick(picture: Picture, share: Tensor, most: int, chance: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Values, offsets and shares of cells at least half of which is known, at most so many, at random."""
    known = (share.sum(dim=0).flatten() > 0.5).nonzero()[:, 0]
    rows = known[torch.randperm(len(known), generator=chance)[:most]]
    return _rows(picture.values)[rows], _rows(picture.offset)[rows], _rows(share)[rows]


def _rows(values: Tensor) -> Tensor:
    return values.flatten(1).T
