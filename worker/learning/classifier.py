"""Cells of pictures and the share of each class in them -> a classifier of every cell, in seconds on a CPU.

Two stages of small networks. The first sees a cell; the second sees also what the first says around it, and what the
most alike cells of other pictures were. What the second learns from was said by networks that never saw the picture
(cross-fitting), so it learns how far they are to be trusted. It must not know about words, images or encoders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.learning.context import surroundings
from worker.learning.ensemble import Ensemble, Lesson, Training, train
from worker.learning.retrieval import Bank

_FARTHEST = 4.0  # deviations at which inputs are cut off
_TILES = 4  # per side, when pictures are too few to be folds themselves
_SHIFTS = (-1.0, -0.5, 0.5, 1.0)  # of a class's logits that are tried
_SHIFT_COST, _SHIFT_SHARE = 0.002, 0.7  # what a shift must gain, in mIoU, and how much of it is taken


@dataclass(frozen=True)
class Options:
    """How a classifier is made.

    Attributes:
        members: networks of an ensemble, and folds.
        cells: of each picture that are learned from.
        balance: rows of a class of n cells are drawn n ** -balance as often; 0.5 as in the square-root rule.
        first, second: training of the stages.
        retrieval: whether the second stage is told what alike cells were.
        context: whether there is a second stage.
    """

    members: int = 3
    cells: int = 6000
    balance: float = 0.5
    first: Training = field(default_factory=Training)
    second: Training = field(default_factory=lambda: Training(steps=150))
    retrieval: bool = True
    context: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Picture:
    """What is known of the cells of one picture.

    Attributes:
        values: (F, h, w) float32 descriptors.
        lab: (3, h, w) float32 colours.
        offset: (C, h, w) float32 logits that learning starts from.
    """

    values: Tensor
    lab: Tensor
    offset: Tensor


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of columns, (F,) float32 each."""

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Scale:
        """Of (N, F) rows."""
        return cls(rows.mean(dim=0), rows.std(dim=0) + 1e-3)

    def __call__(self, rows: Tensor) -> Tensor:
        """Bring rows to unit size, outliers cut off."""
        return ((rows - self.mean) / self.spread).clamp_(-_FARTHEST, _FARTHEST)


