"""What does not depend on the clicks: computed once per image and vocabulary, then kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.segmentation.heads import Head, ImageScores
from worker.segmentation.segmenter import Segmenter


@dataclass(frozen=True)
class ClickScene:
    """An image ready to be clicked on.

    Attributes:
        size: (H, W) of the image, pixels.
        image: (H, W, 3) uint8 RGB.
    """

    size: tuple[int, int]
    image: NDArray[np.uint8]

    @property
    def bytes(self) -> int:
        """About how much memory it takes, for a cache."""
        return self.image.nbytes


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
    if scores.image is None:
        raise ValueError("clicks need the image: give it to Segmenter.score")
    return ClickScene(scores.embedding.size, scores.image)
