"""Things of one class that touch come apart where outline and image show it; single things stay whole; doubt shows."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from worker.segmentation.instances.assembly import SegmentRequest, assemble
from worker.segmentation.instances.chords import narrow_chords
from worker.segmentation.instances.cut_evidence import CutComponent
from worker.segmentation.instances.splitting import CUT_RULE, propose_cuts, split_component

pytestmark = pytest.mark.usefixtures("one_thread")

Mask = NDArray[np.bool_]
Image = NDArray[np.uint8]
Ellipse = tuple[float, float, float, float, float]
"""Centre x and y, half axes, angle in degrees; all but the last as shares of the side of the image."""

CLOTH = (150, 160, 165)


def ellipse(side: int, of: Ellipse) -> Mask:
    centre, axes = (round(of[0] * side), round(of[1] * side)), (round(of[2] * side), round(of[3] * side))
    return np.asarray(cv2.ellipse(np.zeros((side, side), np.uint8), centre, axes, of[4], 0, 360, 1, -1) > 0)


def grown(mask: Mask, pixels: int) -> Mask:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=pixels) > 0)


def iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def rounded(side: int, ellipses: list[Ellipse], *, crease: float = 0.0) -> tuple[list[Mask], Image]:
    """Brown things lit from one side; later ones lie behind earlier ones. `crease` darkens where they meet."""
    things: list[Mask] = []
    image = np.full((side, side, 3), CLOTH, dtype=np.float32)
    taken = np.zeros((side, side), dtype=np.bool_)
    for of in ellipses:
        thing = ellipse(side, of) & ~taken
        depth = cv2.distanceTransform(ellipse(side, of).astype(np.uint8), cv2.DIST_L2, 5)
        light = 0.6 + 0.4 * np.minimum(depth / (0.5 * of[3] * side), 1.0)
        image[thing] = (np.array((110, 62, 50)) * light[..., None])[thing]
        things.append(thing)
        taken |= thing
    if crease:
        for one, other in ((a, b) for k, a in enumerate(things) for b in things[k + 1 :]):
            image[grown(one, side // 100) & grown(other, side // 100)] *= 1 - crease
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    return things, np.clip(image + noise, 0, 255).astype(np.uint8)


PAIR: list[Ellipse] = [(0.33, 0.42, 0.21, 0.12, 50), (0.61, 0.52, 0.21, 0.12, 110)]
THREE: list[Ellipse] = [(0.2, 0.42, 0.15, 0.09, 50), (0.41, 0.5, 0.15, 0.09, 110), (0.62, 0.42, 0.15, 0.09, 50)]


@pytest.mark.parametrize("side", [120, 600])
@pytest.mark.parametrize("ellipses", [PAIR, THREE], ids=["two", "three"])
def test_rounded_things_with_a_faint_seam_come_apart_at_any_size(ellipses: list[Ellipse], side: int) -> None:
    things, image = rounded(side, ellipses, crease=0.25)
    whole = np.any(things, axis=0)
    parts = split_component(whole, image)
    assert len(parts) == len(things)
    for thing in things:
        assert max(iou(part.mask, thing) for part in parts) > 0.85
    assert np.array_equal(np.sum([part.mask for part in parts], axis=0), whole)


def single(kind: str, side: int) -> tuple[Mask, Image]:
    """One thing of a shape or with paint that might be taken for two."""
    ring = ellipse(side, (0.5, 0.5, 0.35, 0.3, 0)) & ~ellipse(side, (0.5, 0.5, 0.18, 0.15, 0))
    bar = np.zeros((side, side), dtype=np.bool_)
    bar[round(0.42 * side) : round(0.58 * side), round(0.05 * side) : round(0.95 * side)] = True
    egg = ellipse(side, (0.5, 0.5, 0.38, 0.25, 30))
    waisted = ellipse(side, (0.35, 0.5, 0.25, 0.22, 0)) | ellipse(side, (0.65, 0.5, 0.25, 0.22, 0))
    mask = {"ring": ring, "bar": bar, "striped": egg, "waisted": waisted}[kind]
    image = np.full((side, side, 3), CLOTH, dtype=np.float32)
    image[mask] = (110, 62, 50)
    if kind == "striped":
        across = np.zeros((side, side), dtype=np.bool_)
        across[:, round(0.47 * side) : round(0.53 * side)] = True
        image[mask & across] = (190, 150, 130)
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    return mask, np.clip(image + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["striped", "ring", "bar", "waisted"])
def test_what_is_one_stays_whole(kind: str) -> None:
    assert len(split_component(*single(kind, 300))) == 1


def test_a_cut_in_doubt_lowers_the_score() -> None:
    scores = []
    for crease, nearer in ((0.6, 0.0), (0.0, 0.04)):
        left, right = PAIR[0], (PAIR[1][0] - nearer, *PAIR[1][1:])
        things, image = rounded(300, [left, right], crease=crease)
        classes = np.where(np.any(things, axis=0), 0, 1).astype(np.int16)
        found = assemble(classes, np.full(classes.shape, 0.95, np.float32), [SegmentRequest(0, stuff=False)], image)
        scores.append(min(segment.score for segment in found))
    clear, doubtful = scores
    assert clear > 0.85
    assert doubtful < 0.65  # whether this is one thing or two is a coin's toss


def test_the_rule_wants_more_of_a_seam_where_there_is_less_of_a_neck() -> None:
    things, image = rounded(300, PAIR, crease=0.3)
    best = max(propose_cuts(np.any(things, axis=0), image), key=lambda cut: CUT_RULE.log_odds(cut.evidence)).evidence
    wide = replace(best, neck=1.0, neck_squared=1.0)
    assert CUT_RULE.log_odds(best) > CUT_RULE.log_odds(wide)
    assert CUT_RULE.log_odds(replace(wide, crease=best.crease + 2)) > CUT_RULE.log_odds(wide)


def test_the_narrowest_chord_crosses_the_neck_and_none_crosses_a_hole() -> None:
    things, _ = rounded(300, PAIR)
    (side,) = narrow_chords(np.any(things, axis=0), most=1, least_share=0.08)
    assert max(iou(side, thing) for thing in things) > 0.85
    ring, _ = single("ring", 300)
    for side in narrow_chords(ring, most=3, least_share=0.08):
        assert cv2.connectedComponents((ring & ~side).astype(np.uint8))[0] == 2, "a chord across the hole cuts twice"
    assert list(narrow_chords(np.ones((3, 3), dtype=np.bool_), most=3, least_share=0.08)) == []


def test_evidence_has_no_unit_of_length() -> None:
    found = []
    for side in (200, 800):
        things, image = rounded(side, PAIR, crease=0.3)
        component = CutComponent.of(np.any(things, axis=0), image)
        assert component is not None
        (chord,) = narrow_chords(component.grid, most=1, least_share=0.08)
        evidence = component.evidence(chord)
        assert evidence is not None
        found.append(evidence)
    assert found[0].neck == pytest.approx(found[1].neck, abs=0.08)
    assert found[0].convexity == pytest.approx(found[1].convexity, abs=0.2)
    assert found[0].balance == pytest.approx(found[1].balance, abs=0.1)
