"""A class map -> segments: things one by one, stuff as a whole, without specks, each with an acceptance score."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.segmentation.instances.acceptance import ACCEPTANCE_MODEL, EvidenceExtractor, SegmentEvidence
from worker.segmentation.instances.class_map import Crop, class_components, clean, present_classes
from worker.segmentation.instances.splitting import CUT_RULE, CutRule, split_component
from worker.segmentation.instances.tidying import tidy_thing

log = logging.getLogger(__name__)

_MIN_SHARE = 0.0005  # of the image: smaller components are noise of a few patches
LEAST_SCORE = 0.05
"""Least score of a segment worth drawing: nearly all below are slivers of a wrong class along the borders of others."""

_MAX_SEGMENTS = 100  # browsers become unusable with more brush regions
_LEAST_INSIDE = 0.5  # of the pixels of a thing that a head tells apart, for it to divide a component
_MAX_SPLIT_CANDIDATES = 24  # components examined for touching things, the largest: more would take too long


@dataclass(frozen=True)
class SegmentRequest:
    """A class to draw.

    Attributes:
        index: the class.
        stuff: whether all of it makes one segment (stuff), or each thing its own.
    """

    index: int
    stuff: bool


@dataclass(frozen=True)
class Segment:
    """One thing, or all of one class of stuff.

    Attributes:
        index: class of its pixels.
        stuff: whether it is all of its class.
        mask: (H, W) bool, pixels of the image.
        score: acceptance score: how likely an annotator accepts it as it is (IoU of 0.75 or more), in (0, 1).
        evidence: what the score was computed from.
    """

    index: int
    stuff: bool
    mask: NDArray[np.bool_]
    score: float
    evidence: SegmentEvidence


@dataclass(frozen=True)
class _Candidate:
    """Pixels of one requested class: (h, w) bool `mask` within a `crop` of the image, `area` in pixels, and the least
    absolute log-odds of the cut decisions around it."""

    request: SegmentRequest
    mask: NDArray[np.bool_]
    crop: Crop
    area: int
    cut_margin: float = np.inf


def assemble(
    classes: NDArray[np.int16],
    confidence: NDArray[np.float32],
    requests: Sequence[SegmentRequest],
    image: NDArray[np.uint8] | None = None,
    *,
    rule: CutRule | None = CUT_RULE,
    things: NDArray[np.int32] | None = None,
) -> list[Segment]:
    """Divide a class map into segments. Things never overlap things, and stuff never overlaps stuff.

    Args:
        classes: (H, W) class of each pixel; classes without a request are background.
        confidence: (H, W) float32 posterior of that class.
        requests: what to draw; a class may be requested both as things and as stuff.
        image: (H, W, 3) uint8 RGB, used to separate things that touch; None = each component is one thing.
        rule: when to cut a component; None leaves components whole, which only comparisons use.
        things: (H, W) int32 number of the thing that each pixel is part of, 0 = not known, where a head tells things
            apart: components are divided by it before they are cut. None = no head does.

    Returns:
        At most 100 segments, the largest ones, in the order of the requests and then by size, largest first.
    """
    min_area = max(1, round(_MIN_SHARE * classes.size))
    cleaned = clean(classes, min_area=min_area)
    present = set(present_classes(cleaned))  # an image has only a few of hundreds of labels
    candidates = [
        candidate
        for request in requests
        if request.index in present
        for candidate in _candidates(cleaned, request, min_area)
    ]
    if things is not None:
        candidates = [part for candidate in candidates for part in _told_apart(candidate, things, min_area)]
    if image is not None and rule is not None:
        candidates = list(_split_things(candidates, image, min_area, rule))
    candidates = [_tidied(candidate, classes.shape) for candidate in candidates]
    candidates.sort(key=lambda candidate: -candidate.area)
    if len(candidates) > _MAX_SEGMENTS:
        log.warning("%d segments found; the %d largest are kept", len(candidates), _MAX_SEGMENTS)
    order = {request: place for place, request in enumerate(requests)}
    kept = sorted(candidates[:_MAX_SEGMENTS], key=lambda candidate: order[candidate.request])
    extractor = EvidenceExtractor(confidence, image)
    return [_segment(candidate, extractor, classes.shape) for candidate in kept]


def _candidates(classes: NDArray[np.int16], request: SegmentRequest, min_area: int) -> Iterator[_Candidate]:
    """Yield the components of a class that are large enough; for stuff, all of them as one."""
    components = class_components(classes, request.index, min_area=min_area)
    if not request.stuff:
        yield from (_Candidate(request, mask, crop, area) for mask, crop, area in components)
    elif components:
        union = np.zeros(classes.shape, dtype=np.bool_)
        for mask, crop, _ in components:
            union[crop] |= mask
        whole_image = (slice(0, union.shape[0]), slice(0, union.shape[1]))
        yield _Candidate(request, union, whole_image, sum(area for _, _, area in components))


def _told_apart(candidate: _Candidate, things: NDArray[np.int32], min_area: int) -> Iterator[_Candidate]:
    """Divide a component into the numbered things most of whose pixels are in it; other pixels go to the nearest.

    A few pixels of a thing beside the component are no second thing in it: masks of neighbours overlap its border.
    """
    numbers = np.where(candidate.mask, things[candidate.crop], 0)
    areas = np.bincount(numbers.ravel())
    areas[0] = 0
    whole = np.bincount(things.ravel(), minlength=len(areas))[: len(areas)]
    found = np.flatnonzero((areas >= min_area) & (areas >= _LEAST_INSIDE * whole))
    if candidate.request.stuff or len(found) < 2:
        yield candidate
        return
    kept = np.isin(numbers, found)
    # OpenCV labels each pixel with the nearest pixel of value 0, which are those of the things that are kept.
    _, nearest = cv2.distanceTransformWithLabels(
        (~kept).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    number_of = np.zeros(int(nearest.max()) + 1, dtype=numbers.dtype)
    number_of[nearest[kept]] = numbers[kept]
    owner = number_of[nearest]
    for number in found:
        mask = np.asarray(candidate.mask & (owner == number))
        yield replace(candidate, mask=mask, area=int(np.count_nonzero(mask)))


def _split_things(
    candidates: Sequence[_Candidate], image: NDArray[np.uint8], min_area: int, rule: CutRule
) -> Iterator[_Candidate]:
    """Split components into touching things; parts below `min_area` are dropped."""
    areas = sorted((candidate.area for candidate in candidates if not candidate.request.stuff), reverse=True)
    least = areas[_MAX_SPLIT_CANDIDATES - 1] if len(areas) > _MAX_SPLIT_CANDIDATES else 0
    for candidate in candidates:
        if candidate.request.stuff or candidate.area < least:
            yield candidate
            continue
        for part in split_component(candidate.mask, image[candidate.crop], rule):
            area = int(np.count_nonzero(part.mask))
            if area >= min_area:
                yield _Candidate(candidate.request, part.mask, candidate.crop, area, part.cut_margin)


def _tidied(candidate: _Candidate, size: tuple[int, ...]) -> _Candidate:
    """A thing without frayed arms and islands much smaller than itself; stuff as it is."""
    if candidate.request.stuff:
        return candidate
    mask = tidy_thing(candidate.mask, candidate.crop, size)
    return replace(candidate, mask=mask, area=int(np.count_nonzero(mask)))


def _segment(candidate: _Candidate, extractor: EvidenceExtractor, size: tuple[int, ...]) -> Segment:
    evidence = extractor.evidence(candidate.mask, candidate.crop, candidate.cut_margin)
    mask = np.zeros(size, dtype=np.bool_)
    mask[candidate.crop] = candidate.mask
    request = candidate.request
    return Segment(
        request.index, request.stuff, mask, ACCEPTANCE_MODEL.score(evidence, stuff=request.stuff), evidence
    )
