"""A simulated annotator who corrects predictions by stated rules, at a stated speed, and not quite perfectly.

The annotator sees the predicted regions of an image and knows the true ones: the 8-connected components of each class.
A predicted region is accepted as it is where its IoU with its true region is ACCEPTED_FROM or more and its label is
right; it is edited where that takes less time than drawing anew, given another label where only that is wrong, and else
deleted. True regions that are left are drawn.

Two things do not depend on Zeromask: that annotators are shown predictions makes them accept some that are wrong
(`Noise.over_trust`), and what they draw is not the truth to a pixel (`Noise.wobble`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.learning.corrections.class_maps import ClassMap
from worker.learning.interfaces import UNLABELLED
from worker.report.time_model import TimeModel
from worker.segmentation.instances.class_map import class_components
from worker.segmentation.metrics import VOID

ACCEPTED_FROM = 0.85
"""IoU from which a region is accepted as it is. Stricter than the 0.75 that a region's score stands for: at that a
quarter of its pixels may be wrong, and what is accepted is learned from."""

LEAST_SHARE = 0.0005
"""Share of the image below which a true region is too small to be drawn, as it is too small to be predicted."""

SMALL_SHARE = 0.005
"""Share of the image below which a true region without a predicted one may be overlooked."""

_LEAST_OVERLAP = 0.1  # IoU from which a predicted region stands for a true one
_WOBBLE_LENGTH = 0.02  # of the longer side: along an outline, how soon the hand wobbles the other way
_FEWEST_WOBBLES = 4.0  # wobbles that the region's own size, the root of its area, holds at least


@dataclass(frozen=True)
class Noise:
    """How an annotator differs from the truth. Assumptions all three.

    Attributes:
        wobble: standard deviation of a drawn outline, as a share of the image's longer side.
        overlooked: probability that a true region below SMALL_SHARE that nothing is predicted for is overlooked.
        over_trust: probability that a predicted region is accepted that should not be.
    """

    wobble: float = 0.003
    overlooked: float = 0.3
    over_trust: float = 0.1


PERFECT = Noise(0.0, 0.0, 0.0)
"""An annotator who makes no mistakes."""


@dataclass(frozen=True)
class DrawnRegion:
    """A predicted or annotated region.

    Attributes:
        index: class of its pixels.
        mask: (H, W) bool.
    """

    index: int
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Correction:
    """What an annotator made of an image.

    Attributes:
        truth: (H, W) int16 class map, as `worker.learning.interfaces.Example` has it.
        seconds: that it took.
        from_scratch: seconds that drawing the same true regions from nothing takes.
        accepted, changed, deleted, added: numbers of regions, as `worker.label_studio.outcomes.RegionOutcomes` has.
    """

    truth: ClassMap
    seconds: float
    from_scratch: float
    accepted: int = 0
    changed: int = 0
    deleted: int = 0
    added: int = 0


@dataclass(frozen=True)
class SubmittedRegion:
    """A region that an annotator submits.

    Attributes:
        region: as it is submitted.
        predicted: number of the predicted region that it was made from, from 0; None = it was drawn from nothing.
        accepted: whether it is that region as it was.
    """

    region: DrawnRegion
    predicted: int | None = None
    accepted: bool = False


@dataclass(frozen=True)
class Decision:
    """What an annotator decided about an image, region by region; `seconds`, `from_scratch` and `counts` as
    `Correction` has them.
    """

    regions: tuple[SubmittedRegion, ...]
    seconds: float
    from_scratch: float
    counts: Mapping[str, int]


class Annotator:
    """Corrects one image after another.

    Args:
        time: how long each step takes.
        noise: how the annotator differs from the truth.
        has_background: whether pixels outside of all regions are background; else nobody says what they are.
    """

    def __init__(
        self, *, time: TimeModel | None = None, noise: Noise | None = None, has_background: bool = True
    ) -> None:
        self._time, self._noise = time or TimeModel(), noise or Noise()
        self._rest = UNLABELLED if has_background else VOID

    def correct(self, predicted: Sequence[DrawnRegion], truth: ClassMap, rng: np.random.Generator) -> Correction:
        """Correct the predicted regions of an image: `decide`, which has the arguments, painted."""
        found = self.decide(predicted, truth, rng)
        painted = self._painted([row.region for row in found.regions], truth != VOID)
        return Correction(painted, found.seconds, found.from_scratch, **found.counts)

    def decide(self, predicted: Sequence[DrawnRegion], truth: ClassMap, rng: np.random.Generator) -> Decision:
        """Decide about each predicted region of an image, and draw what is missing.

        Args:
            predicted: regions of one model; they do not overlap.
            truth: (H, W) int16, the true class of each pixel: an index, UNLABELLED or VOID. Void pixels count nowhere.
            rng: decides about mistakes.
        """
        time, noise = self._time, self._noise
        known = truth != VOID
        true = true_regions(truth)
        small = [region.mask.sum() < SMALL_SHARE * truth.size for region in true]
        overlooked = [bool(is_small and rng.random() < noise.overlooked) for is_small in small]
        pairs = match_regions([one.mask & known for one in predicted], [one.mask for one in true])
        drawn: list[SubmittedRegion] = []
        seconds, counts = time.image, {"accepted": 0, "changed": 0, "deleted": 0, "added": 0}
        redrawn: list[int] = []
        for number, region in enumerate(predicted):
            seconds += time.look
            trusted = rng.random() < noise.over_trust
            partner, iou = pairs.get(number, (None, 0.0))
            is_right = partner is not None and true[partner].index == region.index
            if trusted or (is_right and iou >= ACCEPTED_FROM):
                counts["accepted"] += 1
                drawn.append(SubmittedRegion(region, number, accepted=True))
            elif partner is not None and iou >= ACCEPTED_FROM:
                counts["changed"] += 1
                seconds += time.click
                drawn.append(SubmittedRegion(DrawnRegion(true[partner].index, region.mask), number))
            elif partner is not None and time.edit(iou) + time.click * (not is_right) < time.redraw:
                counts["changed"] += 1
                seconds += time.edit(iou) + time.click * (not is_right)
                drawn.append(SubmittedRegion(self._draw(true[partner], rng), number))
            else:
                counts["deleted"] += 1
                seconds += time.click
                redrawn += [] if partner is None else [partner]
        found = {partner for partner, _ in pairs.values()} - set(redrawn)
        for partner, region in enumerate(true):
            if partner not in found and (partner in redrawn or not overlooked[partner]):
                counts["added"] += 1
                seconds += time.outline
                drawn.append(SubmittedRegion(self._draw(region, rng)))
        from_scratch = time.image + time.outline * overlooked.count(False)
        return Decision(tuple(drawn), seconds, from_scratch, counts)

    def _draw(self, region: DrawnRegion, rng: np.random.Generator) -> DrawnRegion:
        return DrawnRegion(region.index, wobbled(region.mask, self._noise.wobble, rng))

    def _painted(self, regions: Sequence[DrawnRegion], known: NDArray[np.bool_]) -> ClassMap:
        """The regions as a class map, smaller ones over larger ones."""
        painted = np.full(known.shape, self._rest, dtype=np.int16)
        for region in sorted(regions, key=lambda one: -int(np.count_nonzero(one.mask))):
            painted[region.mask] = region.index
        painted[~known] = VOID
        return painted


def true_regions(truth: ClassMap) -> list[DrawnRegion]:
    """The regions that a perfect annotator draws: 8-connected components of each class, none below LEAST_SHARE."""
    least = max(1, round(LEAST_SHARE * truth.size))
    regions = []
    for index in np.unique(truth[truth >= 0]):
        for part, crop, _ in class_components(truth, int(index), min_area=least):
            mask = np.zeros(truth.shape, dtype=np.bool_)
            mask[crop] = part
            regions.append(DrawnRegion(int(index), mask))
    return regions


def match_regions(
    predicted: Sequence[NDArray[np.bool_]], true: Sequence[NDArray[np.bool_]]
) -> dict[int, tuple[int, float]]:
    """Pair predicted regions with true ones, the largest IoU first, each at most once; labels do not matter.

    Args:
        predicted: (H, W) masks that do not overlap.
        true: (H, W) masks that do not overlap.

    Returns:
        for each predicted region that has one, the true one and their IoU.
    """
    if not predicted or not true:
        return {}
    rows, columns = _numbered(predicted), _numbered(true)
    both = np.bincount((rows * (len(true) + 1) + columns).ravel(), minlength=(len(predicted) + 1) * (len(true) + 1))
    table = both.reshape(len(predicted) + 1, len(true) + 1)
    either = table.sum(axis=1, keepdims=True) + table.sum(axis=0, keepdims=True) - table
    ious = (table / np.maximum(either, 1))[1:, 1:]
    pairs: dict[int, tuple[int, float]] = {}
    taken: set[int] = set()
    for place in np.argsort(-ious, axis=None, kind="stable"):
        row, column = divmod(int(place), len(true))
        if ious[row, column] < _LEAST_OVERLAP:
            break
        if row not in pairs and column not in taken:
            pairs[row] = column, float(ious[row, column])
            taken.add(column)
    return pairs


def _numbered(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """(H, W) number of the mask that each pixel is in, from 1; 0 = none."""
    numbers = np.zeros(masks[0].shape, dtype=np.int64)
    for number, mask in enumerate(masks, start=1):
        numbers[mask] = number
    return numbers


def wobbled(mask: NDArray[np.bool_], wobble: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A mask as a hand draws it: its outline moved by smooth noise.

    Args:
        mask: (H, W) bool.
        wobble: standard deviation of the noise, as a share of the longer side; less for a mask that is small.
        rng: draws the noise.
    """
    side = max(mask.shape)
    deviation = min(wobble * side, float(np.sqrt(np.count_nonzero(mask))) / _FEWEST_WOBBLES)
    if deviation <= 0:
        return mask
    inside, outside = (cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 3) for part in (mask, ~mask))
    white = rng.standard_normal(mask.shape).astype(np.float32)
    noise = cv2.GaussianBlur(white, (0, 0), max(1.0, _WOBBLE_LENGTH * side))
    found = inside - outside + deviation * noise / max(float(noise.std()), 1e-6) > 0
    return np.asarray(found if found.any() else mask)
