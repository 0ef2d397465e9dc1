"""Noisy scores of a larger vocabulary: few large regions are not refined as a crowd, nor a crowd as few regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.lab.metrics import boundary_f
from worker.segmentation.metrics import confusion, mean_iou
from worker.segmentation.outlines.evidence import Evidence, read_evidence
from worker.segmentation.outlines.propagation import average_matrix
from worker.segmentation.outlines.refinement import refine_logits
from worker.segmentation.outlines.regions import NOISY, Regions, beyond_noise, read_regions
from worker.segmentation.outlines.spectral import low_pass

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS, PATCH, SIZE = 8, 8, (224, 320)


def painted(truth: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.uint8]:
    """Every label in a colour of its own, with grain and light from one side."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    light = 30 * (y / SIZE[0] - 0.5) + 20 * (x / SIZE[1] - 0.5)
    colours = random.uniform(60, 200, (LABELS, 3))[truth]
    grain = random.normal(0, 12, SIZE)
    return np.asarray((colours + (grain + light)[..., None]).clip(0, 255), dtype=np.uint8)


def landscape(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Sky, a wavy meadow and a thing with five lobes before them: three of the labels."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    sky, meadow, thing = random.permutation(LABELS)[:3]
    phase, height = random.uniform(0, 6), random.uniform(0.45, 0.6)
    truth = np.where(y > SIZE[0] * (height + 0.06 * np.sin(x / 25 + phase)), meadow, sky)
    dy, dx = y - SIZE[0] * random.uniform(0.4, 0.6), x - SIZE[1] * random.uniform(0.3, 0.7)
    truth[np.hypot(dy, dx / 1.3) < SIZE[0] * 0.27 * (1 + 0.12 * np.sin(5 * np.arctan2(dy, dx) + phase))] = thing
    return painted(truth, random), truth


def crowd(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Forty discs of two to four patches: all labels."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    truth = np.zeros(SIZE, dtype=np.int64)
    for number in range(40):
        row, column = random.uniform(0, SIZE[0]), random.uniform(0, SIZE[1])
        truth[np.hypot(y - row, x - column) < random.uniform(8, 16)] = 1 + number % (LABELS - 1)
    return painted(truth, random), truth


def noisy_logits(truth: NDArray[np.int64], sigma: float, seed: int, *, slope: float = 0.0) -> Tensor:
    """Patch logits (LABELS, h, w) linear in area shares blurred by a patch; the noise has a reach of 1.5 patches.

    Args:
        truth: the class of each pixel.
        sigma: standard deviation of the noise in the middle of the image.
        seed: of the noise.
        slope: how much stronger the noise is at the right border, in parts of sigma; weaker at the left.
    """
    whole = F.one_hot(torch.from_numpy(truth), LABELS).permute(2, 0, 1).float()[None]
    shares = F.avg_pool2d(whole, PATCH)[0]
    height, width = shares.shape[1:]
    shares = average_matrix(height, height, 1.0) @ shares @ average_matrix(width, width, 1.0).T
    tall, wide, edge = height + 12, width + 12, slice(6, -6)
    rough = torch.randn(LABELS, tall, wide, generator=torch.Generator().manual_seed(seed))
    smooth = (average_matrix(tall, tall, 1.5) @ rough @ average_matrix(wide, wide, 1.5).T)[:, edge, edge]
    strength = sigma * (1 + slope * torch.linspace(-1, 1, width))
    return 10 * (shares + strength * smooth / smooth.std())


def regions_of(coarse: Tensor, image: NDArray[np.uint8]) -> Regions:
    evidence = read_evidence(coarse)
    return read_regions(evidence, image, lambda: low_pass(evidence.shares, image, None, count=30))


def quality(coarse: Tensor, image: NDArray[np.uint8], truth: NDArray[np.int64]) -> tuple[float, float]:
    """Mean IoU and boundary F at 2 px of the refined logits."""
    found = refine_logits(coarse, image).argmax(dim=0).numpy()
    return mean_iou(confusion(truth, found, LABELS)), boundary_f(found, truth, LABELS, radius=2)


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_few_large_regions_are_found_in_a_larger_vocabulary(seed: int) -> None:
    image, truth = landscape(seed)
    coarse = noisy_logits(truth, 0.4, seed)
    regions = regions_of(coarse, image)
    assert regions.few > 0.9
    assert regions.there.nonzero()[:, 0].tolist() == np.unique(truth).tolist()
    assert 2 < regions.crowding < 3.5  # of all eight labels it is 4 and more
    iou, border = quality(coarse, image, truth)
    assert iou > 0.97  # read as a crowd .88 to .92, .29 to .58
    assert border > 0.9


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_noise_that_is_stronger_in_places_is_noise_all_the_same(seed: int) -> None:
    image, truth = landscape(seed)
    assert regions_of(noisy_logits(truth, 0.4, seed, slope=0.6), image).few > 0.9


def test_a_crowd_of_small_things_keeps_them() -> None:
    gains, found = [], []
    for seed in range(4):
        image, truth = crowd(seed)
        coarse = noisy_logits(truth, 0.3, seed)
        assert regions_of(coarse, image).few < 0.9
        plain = F.interpolate(coarse[None], size=SIZE, mode="bilinear", align_corners=False)[0].argmax(dim=0).numpy()
        iou, border = quality(coarse, image, truth)
        gains.append(iou - mean_iou(confusion(truth, plain, LABELS)))
        found.append(border)
    assert min(gains) > 0.2
    assert np.mean(found) > 0.7


def test_where_noise_is_low_the_image_need_not_be_asked() -> None:
    def never() -> Tensor:
        raise AssertionError("eigenvectors take time")

    image, truth = landscape(0)
    evidence = read_evidence(noisy_logits(truth, 0.1, 0))
    assert evidence.noise < NOISY
    regions = read_regions(evidence, image, never)
    assert regions.few == 0
    assert bool(regions.there.all())


@pytest.mark.parametrize("seed", range(4))
def test_noise_alone_is_no_class(seed: int) -> None:
    _, truth = landscape(seed)
    alone = noisy_logits(np.full_like(truth, 2), 0.4, seed) / 10
    assert bool(beyond_noise(alone)[2])
    assert int(beyond_noise(alone).sum()) <= 2


def test_classes_that_are_there_make_trust_lower() -> None:
    every = torch.ones(LABELS, dtype=torch.bool)
    assert Regions(every, 3.0, 0.3, few=1.0).trust < Regions(every, 5.0, 0.3).trust


def test_evidence_without_any_contrast_has_no_regions() -> None:
    flat = Evidence(torch.full((3, 6, 8), 1 / 3), 1.0, 0.3, 1.0)
    regions = read_regions(flat, np.zeros((48, 64, 3), dtype=np.uint8), None)
    assert np.isfinite(regions.trust)