@dataclass(frozen=True)
class Classifier:
    """Two stages and what joins them; without context there is one.

    Attributes:
        scales: of the inputs of each stage's own.
        stages: the ensembles.
        bank: cells that others are compared with, or None.
        shift: (C,) float32 added to the logits at the end.
    """

    scales: tuple[Scale, ...]
    stages: tuple[Ensemble, ...]
    bank: Bank | None
    shift: Tensor

    @torch.no_grad()
    def logits(self, picture: Picture) -> Tensor:
        """(C, h, w) float32 log-posteriors, up to a constant of each cell."""
        rows, offset = self.scales[0](_rows(picture.values)), _rows(picture.offset)
        posterior = self.stages[0].all(rows, offset).softmax(dim=-1).mean(dim=0)
        if len(self.stages) == 1:
            return _grid(posterior.clamp_min(1e-6).log(), picture) + self.shift.view(-1, 1, 1)
        told = self.told(picture, posterior, rows, apart=None)
        inputs = torch.cat([self.scales[1](told), rows], dim=1)
        logits = self.stages[1].all(inputs, posterior.clamp_min(1e-3).log()).log_softmax(dim=-1).mean(dim=0)
        return _grid(logits + self.shift, picture)

    def told(self, picture: Picture, posterior: Tensor, rows: Tensor, *, apart: Tensor | None) -> Tensor:
        """(N, K) what the second stage is told of cells beside their own (N, F) rows; see `Bank.recall` for apart."""
        told = surroundings(_grid(posterior, picture), picture.lab).flatten(1).T
        return told if self.bank is None else torch.cat([told, self.bank.recall(rows, apart=apart)], dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, for storage."""
        named = {"shift": self.shift}
        for k, (scale, stage) in enumerate(zip(self.scales, self.stages, strict=True)):
            named |= {f"stage{k}.mean": scale.mean, f"stage{k}.spread": scale.spread}
            named |= {f"stage{k}.weight{layer}": weight for layer, weight in enumerate(stage.weights)}
            named |= {f"stage{k}.bias{layer}": bias for layer, bias in enumerate(stage.biases)}
        return named if self.bank is None else named | self.bank.tensors()

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Classifier:
        """Make one again from `tensors`.

        Raises:
            KeyError: one is missing.
        """
        scales, stages = [], []
        for k in range(sum(name.endswith(".mean") for name in tensors)):
            scales.append(Scale(tensors[f"stage{k}.mean"], tensors[f"stage{k}.spread"]))
            layers = range(sum(name.startswith(f"stage{k}.weight") for name in tensors))
            stages.append(Ensemble(*(tuple(tensors[f"stage{k}.{kind}{n}"] for n in layers) for kind in ("weight", "bias"))))
        bank = Bank.of(tensors) if "bank.keys" in tensors else None
        return cls(tuple(scales), tuple(stages), bank, tensors["shift"])


def learn(pictures: Sequence[Picture], shares: Sequence[Tensor], options: Options, *, places: int) -> Classifier:
    """Learn from pictures and the shares (C, h, w) of the classes in their cells; what is void is in no share.

    Args:
        places: how many of the last columns of the pictures' values say where a cell is.
    """
    chance = torch.Generator().manual_seed(options.seed)
    folds = [_folds(share, number, len(pictures), options.members) for number, share in enumerate(shares)]
    picked = [_pick(share, options.cells, chance) for share in shares]
    raw = torch.cat([_rows(picture.values)[rows] for picture, rows in zip(pictures, picked, strict=True)])
    scale = Scale.of(raw)
    known = torch.cat([_rows(share)[rows] for share, rows in zip(shares, picked, strict=True)])
    counts = sum((share.sum(dim=(1, 2)) for share in shares), torch.zeros(known.shape[1]))
    lesson = Lesson(
        scale(raw),
        known / known.sum(dim=1, keepdim=True),
        torch.cat([_rows(picture.offset)[rows] for picture, rows in zip(pictures, picked, strict=True)]),
        known @ counts.clamp_min(1).pow(-options.balance),
        torch.cat([fold[rows] for fold, rows in zip(folds, picked, strict=True)]),
    )
    blinded = range(raw.shape[1] - places, raw.shape[1])
    first = train(lesson, options.members, options.first, blinded=blinded, seed=options.seed)
    unshifted = torch.zeros(known.shape[1])
    if not options.context:
        return Classifier((scale,), (first,), None, unshifted)
    bank = Bank.gather(lesson.inputs, lesson.shares, lesson.fold, chance) if options.retrieval else None
    begun = Classifier((scale,), (first,), bank, unshifted)
    told, said = zip(*(_hear(begun, *row) for row in zip(pictures, folds, picked, strict=True)), strict=True)
    second_scale = Scale.of(torch.cat(told))
    inputs = torch.cat([second_scale(torch.cat(told)), lesson.inputs], dim=1)
    again = Lesson(inputs, lesson.shares, torch.cat(said), lesson.weight, lesson.fold)
    blinded = range(inputs.shape[1] - places, inputs.shape[1])
    second = train(again, options.members, options.second, blinded=blinded, seed=options.seed + 1)
    with torch.no_grad():
        unseen = second.all(again.inputs, again.offset)[again.fold, torch.arange(len(inputs))]
    return Classifier((scale, second_scale), (first, second), bank, best_shift(unseen, again.shares))


@torch.no_grad()
def _hear(begun: Classifier, picture: Picture, fold: Tensor, picked: Tensor) -> tuple[Tensor, Tensor]:
    """What is told of the picked cells by networks that never saw them, and their log-posterior."""
    rows, offset = begun.scales[0](_rows(picture.values)), _rows(picture.offset)
    posterior = torch.empty_like(offset)
    for member in fold.unique().tolist():
        mine = fold == member
        posterior[mine] = begun.stages[0].member(member, rows[mine], offset[mine]).softmax(dim=-1)
    told = begun.told(picture, posterior, rows, apart=fold)
    return told[picked], posterior[picked].clamp_min(1e-3).log()


def best_shift(logits: Tensor, shares: Tensor) -> Tensor:
    """(C,) shifts of the classes' logits (N, C) for a better mean IoU with the shares (N, C), class by class."""
    truth, count = shares.argmax(dim=1), shares.shape[1]

    def mean_iou(shift: Tensor) -> float:
        matrix = torch.bincount(truth * count + (logits + shift).argmax(dim=1), minlength=count**2).view(count, count)
        union = matrix.sum(dim=0) + matrix.sum(dim=1) - matrix.diag()
        return float((matrix.diag() / union.clamp_min(1))[matrix.sum(dim=1) > 0].mean())

    shift = torch.zeros(count)
    best = mean_iou(shift)
    for k in 2 * list(range(count)):
        start = shift.clone()
        for step in _SHIFTS:
            tried = start.clone()
            tried[k] += step
            gain = mean_iou(tried)
            if gain > best + _SHIFT_COST * abs(step):
                shift, best = tried, gain
    return _SHIFT_SHARE * shift


def _folds(share: Tensor, number: int, pictures: int, members: int) -> Tensor:
    """(N,) fold of each cell: that of its picture, or of its tile when there are fewer pictures than folds."""
    height, width = share.shape[1:]
    if pictures >= members:
        return torch.full((height * width,), number % members)
    rows, columns = torch.arange(height) * _TILES // height, torch.arange(width) * _TILES // width
    return ((2 * rows[:, None] + columns[None] + number) % members).flatten()


def _pick(share: Tensor, most: int, chance: torch.Generator) -> Tensor:
    """(n,) int64: cells at least half of which is known, at most so many, at random."""
    known = (share.sum(dim=0).flatten() > 0.5).nonzero()[:, 0]
    return known[torch.randperm(len(known), generator=chance)[:most]]


def _rows(values: Tensor) -> Tensor:
    return values.flatten(1).T


def _grid(rows: Tensor, picture: Picture) -> Tensor:
    return rows.T.reshape(-1, *picture.values.shape[1:])
