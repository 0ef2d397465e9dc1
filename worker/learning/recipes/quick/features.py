"""What a classifier of the taught labels sees of a scene, and how far the model's own words are to be believed.

It must not know how a classifier learns.
"""

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

from worker.learning.interfaces import Example, Words
from worker.learning.recipes.quick.appearance import PLACES, describe
from worker.learning.recipes.quick.augmentation import View
from worker.learning.recipes.quick.classifier import Picture
from worker.learning.recipes.quick.ensemble import Blinded
from worker.learning.recipes.quick.pca import Axes
from worker.segmentation.heads import Scene
from worker.segmentation.metrics import VOID
from worker.segmentation.outlines.evidence import enlarge, spoken
from worker.segmentation.outlines.refinement import refine_logits
from worker.segmentation.pictures import resize, shrink

GRID = 128
"""Cells along the long side of a picture."""

ENCODER_AXES, TOWER_AXES = 24, (12, 24, 24)
"""Principal axes of the encoder's features, and of each map of the photograph tower."""

# Views in other light keep the features of the picture as it is. (The photograph tower's, too; but hiding those from 15
# or 30 % of the cells cost .02 of mIoU on photographs left out.)
_BLIND_ENCODER, _BLIND_PLACES = 0.5, 0.3
_SCALES = (0.0, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Seen:
    """A scene, and what is found of it once for all its views.

    Attributes:
        scene: what the model says.
        image: its image, (H, W, 3) uint8 RGB.
        features: (K, h, w) float32, the model's, along the sight's axes.
        photo: (P, h, w) float32 on a grid of its own: what the photograph tower saw, along the sight's axes.
        said: (n + 1, h, w) zero-shot logits in the cells: along the outlines, where the model's words count at all.
    """

    scene: Scene
    image: NDArray[np.uint8]
    features: Tensor
    photo: Tensor
    said: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image, pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of its cells."""
        return cells(self.size)

    @property
    def patches(self) -> tuple[int, int]:
        """(h, w) of the model's patches."""
        return self.scene.logits.shape[1], self.scene.logits.shape[2]


@dataclass(frozen=True)
class Sight:
    """Which labels were taught, and what is seen of a scene.

    Attributes:
        words: the texts of each taught class; the rest, whatever it is, is the class after them.
        known: (T,) float32: 1 = the model knows the class's words.
        features: axes of the encoder's features; None = neither these nor its words are seen.
        tower: axes of each map of the photograph tower; none = it is not asked.
        trust: how far the model's words proved right, above chance, in [0, 1].
        scale: what the model's logits are multiplied with before learning starts from them.
        appearance: whether colour and texture are seen.
    """

    words: Words
    known: Tensor
    features: Axes | None
    tower: tuple[Axes, ...]
    trust: float
    scale: float
    appearance: bool = True

    @property
    def untold(self) -> Tensor:
        """(T + 1,) bool: the classes whose words the model does not know; of the rest it always says something."""
        return torch.cat([self.known == 0, torch.zeros(1, dtype=torch.bool)])

    @property
    def blinded(self) -> list[Blinded]:
        """Which columns of a picture are hidden now and then while learning."""
        seen = 0 if self.features is None else self.features.directions.shape[1] + len(self.words)
        return [(slice(0, seen), _BLIND_ENCODER), (slice(seen, seen + PLACES), _BLIND_PLACES)]

    @property
    def doubted(self) -> int:
        """How many of the last columns, the photograph tower's, are to prove right where photographs are not few."""
        return sum(axes.directions.shape[1] for axes in self.tower)

    def rows(self, words: Words) -> list[int | None]:
        """Where each taught class is among others' words; see `found_again`."""
        return found_again(self.words, words)

    def ahead(self, words: Words, said: Tensor) -> Tensor:
        """(T + 1, h, w): by how much the model puts each taught class before all the others, of which it says 0.

        Args:
            words: the texts of each class of the scene.
            said: (n + 1, h, w) its zero-shot logits on any grid.
        """
        rows = self.rows(words)
        rest = said[[k for k in range(len(said)) if k not in rows]].logsumexp(dim=0)
        nothing, speaks = torch.zeros_like(rest), spoken(said).tolist()
        told = [said[k] - rest if k is not None and known and speaks[k] else nothing
                for k, known in zip(rows, self.known.tolist(), strict=True)]  # fmt: skip
        return torch.stack([*told, nothing]).cpu()

    def seen(self, scene: Scene, image: NDArray[np.uint8]) -> Seen:
        """What is found once of a scene, whatever the view. The image: (H, W, 3) uint8 RGB."""
        grid = cells((image.shape[0], image.shape[1]))
        if not self.trust and set(range(len(scene.words))) <= set(self.rows(scene.words)):
            said = enlarge(scene.logits, grid)
        else:
            said = refine_logits(scene.logits, resize(image, grid), scene.embedding.affinity)
        features = torch.zeros(0, 1, 1) if self.features is None else self.features.project(scene.features)
        return Seen(scene, image, features, self._photo(scene, image), said)

    def _photo(self, scene: Scene, image: NDArray[np.uint8]) -> Tensor:
        """See `Seen.photo`."""
        if not self.tower:
            return torch.zeros(0, 1, 1)
        maps = [axes.project(seen) for axes, seen in zip(self.tower, scene.look_again(image), strict=True)]
        finest = (maps[0].shape[1], maps[0].shape[2])
        return torch.cat([enlarge(found, finest) for found in maps])

    def picture(self, seen: Seen, view: View, at: Tensor | None = None) -> Picture:
        """What is seen of a view of a scene, cell by cell.

        Args:
            seen: the scene.
            view: of it.
            at: (N,) int64 cells to look at, row by row; None = all.
        """
        grid, patches = seen.grid, seen.patches
        looks = describe(view.relit(shrink(seen.image[view.pixels(seen.size, patches)], 4 * GRID)), grid, at)

        grown = partial(_grown, grid=grid, at=at)
        values = [looks[-PLACES:]]
        if self.appearance:
            values.append(looks[:-PLACES])
        if self.tower:
            finest = (seen.photo.shape[1], seen.photo.shape[2])
            values.append(grown(seen.photo[:, *view.pixels(finest, patches)]))
        if self.features is None:
            return Picture(torch.cat(values), torch.zeros(len(self.words) + 1, looks.shape[1]))
        features = grown(seen.features[:, *view.pixels(patches, patches)])
        ahead = grown(self.ahead(seen.scene.words, seen.said[:, *view.pixels(grid, patches)]))
        return Picture(torch.cat([features, ahead[:-1], *values]), self.scale * ahead)

    def shares(self, example: Example, view: View, patches: tuple[int, int]) -> Tensor:
        """(T + 1, h, w) share of each taught class and of the rest in the cells of a view; void is in none."""
        size = (example.truth.shape[0], example.truth.shape[1])
        truth = example.truth[view.pixels(size, patches)]
        rows = self.rows(example.words)
        owned = [k is not None and k not in rows[:place] for place, k in enumerate(rows)]  # a cell has one class
        grid = cells(size)
        layers = [(truth == k) & owner for k, owner in zip(rows, owned, strict=True)]
        layers.append(~np.logical_or.reduce([*layers, truth == VOID]))
        found = [cv2.resize(layer.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA) for layer in layers]
        return torch.from_numpy(np.stack(found))


def _grown(values: Tensor, grid: tuple[int, int], at: Tensor | None) -> Tensor:
    """(C, N): a map (C, h, w) of numbers at cells of a grid over it, all of them or those at so many indices."""
    if at is None or grid[0] < values.shape[1] or grid[1] < values.shape[2]:
        whole = enlarge(values, grid).flatten(1)
        return whole if at is None else whole[:, at]
    row, column = at // grid[1], at % grid[1]
    places = torch.stack([(2 * column + 1) / grid[1] - 1, (2 * row + 1) / grid[0] - 1], dim=1)  # of -1 to 1
    return F.grid_sample(values[None], places[None, None], padding_mode="border", align_corners=False)[0, :, 0]


def found_again(mine: Words, words: Words) -> list[int | None]:
    """Where each of some classes is among others by their texts; None = nowhere.

    The very same texts go ahead; else one text in common is enough, unless it is another class of `mine` that has the
    other's very texts: a car and a truck may both be called vehicle.
    """
    exact = {texts: k for k, texts in enumerate(words)}
    free = [(k, set(texts)) for k, texts in enumerate(words) if texts not in mine]
    return [exact.get(own, next((k for k, texts in free if texts & set(own)), None)) for own in mine]


def cells(size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the grid over a picture of (H, W) pixels: square cells, none smaller than a pixel."""
    unit = min(1.0, GRID / max(size))
    return max(1, round(size[0] * unit)), max(1, round(size[1] * unit))


def agreement(sight: Sight, scenes: Sequence[Scene], examples: Sequence[Example]) -> tuple[float, float]:
    """How far the model's words prove right on examples: `Sight.trust`, and the `Sight.scale` at which they fit best.

    Every class that the model knows and that occurs counts alike: the trust is their mean recall above chance. A scale
    of 0 means that the words are of no use.
    """
    said, truths = [], []
    for scene, example in zip(scenes, examples, strict=True):
        patches = (scene.logits.shape[1], scene.logits.shape[2])
        truth = sight.shares(example, View.whole(patches), patches)
        said.append(sight.ahead(scene.words, enlarge(scene.logits, (truth.shape[1], truth.shape[2]))).flatten(1).T)
        truths.append(truth.flatten(1).T)
    rows, truth = torch.cat(said), torch.cat(truths)
    judged = ~sight.untold & (truth.sum(dim=0) > 0)
    count = int(judged.sum())
    if count < 2 or not bool(judged[:-1].any()):
        return 0.0, 0.0
    rows, truth = rows[:, judged], truth[:, judged]
    even = truth / truth.sum(dim=0) / count
    recall = float((even * F.one_hot(rows.argmax(dim=1), count)).sum())
    costs = {scale: -float((even * (scale * rows).log_softmax(dim=1)).sum()) for scale in _SCALES}
    return max(0.0, (recall - 1 / count) / (1 - 1 / count)), min(costs, key=lambda scale: costs[scale])
