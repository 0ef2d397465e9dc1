"""How likely an annotator accepts a segment as it is, from evidence that costs next to nothing.

Accepting means IoU of 0.75 and more with what the annotator would draw. It must not know about labels or text.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.segmentation.pictures import shrink

_WORKING_SIDE = 256  # pixels of the picture whose steepness is looked at
_SUREST = 6.0  # log-odds of a cut beyond which it makes no difference


@dataclass(frozen=True)
class SegmentEvidence:
    """What speaks for one segment; more of any is better.

    Attributes:
        posterior: mean posterior of its class inside.
        contrast: log of how much steeper the picture is along its border than in the picture at large.
        size: log2 of its share of the picture.
        sureness: log-odds of the least certain cut made or not made around it, 0 to 6.
    """

    posterior: float
    contrast: float
    size: float
    sureness: float


@dataclass(frozen=True)
class AcceptanceWeights:
    """A logistic model of acceptance: no evidence has a negative weight, so no score falls as evidence grows."""

    bias: float
    posterior: float
    contrast: float
    size: float
    sureness: float

    def probability(self, evidence: SegmentEvidence) -> float:
        """In (0, 1)."""
        weighed: list[float] = [getattr(self, name) * value for name, value in vars(evidence).items()]
        return float(1 / (1 + np.exp(-self.bias - sum(weighed))))


@dataclass(frozen=True)
class AcceptanceRule:
    """One model for things, one for stuff."""

    thing: AcceptanceWeights
    stuff: AcceptanceWeights

    def probability(self, evidence: SegmentEvidence, *, stuff: bool) -> float:
        """That the segment is accepted, in (0, 1)."""
        return (self.stuff if stuff else self.thing).probability(evidence)


# Fitted by `python -m worker.lab.evaluation.fit_assembly`; docs/research/instances.md tells on what.
ACCEPTANCE_RULE = AcceptanceRule(
    thing=AcceptanceWeights(bias=1.0289, posterior=5.179, contrast=0.4002, size=0.7484, sureness=0.4858),
    stuff=AcceptanceWeights(bias=1.2921, posterior=8.128, contrast=0.0, size=1.1523, sureness=0.0),
)

_NO_CONTRAST = 0.0  # where there is no picture


class Witness:
    """Holds what is read off one image for all of its segments.

    Args:
        confidence: (H, W) float32 posterior of each pixel's class.
        image: (H, W, 3) uint8 RGB, or None.
    """

    def __init__(self, confidence: NDArray[np.float32], image: NDArray[np.uint8] | None) -> None:
        self._confidence = confidence
        self._steepness = None if image is None else _steepness(image)
        self._usual = 0.0 if self._steepness is None else float(self._steepness.mean())

    def evidence(self, mask: NDArray[np.bool_], window: tuple[slice, slice], sureness: float) -> SegmentEvidence:
        """What speaks for a segment; `mask` (h, w) bool is its part of the window, outside it has no pixels."""
        inside = self._confidence[window][mask]
        return SegmentEvidence(
            posterior=float(inside.mean()),
            contrast=self._contrast(mask, window),
            size=float(np.log2(inside.size / self._confidence.size)),
            sureness=min(sureness, _SUREST),
        )

    def _contrast(self, mask: NDArray[np.bool_], window: tuple[slice, slice]) -> float:
        if self._steepness is None:
            return _NO_CONTRAST
        height, width = self._confidence.shape
        scale = np.array(self._steepness.shape) / (height, width)
        padded = np.pad(mask, 1, mode="edge")  # the image's own edge is no border
        core = cv2.erode(padded.astype(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1]
        rows, columns = np.nonzero(mask & (core == 0))
        if not rows.size:
            return _NO_CONTRAST
        rows = ((rows + window[0].start) * scale[0]).astype(np.int64)
        columns = ((columns + window[1].start) * scale[1]).astype(np.int64)
        return float(np.log((self._steepness[rows, columns].mean() + 1.0) / (self._usual + 1.0)))


def _steepness(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(h, w) float32 greatest steepness nearby, grey levels a pixel, of an image at most 256 pixels long."""
    small = shrink(image, _WORKING_SIDE)
    across, down = (cv2.Sobel(small, cv2.CV_32F, *way, scale=0.125) for way in ((1, 0), (0, 1)))
    red, green, blue = cv2.split(cv2.magnitude(across, down))
    return np.asarray(cv2.dilate(cv2.max(red, cv2.max(green, blue)), np.ones((3, 3), np.uint8)))
