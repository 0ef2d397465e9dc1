"""Predictions and confusions of heads on corrected images.

Everything is computed on a small grid and before outlines are followed: seconds on a CPU for dozens of images. What is
gained there may be lost when they are followed, most of all against the zero-shot model, whose grid is coarse. So what
would be promoted, and all heads where a dense network (`Head.refinement`) takes part, are evaluated as they are served,
in pixels along the outlines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from worker.learning.corrections.class_maps import ClassMap, shrink_nearest, with_background
from worker.learning.gate.splits import EvaluationImage
from worker.learning.interfaces import Example, Words
from worker.segmentation.heads import Head, ImageScores
from worker.segmentation.metrics import VOID, Confusion, confusion
from worker.segmentation.segmenter import Segmenter

GRID_SIDE = 128
"""Cells of the longer side of the grid on which heads are evaluated."""

FEWEST_IMAGES = 5
"""With fewer images, the bootstrap resamples quarters of images instead of whole ones."""

_CONFIDENT = 0.5  # posterior from which a prediction counts as certain
_FEWEST_CELLS = 30


@dataclass(frozen=True)
class GridPrediction:
    """What a head predicts on the grid.

    Attributes:
        classes: (h, w) index of the most probable class.
        posterior: (h, w) its probability.
    """

    classes: NDArray[np.int16]
    posterior: NDArray[np.float32]


class Evaluator:
    """Holds the images that heads are evaluated on, so that the zero-shot logits of each are computed once.

    Args:
        segmenter: the frozen model.
        words: the texts of each class, n of them; the background is class n.
        corrected: classes that some correction shows.
        outlines: whether heads are evaluated after outlines are followed; about .3 s for each prediction.
    """

    def __init__(self, segmenter: Segmenter, words: Words, corrected: set[int], *, outlines: bool = False) -> None:
        self.classes = len(words) + 1
        self.segmenter = segmenter
        self.words = words
        self._outlines = outlines
        self._background = len(words)
        self._uncorrected = np.array([k not in corrected for k in range(len(words))] + [False])
        self._scores: dict[str, ImageScores] = {}
        self._zero_shot: dict[tuple[str, bool], GridPrediction] = {}

    def shows_label(self, images: Sequence[EvaluationImage]) -> bool:
        """Whether some cell of the images has a label to evaluate."""
        truths = (self._truth(image.example) for image in images)
        return any(bool(((truth >= 0) & (truth != self._background)).any()) for truth in truths)

    def shown(self, images: Sequence[EvaluationImage]) -> NDArray[np.int64]:
        """(n + 1,) number of images that show each class, the parts of one image counted once."""
        shown = {(image.example.key, k) for image in images for k in np.unique(self._truth(image.example)) if k >= 0}
        return np.bincount([k for _, k in shown], minlength=self.classes)

    def predict(
        self, images: Sequence[EvaluationImage], head_of: Callable[[EvaluationImage], Head | None]
    ) -> list[GridPrediction]:
        """Predict each image with the head `head_of` chooses for it; None is the zero-shot model."""
        return [found for (found,) in self.predict_each(images, lambda image: [head_of(image)])]

    def predict_each(
        self, images: Sequence[EvaluationImage], heads_of: Callable[[EvaluationImage], Sequence[Head | None]]
    ) -> list[list[GridPrediction]]:
        """Predict each image with each head that `heads_of` chooses for it, before the next image: heads that differ in
        strength alone share what they compute.
        """
        return [
            [self._predict(image.example, head, outlines=self._outlines) for head in heads_of(image)]
            for image in images
        ]

    def confusions(
        self, images: Sequence[EvaluationImage], predictions: Sequence[GridPrediction]
    ) -> list[Confusion]:
        """Confusions summed per unit of the bootstrap: per image, or per quarter of an image when there are few images.

        Where no region was drawn, a label that no correction shows counts as background: it may really be there, as
        nobody has been asked about it yet.
        """
        keys = dict.fromkeys(image.example.key for image in images)
        parts = 1 if len(keys) >= FEWEST_IMAGES else 4
        units = {key: [np.zeros((self.classes, self.classes), dtype=np.int64) for _ in range(parts)] for key in keys}
        for image, prediction in zip(images, predictions, strict=True):
            truth, predicted = self._truth(image.example), prediction.classes
            tolerated = (truth == self._background) & self._uncorrected[predicted]
            predicted = np.where(tolerated, self._background, predicted)
            quarters = _quarters(truth.shape) if parts > 1 else np.zeros(truth.shape, dtype=np.int64)
            for part, total in enumerate(units[image.example.key]):
                total += confusion(np.where(quarters == part, truth, VOID), predicted, self.classes)
        return [total for key in keys for total in units[key]]

    def agreement(
        self, images: Sequence[EvaluationImage], predictions: Sequence[GridPrediction]
    ) -> float | None:
        """Share of the cells that keep the zero-shot model's label, of those without a region where it is certain of a
        label that no correction shows. None when there are too few such cells.
        """
        cells = kept = 0
        for image, prediction in zip(images, predictions, strict=True):
            zero_shot, certain = self._certain_of_uncorrected(image)
            cells += int(certain.sum())
            kept += int((prediction.classes == zero_shot)[certain].sum())
        return kept / cells if cells >= _FEWEST_CELLS else None

    def has_agreement(self, images: Sequence[EvaluationImage]) -> bool:
        """Whether there are enough cells for `agreement`."""
        if not self._uncorrected.any():
            return False
        return sum(int(self._certain_of_uncorrected(image)[1].sum()) for image in images) >= _FEWEST_CELLS

    def _certain_of_uncorrected(self, image: EvaluationImage) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """(h, w) what the zero-shot model predicts, and where agreement with it is asked for."""
        zero_shot = self._predict(image.example, None, outlines=self._outlines)
        certain = (self._truth(image.example) == self._background) & self._uncorrected[zero_shot.classes]
        return zero_shot.classes, certain & (zero_shot.posterior >= _CONFIDENT)

    def label_confusion(
        self, examples: Sequence[Example], head: Head | None, *, certain: bool = False
    ) -> NDArray[np.float64]:
        """(n, n) cells of each label (rows) by the label that a head predicts (columns). With `certain`, only certain
        predictions count, and a label has none where these are less than a quarter of its cells.
        """
        counts = np.zeros((self.classes, self.classes))
        cells = np.zeros(self.classes)
        for example in examples:
            truth, prediction = self._truth(example), self._predict(example, head, outlines=False)
            cells += np.bincount(truth[truth >= 0], minlength=self.classes)
            counted = np.where(prediction.posterior >= _CONFIDENT, truth, VOID) if certain else truth
            counts += confusion(counted, prediction.classes, self.classes)
        among_labels = counts[:-1, :-1].copy()
        if certain:
            among_labels[among_labels.sum(axis=1) < cells[:-1] / 4] = 0
        return among_labels

    def _truth(self, example: Example) -> ClassMap:
        """(h, w) on the grid, the background as a class."""
        return with_background(shrink_nearest(example.truth, _grid(example.truth.shape)), self._background)

    @torch.no_grad()
    def _predict(self, example: Example, head: Head | None, *, outlines: bool) -> GridPrediction:
        if head is None and (example.key, outlines) in self._zero_shot:
            return self._zero_shot[example.key, outlines]
        if example.key not in self._scores:
            self._scores[example.key] = self.segmenter.score(example.embedding, self.words, example.image)
        image, grid = self._scores[example.key], _grid(example.truth.shape)
        if outlines:
            pixels, confidence = self.segmenter.pixel_classes(image, head)
            prediction = GridPrediction(shrink_nearest(pixels, grid), shrink_nearest(confidence, grid))
        else:
            scores = image.zero_shot if head is None else head.scores(image)
            posteriors = scores.resized(grid).posterior()  # (n + 1, h, w)
            posterior, classes = (values.cpu().numpy() for values in torch.max(posteriors, dim=0))
            prediction = GridPrediction(classes.astype(np.int16), posterior)
        if head is None:
            self._zero_shot[example.key, outlines] = prediction
        return prediction


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    scale = min(1.0, GRID_SIDE / max(shape[:2]))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _quarters(shape: tuple[int, ...]) -> NDArray[np.int64]:
    below = np.arange(shape[0])[:, None] >= shape[0] / 2
    right = np.arange(shape[1])[None, :] >= shape[1] / 2
    return np.asarray(2 * below + right, dtype=np.int64)
