"""Tidying the mask of a thing: what is taken off, and what stays."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.segmentation.instances.tidying import tidy_thing

Mask = NDArray[np.bool_]
_Y, _X = np.mgrid[:200, :240] + 0.5
_WHOLE = (slice(0, 200), slice(0, 240))
THING: Mask = np.hypot(_X - 120, _Y - 100) < 50


def _with(*boxes: tuple[int, int, int, int], thing: Mask = THING) -> Mask:
    """A thing and boxes (top, bottom, left, right) beside it."""
    mask = thing.copy()
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def _tidied(mask: Mask) -> Mask:
    return tidy_thing(mask, _WHOLE, mask.shape)


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param((99, 101, 165, 181), id="a frayed arm"),
        pytest.param((41, 52, 119, 122), id="another"),
        pytest.param((20, 26, 200, 206), id="a small island"),
    ],
)
def test_frayed_arms_and_small_islands_go(extra: tuple[int, int, int, int]) -> None:
    tidy = _tidied(_with(extra))
    assert np.count_nonzero(tidy & ~THING) <= 10
    assert np.count_nonzero(THING & ~tidy) <= 10


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(_with((99, 101, 165, 220)), id="a tail"),
        pytest.param(_with((20, 50, 20, 50)), id="an island of a fair size"),
        pytest.param(np.abs(_Y - 0.7 * _X) < 1.5, id="a pole"),
        pytest.param((np.abs(_X - 120) < 0.5 * (_Y - 40)) & (_Y < 160), id="a triangle with sharp corners"),
        pytest.param(_X < 3, id="a strip along the border"),
        pytest.param(np.hypot(_X, _Y) < 60, id="in a corner of the image"),
        pytest.param(_with((20, 21, 20, 21), thing=np.zeros_like(THING)), id="one pixel"),
        pytest.param(np.zeros_like(THING), id="nothing"),
    ],
)
def test_real_parts_stay(mask: Mask) -> None:
    assert np.count_nonzero(_tidied(mask) != mask) <= 2


def test_nothing_is_added_and_a_crop_is_as_the_whole() -> None:
    mask = _with((99, 101, 165, 181), (20, 26, 200, 206))
    tidy = _tidied(mask)
    assert not (tidy & ~mask).any()
    crop = (slice(10, 180), slice(40, 230))
    assert (tidy_thing(mask[crop].copy(), crop, mask.shape) == tidy[crop]).all()
