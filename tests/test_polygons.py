"""Polygons of few points: how many, how near to the mask, and what becomes of holes."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from worker.label_studio.polygons import FILLED_SHARE, LEAST_IOU, Points, default_tolerance, fill_ring, mask_rings
from worker.segmentation.metrics import mask_iou

Mask = NDArray[np.bool_]
_Y, _X = np.mgrid[:200, :220] + 0.5
_FAR, _TURN = np.hypot(_X - 110, _Y - 100), np.arctan2(_Y - 100, _X - 110)


def _noise(seed: int, sigma: float) -> NDArray[np.float64]:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal(_FAR.shape), (0, 0), sigma)
    return np.asarray(noise / noise.std())


DISC = _FAR < 60
SQUARE = np.zeros_like(DISC)
SQUARE[30:150, 40:170] = True
TURNED = (np.abs((_X - 110) * 0.8 + (_Y - 100) * 0.6) < 60) & (np.abs((_Y - 100) * 0.8 - (_X - 110) * 0.6) < 40)
STAR = 60 + 25 * np.cos(5 * _TURN) > _FAR
WOBBLY = 60 + 0.8 * _noise(1, 2.0) > _FAR
THIN = (np.abs(_Y - 40 - 0.5 * _X) < 2.5) & (_X > 20) & (_X < 200)
SMALL = np.hypot(_X - 50, _Y - 50) < 9


def _rings(mask: Mask) -> list[Points]:
    return mask_rings(mask, tolerance=default_tolerance(*mask.shape))


def _filled(rings: list[Points], mask: Mask) -> Mask:
    drawn: Mask = np.zeros_like(mask)
    for ring in rings:
        drawn |= fill_ring(ring, height=mask.shape[0], width=mask.shape[1])
    return drawn


@pytest.mark.parametrize(
    ("mask", "most"),
    [
        pytest.param(DISC, 14, id="disc"),  # 9 points do at best, 24 are those of Douglas-Peucker at 1 pixel
        pytest.param(SQUARE, 4, id="square"),
        pytest.param(TURNED, 4, id="turned square"),
        pytest.param(STAR, 34, id="star"),
        pytest.param(WOBBLY, 20, id="wobbly disc"),
        pytest.param(THIN, 8, id="thin strip"),
        pytest.param(SMALL, 12, id="small disc"),
    ],
)
def test_few_points_are_near_to_the_mask(mask: Mask, most: int) -> None:
    (ring,) = _rings(mask)
    assert len(ring) <= most
    assert mask_iou(_filled([ring], mask), mask) >= LEAST_IOU


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sigma", [2.0, 5.0, 9.0])
def test_every_island_keeps_its_iou(seed: int, sigma: float) -> None:
    mask = _noise(seed, sigma) > 0.8
    count, numbered = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    rings = _rings(mask)
    assert len(rings) == count - 1
    for ring in rings:
        drawn = _filled([ring], mask)
        assert mask_iou(drawn, numbered == np.bincount(numbered[drawn & mask]).argmax()) >= LEAST_IOU


def test_points_are_not_in_clumps() -> None:
    (ring,) = _rings(WOBBLY)
    assert min(np.hypot(*(ring - np.roll(ring, 1, axis=0)).T)) > 3


def test_longer_images_are_followed_less_closely_in_pixels() -> None:
    assert default_tolerance(600, 800) == default_tolerance(1000, 10)
    assert default_tolerance(3000, 4000) == 4 * default_tolerance(750, 1000)


def _with_holes(*radii: float) -> Mask:
    mask: Mask = SQUARE.copy()
    for k, radius in enumerate(radii):
        mask &= np.hypot(_X - 70 - 35 * k, _Y - 90) >= radius
    return mask


def test_holes_that_are_next_to_nothing_are_filled() -> None:
    mask = _with_holes(5, 4)  # together 0.8 % of the square
    (ring,) = _rings(mask)
    assert len(ring) == 4
    assert FILLED_SHARE * mask.sum() > np.count_nonzero(_filled([ring], mask) & ~mask)
    (exact,) = mask_rings(mask, tolerance=0)
    assert (_filled([exact], mask) == mask).all()


def test_a_larger_hole_stays_open_behind_one_short_cut() -> None:
    mask = _with_holes(5, 16, 15)
    (ring,) = _rings(mask)
    drawn = _filled([ring], mask)
    assert drawn[90, 70]  # the small one is filled
    assert not drawn[90, 105] and not drawn[90, 140]
    edges = [tuple(map(tuple, edge)) for edge in pairwise([*ring.tolist(), ring[0].tolist()])]
    cuts = {edge for edge in edges if edge[::-1] in edges}
    assert len(cuts) == 4  # two cuts, each walked there and back between the very same points
    lengths = sorted(np.hypot(*np.subtract(*edge)) for edge in cuts)
    assert lengths[0] == lengths[1] and lengths[0] < 6  # between the holes, 4 pixels apart
    assert lengths[2] == lengths[3] and lengths[2] < 17  # from the right one to the side of the square, 15 away
