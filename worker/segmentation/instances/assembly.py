"""Pixel classes -> segments: things one by one, stuff as one, specks gone, each with a calibrated score.

It must not know about text or region formats.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.segmentation.instances.acceptance import ACCEPTANCE_RULE, SegmentEvidence, Witness
from worker.segmentation.instances.splitting import CUT_RULE, CutRule, parts_of
from worker.segmentation.instances.tidying import Window, class_parts, present_classes, tidy

log = logging.getLogger(__name__)

_SMALLEST_SHARE = 0.0005  # of the image: below this a part is noise of a few patches
LEAST_SCORE = 0.05
"""Of a segment that is worth drawing: below it nearly all are slivers of a wrong class along the borders of others."""

_MOST_SEGMENTS = 100  # browsers choke on more brush regions than this
_MOST_CUT = 24  # components looked at for touching things, the largest: more would take too long


@dataclass(frozen=True)
class Wanted:
    """A class to be drawn, and whether all of it makes one segment (stuff) or each thing its own."""

    index: int
    stuff: bool


@dataclass(frozen=True)
class Segment:
    """One thing, or all of one kind of stuff.

    Attributes:
        index: class the pixels belong to.
        stuff: whether it is all of its class.
        mask: (H, W) bool, pixels of the image.
        score: how likely an annotator accepts it as it is (IoU of 0.75 and more), in (0, 1).
        evidence: what the score was made from.
    """

    index: int
    stuff: bool
    mask: NDArray[np.bool_]
    score: float
    evidence: SegmentEvidence


@dataclass(frozen=True)
class _Piece:
    """Pixels of one wanted class: (h, w) bool `mask` within the `window` of the image, and how sure its cuts are."""

    wanted: Wanted
    mask: NDArray[np.bool_]
    window: Window
    area: int
    sureness: float = np.inf


def assemble(
    classes: NDArray[np.int16],
    confidence: NDArray[np.float32],
    wanted: Sequence[Wanted],
    image: NDArray[np.uint8] | None = None,
    *,
    rule: CutRule | None = CUT_RULE,
) -> list[Segment]:
    """Cut the class map into segments. Those of one kind, things or stuff, never overlap.

    Args:
        classes: (H, W) class of each pixel; those that are not wanted are background.
        confidence: (H, W) posterior of that class.
        wanted: what to draw; a class may be wanted both ways.
        image: (H, W, 3) uint8 RGB, by which things that touch are told apart; None = each component is one thing.
        rule: when to cut what touches; None leaves components whole, which only comparisons want.

    Returns:
        At most 100 segments, the largest ones, ordered as `wanted` and then by size, largest first.
    """
    smallest = max(1, round(_SMALLEST_SHARE * classes.size))
    tidied = tidy(classes, smallest=smallest)
    present = set(present_classes(tidied))  # of hundreds of labels a picture has a handful
    pieces = [piece for each in wanted if each.index in present for piece in _pieces(tidied, each, smallest)]
    if image is not None and rule is not None:
        pieces = list(_things_apart(pieces, image, smallest, rule))
    pieces.sort(key=lambda piece: -piece.area)
    if len(pieces) > _MOST_SEGMENTS:
        log.warning("%d segments found; the %d largest are kept", len(pieces), _MOST_SEGMENTS)
    order = {each: place for place, each in enumerate(wanted)}
    kept = sorted(pieces[:_MOST_SEGMENTS], key=lambda piece: order[piece.wanted])
    witness = Witness(confidence, image)
    return [_segment(piece, witness, classes.shape) for piece in kept]


def _pieces(classes: NDArray[np.int16], wanted: Wanted, smallest: int) -> Iterator[_Piece]:
    """The connected parts of a class that are large enough; all of them as one where it is stuff."""
    parts = class_parts(classes, wanted.index, smallest=smallest)
    if not wanted.stuff:
        yield from (_Piece(wanted, mask, window, area) for mask, window, area in parts)
    elif parts:
        whole = np.zeros(classes.shape, dtype=np.bool_)
        for mask, window, _ in parts:
            whole[window] |= mask
        everywhere = (slice(0, whole.shape[0]), slice(0, whole.shape[1]))
        yield _Piece(wanted, whole, everywhere, sum(area for _, _, area in parts))


def _things_apart(
    pieces: Sequence[_Piece], image: NDArray[np.uint8], smallest: int, rule: CutRule
) -> Iterator[_Piece]:
    """Things that touch, cut apart; parts too small to be things are lost."""
    largest = sorted((piece.area for piece in pieces if not piece.wanted.stuff), reverse=True)
    least = largest[_MOST_CUT - 1] if len(largest) > _MOST_CUT else 0
    for piece in pieces:
        if piece.wanted.stuff or piece.area < least:
            yield piece
            continue
        for part in parts_of(piece.mask, image[piece.window], rule):
            area = int(np.count_nonzero(part.mask))
            if area >= smallest:
                yield _Piece(piece.wanted, part.mask, piece.window, area, part.sureness)


def _segment(piece: _Piece, witness: Witness, size: tuple[int, ...]) -> Segment:
    evidence = witness.evidence(piece.mask, piece.window, piece.sureness)
    mask = np.zeros(size, dtype=np.bool_)
    mask[piece.window] = piece.mask
    score = ACCEPTANCE_RULE.probability(evidence, stuff=piece.wanted.stuff)
    return Segment(piece.wanted.index, piece.wanted.stuff, mask, score, evidence)
