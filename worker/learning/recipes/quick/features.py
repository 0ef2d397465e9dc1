"""Features of image cells for the classifier, and how far the model's reading of the label words is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.interfaces import Example, Words
from worker.learning.recipes.quick.appearance import POSITION_COLUMNS, describe
from worker.learning.recipes.quick.augmentation import Augmentation
from worker.learning.recipes.quick.classifier import CellInputs
from worker.learning.recipes.quick.ensemble import ColumnDropout
from worker.learning.recipes.quick.pca import PCA
from worker.segmentation.class_scores import OTHERS, ClassScores
from worker.segmentation.heads import ImageScores
from worker.segmentation.metrics import VOID
from worker.segmentation.outlines.refinement import refine_scores
from worker.segmentation.pictures import resize, resize_map, shrink

GRID_SIDE = 128
"""Cells along the long side of an image."""

ENCODER_COMPONENTS, TOWER_COMPONENTS, AFFINITY_COMPONENTS = 24, (12, 24, 24), 24
"""Principal components of the encoder's features, of each map of the photograph network, and of the features of the
affinity tower. (Of the last, 16 do as well on feralcat with nine photographs; 12, 64 and 128 cost .01, .02 and .04.)"""

# Augmented colours keep the encoder's and the photograph network's features of the image as it is. (Dropping those of
# the photograph network from 15 or 30 % of the cells cost .02 of mIoU on photographs left out.)
_ENCODER_DROPOUT, _POSITION_DROPOUT = 0.5, 0.3
_SCALES = (0.0, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class ImageFeatures:
    """What is computed once per image, for all augmentations of it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        words: the texts of each of its n classes; of many, of those that have logits of their own, and none for the
            others together.
        patches: (h, w) grid of the encoder.
        encoder: (K, h, w) float32 principal components of the encoder's features.
        tower: (P, h', w') float32 principal components of the features of photograph network and affinity tower, on one
            grid.
        zero_shot: n + 1 classes on the grid of cells: along the outlines, where the words are trusted at all. See
            `ClassScores.classes`.
    """

    image: NDArray[np.uint8]
    words: Words
    patches: tuple[int, int]
    encoder: Tensor
    tower: Tensor
    zero_shot: ClassScores

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image, pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of its cells."""
        return cell_grid(self.size)


@dataclass(frozen=True)
class AffinityInput:
    """Principal components of the affinity tower's features, and of which tower.

    Attributes:
        pca: of its features.
        architecture: its timm model name.
        weights: its fingerprint.
    """

    pca: PCA
    architecture: str
    weights: str


