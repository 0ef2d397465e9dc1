"""Cells of pictures and the share of each class in them -> a classifier of every cell, in seconds on a CPU.

Small networks that start from given logits, and retrieval of the most alike cells. It must not know about words,
images or encoders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.recipes.quick.ensemble import Blinded, Ensemble, Lesson, Training, train
from worker.learning.recipes.quick.retrieval import Bank
from worker.segmentation.metrics import Confusion, class_ious, confusion

_FARTHEST = 4.0  # deviations at which inputs are cut off
_LEAST = 1e-6
_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_HARM = 0.01  # of IoU, to a class
_UNJUDGED = 0.5  # strength when there is one photograph only
_LEAST_HALVED = 4  # photographs: fewer say too little of how pictures differ


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
    cells: tuple[int, int] = (80_000, 6_000)
    balance: float = 0.5
    training: Training = field(default_factory=Training)
    retrieval: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class Picture:
    """What is known of the cells of one picture.

    Attributes:
        values: (F, N) float32 descriptors.
        offset: (C, N) float32 logits that learning starts from.
    """

    values: Tensor
    offset: Tensor


Look = Callable[[Tensor], Picture]
"""What is known of the cells at (N,) int64 indices."""


@dataclass(frozen=True)
class Classifier:
    """Networks, a bank, and the scale of their inputs.

    Attributes:
        mean, spread: (F,) float32 of the descriptors.
        networks: what classifies a cell.
        bank: cells that others are compared with, or None.
        retrieval: weight of the bank.
        strength: how far the networks go from the offsets, in [0, 1].
        untold: (C,) bool: classes of which the offsets say nothing.
    """

    mean: Tensor
    spread: Tensor
    networks: Ensemble
    bank: Bank | None
    retrieval: float
    strength: float
    untold: Tensor

    @torch.no_grad()
    def logits(self, picture: Picture) -> Tensor:
        """(C, N) float32 log-posteriors."""
        rows = ((picture.values.T - self.mean) / self.spread).clamp_(-_FARTHEST, _FARTHEST)
        posterior = self.networks.posterior(rows, picture.offset.T, self.strength, self.untold)
        if self.bank is not None:
            posterior = torch.lerp(posterior, self.bank.recall(rows), self.retrieval)
        return posterior.clamp_min(_LEAST).log().T

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that were learned, by name, for storage."""
        named = {"mean": self.mean, "spread": self.spread}
        named |= {f"weight{layer}": weight for layer, weight in enumerate(self.networks.weights)}
        named |= {f"bias{layer}": bias for layer, bias in enumerate(self.networks.biases)}
        return named if self.bank is None else named | {"bank.keys": self.bank.keys, "bank.shares": self.bank.shares}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], retrieval: float, strength: float, untold: Tensor) -> Classifier:
        """Make one again from `tensors`, its two numbers, and the classes that offsets say nothing of.

        Raises:
            KeyError: one is missing.
            ValueError: they do not fit each other.
        """
        layers = range(sum(name.startswith("weight") for name in tensors))
        weights, biases = (tuple(tensors[f"{kind}{layer}"] for layer in layers) for kind in ("weight", "bias"))
        bank = Bank(tensors["bank.keys"], tensors["bank.shares"]) if retrieval else None
        mean, spread = tensors["mean"], tensors["spread"]
        _check_fit(mean, spread, weights, biases, bank, len(untold))
        return cls(mean, spread, Ensemble(weights, biases), bank, retrieval, strength, untold)


