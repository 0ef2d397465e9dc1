"""Scores of the classes of an image, with classes that have no score, and how zero-shot and learned scores are blended.

A label none of whose words the model can read has no zero-shot score: any number would be chance. It gets one once a
head has learned it from corrections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.segmentation.pictures import resize_map

OTHERS = -1
"""In the place of a class: all those together that have no logits of their own; see `ClassScores.classes`."""

_SMALLEST = 1e-9  # posterior: keeps logarithms finite


@dataclass(frozen=True)
class ClassScores:
    """Logits of classes, the background last.

    Attributes:
        logits: (C, ...) float32, most often (C, h, w) on a grid over an image; softmax over C is the class posterior.
            Classes without a score are -inf everywhere: they get no pixel and take no share from others.
        scored: (C,) bool, on the device of the logits: which classes have a score. The background always has one.
        classes: where only some classes of a large vocabulary have logits of their own: the C classes, in order.
            OTHERS stands for the rest, which gets no pixel but takes its share; it comes before the background. None =
            all classes have logits.
    """

    logits: Tensor
    scored: Tensor
    classes: tuple[int, ...] | None = None

    @classmethod
    def of(cls, logits: Tensor, scored: Tensor) -> ClassScores:
        """Make scores of logits (C, ...) that mean nothing where a class is not `scored`, (C,) bool."""
        return cls(logits.masked_fill(~_column(scored, logits), -torch.inf), scored)

    @classmethod
    def from_logits(cls, logits: Tensor) -> ClassScores:
        """Make scores of plain logits (C, ...); a class that is -inf everywhere has no score."""
        return cls(logits, ~logits.flatten(1).amax(dim=1).isneginf())

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) cells, of scores on a grid."""
        return self.logits.shape[1], self.logits.shape[2]

    @property
    def others(self) -> int | None:
        """The row of OTHERS; None where every class has logits of its own."""
        return self.classes.index(OTHERS) if self.classes is not None and OTHERS in self.classes else None

    def without(self, classes: Sequence[int]) -> ClassScores:
        """The same where these classes have no score."""
        scored = self.scored.clone()
        scored[list(classes)] = False
        return replace(ClassScores.of(self.logits, scored), classes=self.classes)

    def cropped(self, window: tuple[slice, slice]) -> ClassScores:
        """Rows and columns of the grid."""
        return replace(self, logits=self.logits[:, *window])

    def resized(self, size: tuple[int, int]) -> ClassScores:
        """The same on another grid (h', w'), bilinear; averaged where that is the coarser."""
        return replace(ClassScores.of(resize_map(self.logits, size), self.scored), classes=self.classes)

    def averaged(self, most: tuple[int, int]) -> ClassScores:
        """The same with at most so many rows and columns (h', w'): a cell's posterior is the mean of those in it."""
        grid = (min(self.grid[0], most[0]), min(self.grid[1], most[1]))
        if grid == self.grid:
            return self
        mean = F.interpolate(self.posterior()[None], size=grid, mode="area")[0]
        return replace(ClassScores.of(mean.clamp_min(_SMALLEST).log(), self.scored), classes=self.classes)

    def posterior(self) -> Tensor:
        """(C, ...) float32 probabilities; 0 for classes without a score."""
        return self.logits.softmax(dim=0)


def blend(zero_shot: ClassScores, learned: ClassScores, strength: float) -> ClassScores:
    """Interpolate from zero-shot to learned logits, in the manner of WiSE-FT (Wortsman et al., CVPR 2022).

    A class without a zero-shot score has nothing to start from: it keeps its learned posterior at any strength, and the
    other classes share the rest.

    Args:
        zero_shot: (C, ...); at least one class has a score.
        learned: (C, ...) of a shape that broadcasts with it; every class with a zero-shot score has one here.
        strength: 0 = zero-shot, 1 = learned, among the classes with a zero-shot score.

    Returns:
        (C, ...) log-posteriors.
    """
    both = _column(zero_shot.scored, learned.logits)
    alone = learned.logits.log_softmax(dim=0)
    rest = (1 - learned.posterior().masked_fill(both, 0.0).sum(dim=0)).clamp_min(_SMALLEST)
    between = torch.lerp(zero_shot.logits, learned.logits, strength).masked_fill(~both, -torch.inf)
    return replace(learned, logits=torch.where(both, between.log_softmax(dim=0) + rest.log(), alone))


def _column(classes: Tensor, like: Tensor) -> Tensor:
    """(C,) as (C, 1, ...) with as many dimensions as another tensor."""
    return classes.view(-1, *[1] * (like.dim() - 1))