@dataclass(frozen=True)
class FeatureExtractor:
    """Computes the classifier's inputs for the cells of an image.

    Attributes:
        words: the texts of each taught class; all other classes together are the last one.
        known: (T,) float32: 1 = the model knows all words of one of the class's texts.
        encoder: PCA of the encoder's features; None = neither these nor zero-shot scores are used.
        tower: PCA of each map of the photograph network; empty = it is not used.
        affinity: what is used of the affinity tower; None = nothing.
        trust: how far zero-shot scores proved right, above chance, in [0, 1].
        scale: factor of the zero-shot logits that learning starts from.
        appearance: whether colour and texture are used.
    """

    words: Words
    known: Tensor
    encoder: PCA | None
    tower: tuple[PCA, ...]
    trust: float
    scale: float
    appearance: bool = True
    affinity: AffinityInput | None = None

    @property
    def has_text(self) -> Tensor:
        """(T + 1,) bool: classes whose words the model knows; the last class, all others together, counts as one."""
        return torch.cat([self.known != 0, torch.ones(1, dtype=torch.bool)])

    @property
    def column_dropout(self) -> list[ColumnDropout]:
        """Columns that are dropped from some of the rows in training."""
        encoder = 0 if self.encoder is None else self.encoder.components.shape[1] + len(self.words)
        position = slice(encoder, encoder + POSITION_COLUMNS)
        return [(slice(0, encoder), _ENCODER_DROPOUT), (position, _POSITION_DROPOUT)]

    @property
    def tower_columns(self) -> int:
        """How many of the last columns come from the photograph network and the affinity tower."""
        affinity = () if self.affinity is None else (self.affinity.pca,)
        return sum(pca.components.shape[1] for pca in (*self.tower, *affinity))

    def rows_in(self, words: Words) -> list[int | None]:
        """Index of each taught class among other words; see `match_classes`."""
        return match_classes(self.words, words)

    def zero_shot_margins(self, words: Words, zero_shot: ClassScores) -> Tensor:
        """Margins of the taught classes over all others together, (T + 1, h, w); 0 for those without text and the last.

        Args:
            words: the texts of each of n classes.
            zero_shot: n + 1 classes on any grid.
        """
        logits, scored = zero_shot.logits, zero_shot.scored.tolist()
        rows = self.rows_in(words)
        rest = logits[[k for k in range(len(logits)) if k not in rows]].logsumexp(dim=0)
        zero = torch.zeros_like(rest)
        margins = [logits[k] - rest if k is not None and known and scored[k] else zero
                   for k, known in zip(rows, self.known.tolist(), strict=True)]  # fmt: skip
        return torch.stack([*margins, zero]).cpu()

    def extract(self, scores: ImageScores, image: NDArray[np.uint8]) -> ImageFeatures:
        """Compute what is the same for all augmentations of an image, (H, W, 3) uint8 RGB."""
        grid = cell_grid((image.shape[0], image.shape[1]))
        zero_shot, words = scores.zero_shot, scores.words
        taught = {k for k in self.rows_in(words) if k is not None}
        if not self.trust and len(taught) == len(words):
            on_cells = zero_shot.resized(grid)
        else:
            on_cells = refine_scores(zero_shot, resize(image, grid), scores.embedding.affinity, keep=taught)
        if on_cells.classes is not None:
            words = tuple(() if k == OTHERS else words[k] for k in on_cells.classes[:-1])
        encoder = torch.zeros(0, 1, 1) if self.encoder is None else self.encoder.project(scores.features)
        tower = self._tower_features(scores, image)
        return ImageFeatures(image, words, zero_shot.grid, encoder, tower, on_cells)

    def _tower_features(self, scores: ImageScores, image: NDArray[np.uint8]) -> Tensor:
        """See `ImageFeatures.tower`."""
        if not self.tower_columns:
            return torch.zeros(0, 1, 1)
        maps = []
        if self.tower:
            maps += [pca.project(found) for pca, found in zip(self.tower, scores.photo_features(image), strict=True)]
        if self.affinity is not None:
            maps.append(self.affinity.pca.project(affinity_map(scores)))
        finest = (maps[0].shape[1], maps[0].shape[2])
        return torch.cat([resize_map(found, finest) for found in maps])

    def cells(self, features: ImageFeatures, augmentation: Augmentation, at: Tensor | None = None) -> CellInputs:
        """Compute the classifier's inputs for cells of an augmented image.

        Args:
            features: of the image.
            augmentation: of it.
            at: (N,) int64 cells, row by row; None = all.
        """
        grid, patches = features.grid, features.patches
        crop = features.image[augmentation.window(features.size, patches)]
        described = describe(augmentation.recoloured(shrink(crop, 4 * GRID_SIDE)), grid, at)
        sample = partial(_sampled, grid=grid, at=at)
        values = [described[-POSITION_COLUMNS:]]
        if self.appearance:
            values.append(described[:-POSITION_COLUMNS])
        if self.tower_columns:
            finest = (features.tower.shape[1], features.tower.shape[2])
            values.append(sample(features.tower[:, *augmentation.window(finest, patches)]))
        if self.encoder is None:
            return CellInputs(torch.cat(values), torch.zeros(len(self.words) + 1, described.shape[1]))
        encoder = sample(features.encoder[:, *augmentation.window(patches, patches)])
        zero_shot = features.zero_shot.cropped(augmentation.window(grid, patches))
        margins = sample(self.zero_shot_margins(features.words, zero_shot))
        return CellInputs(torch.cat([encoder, margins[:-1], *values]), self.scale * margins)

    def generated_cells(self, vectors: Tensor, words: Words, zero_shot: ClassScores) -> CellInputs | None:
        """Compute what generated patch features say of the classifier's inputs: the first of its columns.

        Args:
            vectors: (N, D) float32 patch features.
            words: the texts of each of n classes.
            zero_shot: n + 1 classes, (n + 1, 1, N).

        Returns:
            Inputs of N cells; None where features of the encoder are left out.
        """
        if self.encoder is None:
            return None
        margins = self.zero_shot_margins(words, zero_shot).flatten(1)
        values = torch.cat([self.encoder.project(vectors.T[:, None]).flatten(1), margins[:-1]])
        return CellInputs(values, self.scale * margins)

    def class_shares(self, example: Example, augmentation: Augmentation, patches: tuple[int, int]) -> Tensor:
        """Compute the share of each taught class and of the rest in the cells of an augmented image: (T + 1, h, w).

        Void is in no share.
        """
        size = (example.truth.shape[0], example.truth.shape[1])
        truth = example.truth[augmentation.window(size, patches)]
        rows = self.rows_in(example.words)
        first = [k is not None and k not in rows[:place] for place, k in enumerate(rows)]  # a pixel has one class
        grid = cell_grid(size)
        layers = [(truth == k) & is_first for k, is_first in zip(rows, first, strict=True)]
        layers.append(~np.logical_or.reduce([*layers, truth == VOID]))
        found = [cv2.resize(layer.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA) for layer in layers]
        return torch.from_numpy(np.stack(found))


