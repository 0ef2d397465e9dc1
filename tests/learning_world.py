"""Corrections of drawn scenes, and a plain recipe to learn from them, for tests of what is done with recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from plugin_config.errors import LearningError
from worker.lab.drawn_world.annotation_set import annotation_scene, index_truth
from worker.learning.corrections.class_maps import renumber, shrink_nearest
from worker.learning.interfaces import UNLABELLED, AdapterState, Example, Words
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.heads import ImageScores
from worker.segmentation.metrics import VOID
from worker.segmentation.outlines.refinement import ADAPTIVE, Method
from worker.segmentation.segmenter import Segmenter

DRAWN = ("red shape", "blue shape", "green shape")
KNOWN: Words = tuple((label,) for label in DRAWN)
STRANGE: Words = (("wug",), ("dax",), ("fep",))
"""Words for the same things that the model does not know: they have no zero-shot score."""


def corrected_scenes(
    segmenter: Segmenter, count: int, *, words: Words = KNOWN, seed: int = 0, first: int = 0
) -> list[Example]:
    """Drawn pictures with the truth about DRAWN, called by `words`. The same arguments give the same."""
    found = []
    for number in range(first, first + count):
        scene = annotation_scene(np.random.default_rng((seed, number)), DRAWN, number=number, size=(120, 160), unit=70)
        truth = index_truth(scene, DRAWN).astype(np.int16) - 1  # 0 is none of them
        embedding = segmenter.embed([scene.image])[0]
        found.append(Example(f"{seed}-{number}", scene.image, embedding, words, truth))
    return found


def relabelled(examples: Sequence[Example], order: Sequence[int]) -> list[Example]:
    """The same with label k called order[k]."""
    return [replace(example, truth=renumber(example.truth, order)) for example in examples]


@dataclass
class LinearAdapter:
    """Adds a linear map of the features to the logits of the classes it was taught."""

    weights: Tensor  # (D + 1, n + 1)
    strength: float = 1.0
    refinement: ClassVar[Method] = ADAPTIVE

    def scores(self, image: ImageScores) -> ClassScores:
        added = (_with_one(image.embedding.features) @ self.weights).permute(2, 0, 1)
        taught = (self.weights != 0).any(dim=0)
        logits = _from_zero(image.zero_shot) + self.strength * added
        return ClassScores.of(logits, image.zero_shot.scored | taught)

    def taught(self, words: Words) -> Words:
        return tuple(texts for texts, column in zip(words, self.weights.T, strict=False) if bool(column.any()))

    def at_strength(self, strength: float) -> Self:
        return replace(self, strength=strength)

    def state(self) -> AdapterState:
        return AdapterState("linear", {"weights": self.weights}, {"strength": self.strength})


class LinearRecipe:
    """Ridge regression from patch features to what the logits lack. Counts its fits."""

    name = "linear"
    form = 1

    def __init__(self, *, scale: float = 5.0) -> None:
        self.fits = 0
        self._scale = scale

    def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> LinearAdapter:
        self.fits += 1
        rows, targets, labels = [], [], []
        for example in examples:
            scores = segmenter.score(example.embedding, words, example.image)
            truth = torch.from_numpy(shrink_nearest(example.truth, scores.zero_shot.grid).astype(np.int64))
            taught = truth != VOID
            label = torch.where(truth == UNLABELLED, len(words), truth)[taught]
            wanted = self._scale * (2 * torch.nn.functional.one_hot(label, len(words) + 1).float() - 1)
            rows.append(_with_one(scores.embedding.features)[taught])
            targets.append(wanted - _from_zero(scores.zero_shot).permute(1, 2, 0)[taught])
            labels.append(label)
        if not rows or not len(torch.cat(rows)):
            raise LearningError("corrections", "there are none", "Correct an image.")
        x, y = torch.cat(rows).double(), torch.cat(targets).double()
        y[:, [k for k in range(len(words)) if k not in set(torch.cat(labels).tolist())]] = 0
        weights = torch.linalg.solve(x.T @ x + 0.1 * torch.eye(x.shape[1], dtype=torch.float64), x.T @ y)
        return LinearAdapter(weights.float())

    def load(self, state: AdapterState, segmenter: Segmenter) -> LinearAdapter:
        return LinearAdapter(state.tensors["weights"], float(state.about["strength"]))


def _from_zero(scores: ClassScores) -> Tensor:
    """Logits that are 0 for classes without a score: there learning starts from 0."""
    return scores.logits.nan_to_num(neginf=0.0)


def _with_one(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
