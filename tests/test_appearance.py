"""Descriptors of cells without any model, and augmentation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worker.learning.recipes.quick.appearance import POSITION_COLUMNS, describe, window_mean
from worker.learning.recipes.quick.augmentation import Augmentation

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(1, 1), (2, 90), (90, 3), (60, 80)]


def noise(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    grain = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(grain, (0, 0), 2), dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_some_cells_are_described_as_all_are(size: tuple[int, int]) -> None:
    whole = describe(noise(size), size)
    at = torch.randperm(size[0] * size[1], generator=torch.Generator().manual_seed(0))[:500]
    assert whole.shape[1] == size[0] * size[1]
    assert whole.isfinite().all()
    assert torch.equal(describe(noise(size), size, at), whole[:, at])


def test_a_mirrored_picture_is_described_alike_but_for_the_place() -> None:
    image = noise((48, 64))
    plain, mirrored = (describe(some, (48, 64)).reshape(-1, 48, 64) for some in (image, image[:, ::-1].copy()))
    torch.testing.assert_close(mirrored.flip(2)[:-POSITION_COLUMNS], plain[:-POSITION_COLUMNS], atol=1e-4, rtol=1e-3)
    assert torch.equal(mirrored[-POSITION_COLUMNS], plain[-POSITION_COLUMNS])


def test_windows_are_shorter_at_the_borders() -> None:
    values = np.random.default_rng(0).random((7, 9, 2), dtype=np.float32)
    means = window_mean(values, 3)
    for row, column in ((0, 0), (3, 4), (6, 8), (5, 1)):
        window = values[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4]
        np.testing.assert_allclose(means[row, column], window.mean(axis=(0, 1)), rtol=1e-5)


def test_light_changes_every_channel_by_its_gain() -> None:
    image = noise((20, 30))
    augmentation = Augmentation((0, 0, 1, 1), gamma=1.2, gains=(1.1, 0.9, 1.0))
    expected = 255 * (image / 255.0) ** 1.2 * np.array(augmentation.gains)
    np.testing.assert_allclose(augmentation.recoloured(image), expected.clip(0, 255), atol=1.01)
    grey = Augmentation((0, 0, 1, 1), saturation=0.0).recoloured(image).astype(int)
    assert np.ptp(grey, axis=2).max() <= 1
    np.testing.assert_allclose(grey[..., 0], image.mean(axis=2), atol=1.01)
    assert Augmentation((0, 0, 1, 1)).recoloured(image) is image
