"""A classifier of image cells, trained in seconds on a CPU: networks that start from given logits, and retrieval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.recipes.quick.ensemble import ColumnDropout, Ensemble, EnsembleConfig, TrainingSet, train_ensemble
from worker.learning.recipes.quick.retrieval import MemoryBank
from worker.segmentation.metrics import Confusion, class_ious, confusion

_CLIP = 4.0  # standard deviations at which inputs are clipped
_SMALLEST = 1e-6  # posterior
_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST_LOSS = 0.01  # of IoU, of any class
_UNVALIDATED = 0.5  # strength when there is one image only
_GENERATED = 0.2  # share of generated cells in the batches
_LEAST_VALIDATED = 4  # images: fewer show too little of how images differ


@dataclass(frozen=True)
class ClassifierConfig:
    """How a classifier is trained.

    Attributes:
        members: networks of the ensemble.
        cells: most cells to learn from, in all views together, and in one of them.
        balance: rows of a class of n cells are drawn n ** -balance as often; 0.5 is the square-root rule.
        training: of the networks.
        retrieval: weight of the classes of similar cells, in [0, 1]; 0 = no memory bank.
        seed: of all randomness.
    """

    members: int = 3
    cells: tuple[int, int] = (80_000, 6_000)
    balance: float = 0.5
    training: EnsembleConfig = field(default_factory=EnsembleConfig)
    retrieval: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class CellInputs:
    """Inputs of the classifier for N cells of an image.

    Attributes:
        values: (F, N) float32 features.
        offset: (C, N) float32 logits that learning starts from; 0 for classes without text.
    """

    values: Tensor
    offset: Tensor


ReadCells = Callable[[Tensor], CellInputs]
"""Computes the inputs for the cells at (N,) int64 indices."""


@dataclass(frozen=True)
class Classifier:
    """Trained networks, a memory bank, and the normalisation of their inputs.

    Attributes:
        mean, spread: (F,) float32 mean and standard deviation of the features.
        networks: trained on cells.
        bank: labelled cells to retrieve from, or None.
        retrieval: weight of the bank.
        strength: how far the networks go from the offsets, in [0, 1].
        has_text: (C,) bool: classes whose offset comes from zero-shot scores.
    """

    mean: Tensor
    spread: Tensor
    networks: Ensemble
    bank: MemoryBank | None
    retrieval: float
    strength: float
    has_text: Tensor

    @torch.no_grad()
    def logits(self, cells: CellInputs) -> Tensor:
        """Classify cells: (C, N) float32 log-posteriors."""
        rows = ((cells.values.T - self.mean) / self.spread).clamp_(-_CLIP, _CLIP)
        posterior = self.networks.posterior(rows, cells.offset.T, self.strength, self.has_text)
        if self.bank is not None:
            posterior = torch.lerp(posterior, self.bank.retrieve(rows), self.retrieval)
        return posterior.clamp_min(_SMALLEST).log().T

    def tensors(self) -> dict[str, Tensor]:
        """Name the learned tensors for storage."""
        named = {"mean": self.mean, "spread": self.spread}
        named |= {f"weight{layer}": weight for layer, weight in enumerate(self.networks.weights)}
        named |= {f"bias{layer}": bias for layer, bias in enumerate(self.networks.biases)}
        return named if self.bank is None else named | {"bank.keys": self.bank.keys, "bank.shares": self.bank.shares}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], retrieval: float, strength: float, has_text: Tensor
    ) -> Classifier:
        """Load what `tensors` gave, with the other attributes.

        Raises:
            KeyError: a tensor is missing.
            ValueError: their shapes do not fit each other.
        """
        layers = range(sum(name.startswith("weight") for name in tensors))
        weights, biases = (tuple(tensors[f"{kind}{layer}"] for layer in layers) for kind in ("weight", "bias"))
        bank = MemoryBank(tensors["bank.keys"], tensors["bank.shares"]) if retrieval else None
        mean, spread = tensors["mean"], tensors["spread"]
        _check_shapes(mean, spread, weights, biases, bank, len(has_text))
        return cls(mean, spread, Ensemble(weights, biases), bank, retrieval, strength, has_text)


@dataclass(frozen=True)
class FittedClassifier:
    """A classifier, and the same trained with generated cells too.

    Attributes:
        plain: trained on the cells of images.
        supplied: on generated ones too; None = there were none.
        uses_optional: whether they use the optional columns.
    """

    plain: Classifier
    supplied: Classifier | None
    uses_optional: bool


def fit_classifier(
    views: Iterable[tuple[Tensor, ReadCells]],
    count: int,
    config: ClassifierConfig,
    *,
    images: int,
    validates_strength: bool,
    has_text: Tensor,
    column_dropout: Sequence[ColumnDropout],
    optional_columns: int = 0,
    optional_dropout: Sequence[ColumnDropout] = (),
    generate: Callable[[], CellInputs | None] | None = None,
) -> FittedClassifier:
    """Train a classifier on views of images.

    Args:
        views: class shares (C, h, w) of the cells of each view, 0 for void, and what reads its cells. Only the cells
            that are drawn are read.
        count: number of views.
        config: of the classifier.
        images: number of images; the views are of each of them in turn.
        validates_strength: whether the strength is chosen on images left out, because learning may make the offsets
            worse; else it is 1.
        has_text: (C,) bool: classes whose offset comes from zero-shot scores.
        column_dropout: columns that are dropped from some of the rows.
        optional_columns: how many of the last columns are left out when images left out are segmented better without.
        optional_dropout: of these, counted from the end; it goes with them.
        generate: makes cells of the last class that no image shows: their first columns, and their offsets; all other
            columns say nothing. None = there are none. It is not asked where the networks are not used, as the strength
            is 0 and all classes have text.

    Raises:
        LearningError: everything is void.
    """
    generator = torch.Generator().manual_seed(config.seed)
    most = min(config.cells[1], config.cells[0] // count)
    sampled = [_sample(share, read, most, generator) for share, read in views]
    raw, offset, shares = (torch.cat(parts) for parts in zip(*sampled, strict=True))
    if not len(raw):
        problem = "have no pixel to learn from: their regions have no present label, or annotators disagree"
        remedy = "Submit an annotation with a region of one of the project's labels."
        raise LearningError("corrections", problem, remedy)
    mean = raw.mean(dim=0)
    inputs = raw.sub_(mean)  # in place: these are tens of megabytes
    spread = inputs.square().mean(dim=0).sqrt() + 1e-3
    inputs.div_(spread).clamp_(-_CLIP, _CLIP)
    weight = shares @ shares.sum(dim=0).clamp_min(1).pow(-config.balance)
    data = TrainingSet(inputs, shares / shares.sum(dim=1, keepdim=True), offset, weight, has_text)
    image, images = _number_images([len(part[0]) for part in sampled], images)
    uses_optional = (
        not optional_columns
        or images < _LEAST_VALIDATED
        or _optional_columns_help(data, image, optional_columns, config, column_dropout, optional_dropout)
    )
    if uses_optional:
        column_dropout = [*column_dropout, *optional_dropout]
    else:
        mean, spread = mean[:-optional_columns], spread[:-optional_columns]
        data = replace(data, inputs=inputs[:, :-optional_columns].contiguous())
    networks = train_ensemble(data, config.members, config.training, column_dropout=column_dropout, seed=config.seed)
    strength = 1.0
    if validates_strength:
        strength = _best_strength(data, image, config, column_dropout) if images > 1 else _UNVALIDATED
    bank = MemoryBank.sample(data.inputs, data.shares, generator) if config.retrieval * strength else None
    retrieval = config.retrieval * strength if bank else 0.0
    plain = Classifier(mean, spread, networks, bank, retrieval, strength, has_text)
    supplied = None
    is_used = bool(strength) or not bool(has_text.all())
    generated = generate() if generate is not None and is_used else None
    if generated is not None:
        more = _with_generated(data, generated, mean, spread)
        again = train_ensemble(more, config.members, config.training, column_dropout=column_dropout, seed=config.seed)
        supplied = replace(plain, networks=again)
    return FittedClassifier(plain, supplied, uses_optional)


def _with_generated(data: TrainingSet, generated: CellInputs, mean: Tensor, spread: Tensor) -> TrainingSet:
    """Add generated cells of the last class to a training set, all of them together a fixed share of what is drawn."""
    known, count = generated.values.shape
    inputs = data.inputs.new_zeros(count, data.inputs.shape[1])  # 0 is the mean: it says nothing
    inputs[:, :known] = ((generated.values.T - mean[:known]) / spread[:known]).clamp_(-_CLIP, _CLIP)
    shares = data.shares.new_zeros(count, data.shares.shape[1])
    shares[:, -1] = 1
    weight = data.weight.sum() * _GENERATED / (1 - _GENERATED) / count
    return TrainingSet(
        torch.cat([data.inputs, inputs]), torch.cat([data.shares, shares]),
        torch.cat([data.offset, generated.offset.T]), torch.cat([data.weight, weight.expand(count)]), data.has_text,
    )  # fmt: skip


def _number_images(cells: Sequence[int], images: int) -> tuple[Tensor, int]:
    """Number the image of each cell, where view k has `cells[k]` cells of image k modulo `images`.

    Returns:
        (N,) int64 numbers from 0 without a gap, and how many images there are: those that are all void do not count.
    """
    image = torch.cat([torch.full((count,), view % images) for view, count in enumerate(cells)])
    present = image.bincount(minlength=images) > 0
    return (present.cumsum(dim=0) - 1)[image], int(present.sum())


def _optional_columns_help(
    data: TrainingSet, image: Tensor, optional: int, config: ClassifierConfig,
    column_dropout: Sequence[ColumnDropout], optional_dropout: Sequence[ColumnDropout],
) -> bool:  # fmt: skip
    """Whether mean IoU on images left out is no worse with the last columns than without; two-fold over the images."""
    training = replace(config.training, steps=max(1, config.training.steps // 4))
    count = data.shares.shape[1]
    table = np.zeros((2, count, count), dtype=np.int64)
    a_third = torch.arange(len(image)) % 3 == 0  # enough to judge by
    for fold in (0, 1):
        left_out = image % 2 == fold
        learned, judged = data.without(left_out), data.subset(left_out & a_third)
        for k, dropout in enumerate(([*column_dropout, *optional_dropout], column_dropout)):
            if k:
                learned, judged = (replace(part, inputs=part.inputs[:, :-optional]) for part in (learned, judged))
            networks = train_ensemble(learned, 1, training, column_dropout=dropout, seed=config.seed)
            table[k] += _confusion(networks, judged, 1.0)
    with_them, without_them = np.nanmean(class_ious(table), axis=1)
    return bool(with_them >= without_them)


def _best_strength(
    data: TrainingSet, image: Tensor, config: ClassifierConfig, column_dropout: Sequence[ColumnDropout]
) -> float:
    """The strength with the best mean IoU on images left out that harms no class; two-fold over the images.

    Harmed is a class with text that loses IoU against strength 0. Classes without text keep their learned posterior at
    any strength, so what those lose is noise. Cells of a class that only the images left out show are not judged: what
    was not learned from it says nothing of a network that learns from all, and would take it for something else.
    """
    training = replace(config.training, steps=max(1, config.training.steps // 2))
    count = data.shares.shape[1]
    table = np.zeros((len(_STRENGTHS), count, count), dtype=np.int64)
    for fold in (0, 1):
        left_out = image % 2 == fold
        networks = train_ensemble(data.without(left_out), 1, training, column_dropout=column_dropout, seed=config.seed)
        is_learned = (~left_out).float() @ data.shares > 0
        judged = data.subset(left_out & is_learned[data.shares.argmax(dim=1)])
        for k, strength in enumerate(_STRENGTHS):
            table[k] += _confusion(networks, judged, strength)
    ious = class_ious(table)
    harmed = (ious < ious[0] - _MOST_LOSS)[:, data.has_text.numpy()].any(axis=1)
    return _STRENGTHS[int(np.where(harmed, -1.0, np.nanmean(ious, axis=1)).argmax())]


def _confusion(networks: Ensemble, judged: TrainingSet, strength: float) -> Confusion:
    posterior = networks.posterior(judged.inputs, judged.offset, strength, judged.has_text)
    truth, found = (shares.argmax(dim=1).to(torch.int16).numpy() for shares in (judged.shares, posterior))
    return confusion(truth, found, posterior.shape[1])


def _sample(share: Tensor, read: ReadCells, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Values, offsets and shares of at most so many random cells, of those that are void by less than half."""
    judged = (share.sum(dim=0).flatten() > 0.5).nonzero()[:, 0]
    drawn = judged[torch.randperm(len(judged), generator=generator)[:most]]
    cells = read(drawn)
    return cells.values.T, cells.offset.T, share.flatten(1)[:, drawn].T


def _check_shapes(
    mean: Tensor,
    spread: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    bank: MemoryBank | None,
    classes: int,
) -> None:
    """Raises ValueError where tensors that were loaded cannot be of one classifier."""
    features = mean.shape[0] if mean.ndim == 1 else -1
    members = len(weights[0]) if weights and weights[0].ndim else 0
    sizes = [features, *(weight.shape[-1] if weight.ndim else -1 for weight in weights)]
    shapes = [(members, before, after) for before, after in pairwise(sizes)]
    fits = (
        members > 0
        and sizes[-1] == classes
        and spread.shape == mean.shape
        and bool((spread > 0).all())
        and [tuple(weight.shape) for weight in weights] == shapes
        and [tuple(bias.shape) for bias in biases] == [(members, 1, after) for _, _, after in shapes]
        and (bank is None or (bank.keys.shape[1:] == (features,) and bank.shares.shape == (len(bank.keys), classes)))
        and all(part.dtype == torch.float32 for part in (mean, spread, *weights, *biases))
    )
    if not fits:
        raise ValueError("tensors do not fit each other")
