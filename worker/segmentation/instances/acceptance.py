"""The acceptance score: how likely an annotator accepts a segment as it is.

Accepting means an IoU of 0.75 or more with what the annotator would draw. The score is the probability that the cuts
around the segment are right, times the probability that it is accepted if they are: a logistic model of cheap evidence.
A segment that might be two things thus never scores as high as one that is clearly one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.segmentation.pictures import shrink

_WORKING_SIDE = 256  # pixels of the long side at which gradients are taken and empty spots looked at
_MAX_CUT_MARGIN = 6.0  # log-odds


@dataclass(frozen=True)
class SegmentEvidence:
    """Evidence for one segment; more of any is better.

    Attributes:
        posterior: mean posterior of its class over its pixels.
        contrast: log of the gradient along its border relative to the mean gradient of the image.
        size: log2 of its share of the image's pixels.
        cut_margin: absolute log-odds of the least certain decision to cut or not to cut around it, 0 to 6.
    """

    posterior: float
    contrast: float
    size: float
    cut_margin: float

    @property
    def cut_certainty(self) -> float:
        """Probability that the least certain decision to cut or not to cut is right, 0.5 to 1."""
        return float(1 / (1 + np.exp(-self.cut_margin)))


@dataclass(frozen=True)
class AcceptanceWeights:
    """A logistic model of acceptance where the cuts are right.

    No weight of evidence is negative, so no score falls as evidence grows.
    """

    bias: float
    posterior: float
    contrast: float
    size: float

    def probability(self, evidence: SegmentEvidence) -> float:
        """Probability of acceptance, in (0, 1)."""
        weighted = self.posterior * evidence.posterior + self.contrast * evidence.contrast + self.size * evidence.size
        return float(evidence.cut_certainty / (1 + np.exp(-self.bias - weighted)))


@dataclass(frozen=True)
class AcceptanceModel:
    """One logistic model for things, one for stuff."""

    thing: AcceptanceWeights
    stuff: AcceptanceWeights

    def score(self, evidence: SegmentEvidence, *, stuff: bool) -> float:
        """Acceptance score of a segment: the probability that it is accepted, in (0, 1)."""
        return (self.stuff if stuff else self.thing).probability(evidence)


# Fitted by `python -m worker.lab.evaluation.fit_assembly`; docs/research/instances.md describes the data.
ACCEPTANCE_MODEL = AcceptanceModel(
    thing=AcceptanceWeights(bias=7.3792, posterior=8.3829, contrast=1.2366, size=1.7849),
    stuff=AcceptanceWeights(bias=1.2707, posterior=8.219, contrast=0.0, size=1.1588),
)

_SPOT_SHARE = 0.002  # of the image: the smallest spot where something may be that is not drawn
_NO_CONTRAST = 0.0  # without an image, or without a border inside it


def chance_of_nothing(background: NDArray[np.float32]) -> float:
    """The chance that nothing is in an image in which nothing is drawn: the posterior of the background in the spot of
    0.2 % of the image that is least certain to be background. Thinner uncertainty, as along outlines, is no spot.

    Args:
        background: (H, W) float32 posterior of the background in each pixel, or an upper bound of it.
    """
    scale = min(1.0, _WORKING_SIDE / max(background.shape))
    size = [max(1, round(side * scale)) for side in background.shape]
    small = cv2.resize(background, size[::-1], interpolation=cv2.INTER_AREA)
    side = max(1, round((_SPOT_SHARE * small.size) ** 0.5))
    return float(cv2.dilate(small, np.ones((side, side), np.uint8)).min())


def whole_score(scores: Sequence[float]) -> float:
    """The score of an image with segments: that of the segment least likely to be accepted as it is.

    It orders images by whether something in them needs a hand; as a probability that all segments are accepted it is
    too high, and their product is nearer. Their mean is sure of an image with one bad segment among many.
    docs/research/calibration.md compares the three.

    Args:
        scores: of one segment or more, in [0, 1].
    """
    return min(scores)


class EvidenceExtractor:
    """Holds what all segments of one image share: its posteriors and its gradient.

    Args:
        confidence: (H, W) float32 posterior of each pixel's class.
        image: (H, W, 3) uint8 RGB, or None.
    """

    def __init__(self, confidence: NDArray[np.float32], image: NDArray[np.uint8] | None) -> None:
        self._confidence = confidence
        self._gradient = None if image is None else _max_gradient(image)
        self._mean_gradient = 0.0 if self._gradient is None else float(self._gradient.mean())

    def evidence(self, mask: NDArray[np.bool_], crop: tuple[slice, slice], cut_margin: float) -> SegmentEvidence:
        """Measure the evidence for a segment.

        Args:
            mask: (h, w) bool, the segment within the crop; it has no pixels outside.
            crop: rows and columns of the image.
            cut_margin: absolute log-odds of the least certain cut decision around it; infinite without one.
        """
        posteriors = self._confidence[crop][mask]
        return SegmentEvidence(
            posterior=float(posteriors.mean()),
            contrast=self._contrast(mask, crop),
            size=float(np.log2(posteriors.size / self._confidence.size)),
            cut_margin=min(cut_margin, _MAX_CUT_MARGIN),
        )

    def _contrast(self, mask: NDArray[np.bool_], crop: tuple[slice, slice]) -> float:
        if self._gradient is None:
            return _NO_CONTRAST
        height, width = self._confidence.shape
        scale = np.array(self._gradient.shape) / (height, width)
        padded = np.pad(mask, 1, mode="edge")  # the edge of the image is not a border
        core = cv2.erode(padded.astype(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1]
        rows, columns = np.nonzero(mask & (core == 0))
        if not rows.size:
            return _NO_CONTRAST
        rows = ((rows + crop[0].start) * scale[0]).astype(np.int64)
        columns = ((columns + crop[1].start) * scale[1]).astype(np.int64)
        return float(np.log((self._gradient[rows, columns].mean() + 1.0) / (self._mean_gradient + 1.0)))


def _max_gradient(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(h, w) float32 largest gradient over channels and 3x3 pixels, grey levels per pixel, at 256 pixels at most."""
    small = shrink(image, _WORKING_SIDE)
    across, down = (cv2.Sobel(small, cv2.CV_32F, *order, scale=0.125) for order in ((1, 0), (0, 1)))
    red, green, blue = cv2.split(cv2.magnitude(across, down))
    return np.asarray(cv2.dilate(cv2.max(red, cv2.max(green, blue)), np.ones((3, 3), np.uint8)))