def affinity_map(scores: ImageScores) -> Tensor:
    """(P, h', w') float32 features of the affinity tower.

    Raises:
        LearningError: the image was embedded without one.
    """
    found = scores.embedding.affinity
    if found is None:
        remedy = "Set ZEROMASK_AFFINITY_TOWER to the tower that it was learned with."
        raise LearningError("adapter", "needs the features of an affinity tower, and none is set", remedy)
    return found.permute(2, 0, 1)


def _sampled(values: Tensor, grid: tuple[int, int], at: Tensor | None) -> Tensor:
    """Interpolate a map (C, h, w) at the cells of a grid over it, all or those at (N,) indices: (C, N)."""
    if at is None or grid[0] < values.shape[1] or grid[1] < values.shape[2]:
        whole = resize_map(values, grid).flatten(1)
        return whole if at is None else whole[:, at]
    row, column = at // grid[1], at % grid[1]
    places = torch.stack([(2 * column + 1) / grid[1] - 1, (2 * row + 1) / grid[0] - 1], dim=1)  # in [-1, 1]
    return F.grid_sample(values[None], places[None, None], padding_mode="border", align_corners=False)[0, :, 0]


def match_classes(mine: Words, words: Words) -> list[int | None]:
    """Find each of some classes among others by their texts; None = it is not there.

    The very same texts match first. Else one text in common is enough, unless it belongs to a class whose very texts
    are another class of `mine`: a car and a truck may both be called vehicle.
    """
    exact = {texts: k for k, texts in enumerate(words)}
    if all(own in exact for own in mine):
        return [exact[own] for own in mine]
    taken = set(mine)
    free = [(k, set(texts)) for k, texts in enumerate(words) if texts not in taken]
    return [exact.get(own, next((k for k, texts in free if texts & set(own)), None)) for own in mine]


def cell_grid(size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the grid over an image of (H, W) pixels: square cells, none smaller than a pixel."""
    unit = min(1.0, GRID_SIDE / max(size))
    return max(1, round(size[0] * unit)), max(1, round(size[1] * unit))


def measure_zero_shot(
    extractor: FeatureExtractor, scores: Sequence[ImageScores], examples: Sequence[Example]
) -> tuple[float, float]:
    """Measure zero-shot scores on examples: `FeatureExtractor.trust`, and the `scale` with the least cross-entropy.

    Every class that the model knows and that occurs weighs the same: the trust is their mean recall above chance. A
    scale of 0 means that the scores are of no use.
    """
    margins, truths = [], []
    for image, example in zip(scores, examples, strict=True):
        shares = extractor.class_shares(example, Augmentation.identity(image.zero_shot.grid), image.zero_shot.grid)
        on_cells = image.zero_shot.resized((shares.shape[1], shares.shape[2]))
        margins.append(extractor.zero_shot_margins(image.words, on_cells).flatten(1).T)
        truths.append(shares.flatten(1).T)
    rows, truth = torch.cat(margins), torch.cat(truths)
    judged = extractor.has_text & (truth.sum(dim=0) > 0)
    count = int(judged.sum())
    if count < 2 or not bool(judged[:-1].any()):
        return 0.0, 0.0
    rows, truth = rows[:, judged], truth[:, judged]
    balanced = truth / truth.sum(dim=0) / count
    recall = float((balanced * F.one_hot(rows.argmax(dim=1), count)).sum())
    losses = {scale: -float((balanced * (scale * rows).log_softmax(dim=1)).sum()) for scale in _SCALES}
    return max(0.0, (recall - 1 / count) / (1 - 1 / count)), min(losses, key=lambda scale: losses[scale])
