"""What does not depend on the clicks: computed once per image and vocabulary, then kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.segmentation.class_scores import OTHERS
from worker.segmentation.clicks.superpixels import Floats, Superpixels, superpixels
from worker.segmentation.heads import Head, ImageScores, head_scores
from worker.segmentation.instances.refiner import RefinerSession
from worker.segmentation.outlines.refinement import ADAPTIVE, refine_scores
from worker.segmentation.pictures import shrink
from worker.segmentation.segmenter import Segmenter

WORKING_SIDE = 512
"""Pixels of the long side of the image that is cut into cells."""

_POSTERIOR_SIDE = 256  # pixels of the long side at which classes follow the outlines


@dataclass(frozen=True)
class ClickScene:
    """An image ready to be clicked on.

    Attributes:
        size: (H, W) of the image, pixels.
        image: (H, W, 3) uint8 RGB.
        cells: of the image at its working size.
        features: four (n, D) float32 descriptions of the cells, each of unit length and with the image's mean taken
            out: the photograph network's three maps, fine to coarse, and the model's patches.
        posterior: (C, n) float32 probability of each class in each cell.
        rows: row of `posterior` of each class that has one; the background comes last.
        session: the image as a refiner has encoded it; None without a refiner.
    """

    size: tuple[int, int]
    image: NDArray[np.uint8]
    cells: Superpixels
    features: tuple[Floats, ...]
    posterior: Floats
    rows: Mapping[int, int]
    session: RefinerSession | None = None

    @property
    def bytes(self) -> int:
        """About how much memory it takes, for a cache."""
        cells = self.cells.labels.nbytes + self.cells.ends.nbytes
        return self.image.nbytes + self.posterior.nbytes + cells + sum(values.nbytes for values in self.features)

    def posterior_of(self, index: int | None) -> Floats | None:
        """(n,) float32 of a class; None of no class, or of one without a score."""
        row = None if index is None else self.rows.get(index)
        return None if row is None else self.posterior[row]


def prepare(segmenter: Segmenter, scores: ImageScores, head: Head | None = None) -> ClickScene:
    """Compute what clicks on an image need, once per image, vocabulary and head.

    Args:
        segmenter: the model.
        scores: of the image, from `Segmenter.score`, with the image.
        head: what was learned from corrections; None = zero-shot.

    Raises:
        ValueError: the scores come without an image.
        LearningError: the head gives no usable scores.
    """
    image = scores.image
    if image is None:
        raise ValueError("clicks need the image: give it to Segmenter.score")
    cells = superpixels(shrink(image, WORKING_SIDE))
    maps = [*scores.photo_features(image), scores.features]
    features = tuple(_at_cells(values, cells) for values in maps)
    posterior, rows = _posterior(scores, head, image, cells)
    session = None if segmenter.refiner is None else segmenter.refiner.look(image)
    return ClickScene(scores.embedding.size, image, cells, features, posterior, rows, session)


def _at_cells(values: Tensor, cells: Superpixels) -> Floats:
    """Sample a map (D, h, w) at the centres of the cells: (n, D) of unit length, the mean of the image taken out."""
    height, width = cells.labels.shape
    scale = 2 * max(height, width) / np.array([width, height])
    place = torch.from_numpy((cells.centre * scale - 1).astype(np.float32))
    grown = values.detach().float().cpu()[None]
    sampled = F.grid_sample(grown, place[None, None], mode="bilinear", padding_mode="border", align_corners=False)
    found = sampled[0, :, 0].T
    return F.normalize(found - found.mean(dim=0), dim=1).numpy()


def _posterior(
    scores: ImageScores, head: Head | None, image: NDArray[np.uint8], cells: Superpixels
) -> tuple[Floats, Mapping[int, int]]:
    """See `ClickScene.posterior` and `ClickScene.rows`."""
    found = scores.zero_shot if head is None else head_scores(head, scores)
    if head is None or head.refinement == ADAPTIVE:
        # `refine_scores` speaks of the classes by their rows, which are those of the vocabulary where none is left out.
        refined = refine_scores(found, shrink(image, _POSTERIOR_SIDE), scores.embedding.affinity)
        if found.classes is not None:
            names = refined.classes or range(len(refined.logits))
            classes = [found.classes[k] if k != OTHERS else OTHERS for k in names]
        else:
            classes = list(refined.classes or range(len(refined.logits)))
        found = refined
    else:
        classes = list(found.classes or range(len(found.logits)))
    likely = found.posterior().float().cpu().numpy()
    size = cells.labels.shape[::-1]
    posterior = np.stack([cells.mean(cv2.resize(layer, size, interpolation=cv2.INTER_LINEAR)) for layer in likely])
    return posterior, {index: row for row, index in enumerate(classes) if index != OTHERS}