def learn(
    seen: Iterable[tuple[Tensor, Look]],
    count: int,
    options: Options,
    *,
    photographs: int,
    wary: bool,
    untold: Tensor,
    blinded: Sequence[Blinded],
    doubted: int = 0,
) -> tuple[Classifier, bool]:
    """Learn from pictures, `count` of them: the shares (C, h, w) of the classes in the cells of each, and a look at it.

    What is void is in no share. Only the cells picked of a picture are looked at.

    Args:
        photographs: how many the pictures are of, in turns.
        wary: whether learning may make the offsets worse: then photographs left out say how far to go from them.
        untold: (C,) bool: classes of which the offsets say nothing, so that there is nothing to be wary of.
        blinded: what is hidden from some of the cells.
        doubted: how many of the last columns are left out if photographs left out are told better without them.

    Returns:
        the classifier, and whether it sees the doubted columns too.

    Raises:
        LearningError: everything is void.
    """
    chance = torch.Generator().manual_seed(options.seed)
    most = min(options.cells[1], options.cells[0] // count)
    picked = [_pick(share, look, most, chance) for share, look in seen]
    raw, offset, known = (torch.cat(parts) for parts in zip(*picked, strict=True))
    if not len(raw):
        raise LearningError("corrections", "all of them is void", "Accept a picture with a label in it.")
    mean = raw.mean(dim=0)
    inputs = raw.sub_(mean)  # in place: these are tens of megabytes
    spread = inputs.square().mean(dim=0).sqrt() + 1e-3
    inputs.div_(spread).clamp_(-_FARTHEST, _FARTHEST)
    weight = known @ known.sum(dim=0).clamp_min(1).pow(-options.balance)
    lesson = Lesson(inputs, known / known.sum(dim=1, keepdim=True), offset, weight, untold)
    photograph = torch.cat([torch.full((len(part[0]),), k % photographs) for k, part in enumerate(picked)])
    there = photograph.bincount(minlength=photographs) > 0  # one that is void all over does not count
    photograph, photographs = (there.cumsum(dim=0) - 1)[photograph], int(there.sum())
    pays = not doubted or photographs < _LEAST_HALVED or _pays(lesson, photograph, doubted, options, blinded)
    if not pays:
        inputs, mean, spread = inputs[:, :-doubted].contiguous(), mean[:-doubted], spread[:-doubted]
        lesson = replace(lesson, inputs=inputs)
    networks = train(lesson, options.members, options.training, blinded=blinded, seed=options.seed)
    strength = 1.0
    if wary:
        strength = _best_strength(lesson, photograph, options, blinded) if photographs > 1 else _UNJUDGED
    bank = Bank.gather(inputs, lesson.shares, chance) if options.retrieval * strength else None
    retrieval = options.retrieval * strength if bank else 0.0
    return Classifier(mean, spread, networks, bank, retrieval, strength, untold), pays


def _pays(lesson: Lesson, photograph: Tensor, doubted: int, options: Options, blinded: Sequence[Blinded]) -> bool:
    """Whether photographs left out are told better with the last columns than without, over two halves of them."""
    training = replace(options.training, steps=max(1, options.training.steps // 4))
    count = lesson.shares.shape[1]
    table = np.zeros((2, count, count), dtype=np.int64)
    some = torch.arange(len(photograph)) % 3 == 0  # are enough to judge by
    for half in (0, 1):
        out = photograph % 2 == half
        taught, judged = lesson.without(out), lesson.of(out & some)
        for k in (0, 1):
            if k:
                taught, judged = (replace(part, inputs=part.inputs[:, :-doubted]) for part in (taught, judged))
            networks = train(taught, 1, training, blinded=blinded, seed=options.seed)
            table[k] += _confusion(networks, judged, 1.0)
    seen, unseen = np.nanmean(class_ious(table), axis=1)
    return bool(seen >= unseen)


def _best_strength(lesson: Lesson, photograph: Tensor, options: Options, blinded: Sequence[Blinded]) -> float:
    """The strength with the best mean IoU on photographs left out, over two halves of them, that harms no class.

    Harmed is a class that loses against strength 0. The networks' answer for classes that the offsets say nothing of is
    the same at any strength: what those lose by chance harms nothing.
    """
    training = replace(options.training, steps=max(1, options.training.steps // 2))
    count = lesson.shares.shape[1]
    table = np.zeros((len(_STRENGTHS), count, count), dtype=np.int64)
    for half in (0, 1):
        out = photograph % 2 == half
        networks = train(lesson.without(out), 1, training, blinded=blinded, seed=options.seed)
        judged = lesson.of(out)
        for k, strength in enumerate(_STRENGTHS):
            table[k] += _confusion(networks, judged, strength)
    ious = class_ious(table)
    harmed = (ious < ious[0] - _HARM)[:, ~lesson.untold.numpy()].any(axis=1)
    return _STRENGTHS[int(np.where(harmed, -1.0, np.nanmean(ious, axis=1)).argmax())]


def _confusion(networks: Ensemble, judged: Lesson, strength: float) -> Confusion:
    posterior = networks.posterior(judged.inputs, judged.offset, strength, judged.untold)
    truth, found = (shares.argmax(dim=1).to(torch.int16).numpy() for shares in (judged.shares, posterior))
    return confusion(truth, found, posterior.shape[1])


def _pick(share: Tensor, look: Look, most: int, chance: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Values, offsets and shares of cells at least half of which is known, at most so many, at random."""
    known = (share.sum(dim=0).flatten() > 0.5).nonzero()[:, 0]
    cells = known[torch.randperm(len(known), generator=chance)[:most]]
    picture = look(cells)
    return picture.values.T, picture.offset.T, share.flatten(1)[:, cells].T


def _check_fit(
    mean: Tensor, spread: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], bank: Bank | None, classes: int
) -> None:
    """Raises ValueError where tensors that were read back cannot be of one classifier."""
    seen = mean.shape[0] if mean.ndim == 1 else -1
    members = len(weights[0]) if weights and weights[0].ndim else 0
    sizes = [seen, *(weight.shape[-1] if weight.ndim else -1 for weight in weights)]
    shapes = [(members, before, after) for before, after in pairwise(sizes)]
    fits = (
        members > 0
        and sizes[-1] == classes
        and spread.shape == mean.shape
        and bool((spread > 0).all())
        and [tuple(weight.shape) for weight in weights] == shapes
        and [tuple(bias.shape) for bias in biases] == [(members, 1, after) for _, _, after in shapes]
        and (bank is None or (bank.keys.shape[1:] == (seen,) and bank.shares.shape == (len(bank.keys), classes)))
        and all(part.dtype == torch.float32 for part in (mean, spread, *weights, *biases))
    )
    if not fits:
        raise ValueError("tensors do not fit each other")
