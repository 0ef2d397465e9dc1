"""Masks that follow the outline: evidence, propagation, the guided step, and what they must never do."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tests.models import noise
from worker.lab.drawn_world.annotation_set import annotation_scene, index_truth
from worker.lab.metrics import boundary_f
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.heads import zero_shot_logits
from worker.segmentation.metrics import confusion, mean_iou
from worker.segmentation.outlines.evidence import nearest_shares, read_evidence, read_posteriors
from worker.segmentation.outlines.guided import fit_local_lines, grow_rows
from worker.segmentation.outlines.propagation import average_matrix, propagate
from worker.segmentation.outlines.refinement import (
    ADAPTIVE,
    FINE,
    POSTERIORS,
    SPECTRAL,
    Method,
    pixel_classes,
    refine_logits,
    refine_scores,
)
from worker.segmentation.outlines.regions import read_regions
from worker.segmentation.outlines.spectral import eigen_masks, eigen_segments
from worker.segmentation.pictures import rgb_rows
from worker.segmentation.text.encoder import BACKGROUND, TextEncoder

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(size: tuple[int, int] = (112, 144)) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A red disc and a thin blue pole on grey, and the class of each pixel (0 = grey)."""
    y, x = np.mgrid[: size[0], : size[1]]
    truth = np.zeros(size, dtype=np.int64)
    truth[(y - 0.5 * size[0]) ** 2 + (x - 0.35 * size[1]) ** 2 < (0.25 * size[0]) ** 2] = 1
    truth[:, int(0.8 * size[1]) : int(0.8 * size[1]) + 6] = 2
    paint = np.array([(120, 125, 118), (200, 60, 50), (40, 70, 190)])
    grain = np.random.default_rng(0).integers(-6, 7, (*size, 3))
    return (paint[truth] + grain).astype(np.uint8), truth


def coarse_of(truth: NDArray[np.int64], count: int, patch: int, *, sigma: float = 0.0) -> Tensor:
    """Patch logits linear in the area shares, blurred by a patch, with smooth noise."""
    whole = F.one_hot(torch.from_numpy(truth), count).permute(2, 0, 1).float()[None]
    shares = F.avg_pool2d(whole, patch)
    height, width = shares.shape[-2:]
    shares = average_matrix(height, height, 1.0) @ shares @ average_matrix(width, width, 1.0).T
    rough = torch.randn(1, count, height, width, generator=seeded(1))
    smooth = average_matrix(height, height, 1.5) @ rough @ average_matrix(width, width, 1.5).T
    return (10 * (shares + sigma * smooth / smooth.std()))[0]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 200), (97, 64), (700, 530)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_size_and_number_of_classes_is_refined(size: tuple[int, int], count: int) -> None:
    coarse = 4 * torch.randn(count, 5, 7, generator=seeded(count))
    found = refine_logits(coarse, noise(*size))
    assert found.shape == (count, *size)
    assert found.dtype == torch.float32
    assert found.isfinite().all()


@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (2, 2), (24, 32)], ids=str)
def test_any_grid_is_refined(grid: tuple[int, int]) -> None:
    assert refine_logits(torch.randn(3, *grid, generator=seeded(0)), noise(40, 60)).isfinite().all()


def test_evidence_without_any_contrast_stays_without() -> None:
    found = refine_logits(torch.zeros(3, 6, 8), noise(48, 64))
    torch.testing.assert_close(found.softmax(0), torch.full_like(found, 1 / 3), rtol=0, atol=1e-3)


def test_fine_posteriors_get_the_guided_step_alone() -> None:
    """What a head that has learned says on a grid of its own follows the outline, and keeps its posteriors."""
    image, truth = scene()
    logits = (coarse_of(truth, 3, 4) / 10).clamp(0.01, 0.99).log()
    size = (truth.shape[0], truth.shape[1])
    plain, _ = pixel_classes(logits, size, None)
    found, confidence = pixel_classes(logits, size, image, method=FINE)
    before, after = (mean_iou(confusion(truth, c, 3)) for c in (plain, found))
    assert after > before + 0.02
    assert ((confidence > 0) & (confidence <= 1)).all()


@pytest.mark.parametrize("method", [FINE, POSTERIORS], ids=["fine", "posteriors"])
@pytest.mark.parametrize("together", [False, True], ids=["twelve classes", "the others together"])
def test_what_classes_without_a_pixel_take_goes_to_no_single_class(method: Method, together: bool) -> None:
    """Twelve classes of 5 % each, nowhere plausible: the last of the plausible ones does not get their 60 %."""
    image, truth = scene()
    shares = (coarse_of(truth, 3, 4)[[1, 2, 0]] / 10).clamp_min(1e-3)
    three = shares / shares.sum(dim=0)  # disc, pole, grey: grey comes last, as the background does
    faint = torch.full((1, *three.shape[1:]), 0.6) if together else torch.full((12, *three.shape[1:]), 0.05)
    many = torch.cat([faint, 0.4 * three]).log()
    found, confidence = pixel_classes(many, (112, 144), image, method=method, without=0 if together else None)
    alone, _ = pixel_classes(three.log(), (112, 144), image, method=method)
    assert (found - len(faint) == alone).mean() > 0.99
    assert ((confidence > 0.3) & (confidence <= 1)).all()


def test_one_class_comes_back_upsampled() -> None:
    coarse = torch.randn(1, 4, 6, generator=seeded(2))
    plain = F.interpolate(coarse[None], size=(33, 50), mode="bilinear", align_corners=False)[0]
    assert torch.equal(refine_logits(coarse, noise(33, 50)), plain)


def test_of_many_classes_only_those_with_a_chance_are_refined() -> None:
    image, truth = scene()
    three = coarse_of(truth, 3, 8)
    many = torch.cat([three, torch.randn(297, *three.shape[1:], generator=seeded(3)) * 0.2 - 1])
    found = refine_logits(many, image)
    assert found.shape == (300, *truth.shape)
    assert int(found.argmax(0).max()) <= 2
    assert (found.argmax(0).numpy() == truth).mean() > 0.95


def test_a_class_without_a_score_changes_nothing_for_the_others() -> None:
    coarse, image = torch.randn(3, 6, 8, generator=seeded(4)), noise(48, 64)
    beside = torch.cat([coarse[:1], torch.full((1, 6, 8), -torch.inf), coarse[1:]])
    logits, alone = refine_logits(beside, image), refine_logits(coarse, image)
    assert torch.equal(logits[[0, 2, 3]], alone)
    assert logits[1].isneginf().all()
    for picture in (image, None):
        classes, confidence = pixel_classes(beside, (48, 64), picture)
        expected, likewise = pixel_classes(coarse, (48, 64), picture)
        np.testing.assert_array_equal(classes, np.array([0, 2, 3])[expected])
        np.testing.assert_array_equal(confidence, likewise)
    larger = ClassScores.from_logits(beside).resized((9, 13))
    assert torch.equal(larger.logits[[0, 2, 3]], ClassScores.from_logits(coarse).resized((9, 13)).logits)
    assert larger.logits[1].isneginf().all()


@pytest.mark.parametrize(
    ("value", "method", "told"),
    [
        (torch.nan, ADAPTIVE, "class 1 of 4 is NaN or"),
        (torch.inf, ADAPTIVE, "class 1 of 4 is NaN or"),
        (torch.nan, FINE, "class 1 of 4 is NaN or"),  # there it made every pixel NaN
        (torch.inf, POSTERIORS, "class 1 of 4 is NaN or"),
        (-torch.inf, ADAPTIVE, "class 1 of 4 is -inf in some patches"),
    ],
)
def test_logits_that_are_no_numbers_are_refused_by_name(value: float, method: Method, told: str) -> None:
    coarse = torch.randn(4, 6, 8, generator=seeded(0))
    coarse[3] = -torch.inf  # has no score, which is allowed
    image = noise(60, 80)
    assert bool(refine_logits(coarse, image, method=method)[:3].isfinite().all())
    coarse[1, 2, 3] = value
    for refine in (lambda: refine_logits(coarse, image, method=method),
                   lambda: pixel_classes(coarse, (60, 80), image, method=method)):  # fmt: skip
        with pytest.raises(ValueError, match=told + r".*ZEROMASK_PRECISION=fp32"):
            refine()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_they_are_refused_without_outlines_and_among_many_classes_too(value: float) -> None:
    coarse = torch.randn(80, 3, 4, generator=seeded(0))
    coarse[7, 0, 0] = value
    with pytest.raises(ValueError, match="class 7 of 80"):
        pixel_classes(coarse, (30, 40))
    with pytest.raises(ValueError, match="class 7 of 80"):
        refine_scores(ClassScores.from_logits(coarse), noise(30, 40))
    with pytest.raises(ValueError, match="no class of 2 has a score"):
        pixel_classes(torch.full((2, 3, 4), -torch.inf), (30, 40))


def test_the_order_of_the_classes_does_not_matter() -> None:
    image, truth = scene()
    coarse = coarse_of(truth, 3, 8, sigma=0.1)
    straight, turned = refine_logits(coarse, image), refine_logits(coarse[[2, 0, 1]], image)
    assert (straight[[2, 0, 1]].argmax(0) == turned.argmax(0)).float().mean() > 0.998


@pytest.mark.parametrize("method", [Method(), SPECTRAL, Method(eigenvectors=0)], ids=["adaptive", "spectral", "none"])
def test_outlines_are_found_again(method: Method) -> None:
    image, truth = scene()
    coarse = coarse_of(truth % 2, 2, 8, sigma=0.05)
    truth = truth % 2
    plain = F.interpolate(coarse[None], size=truth.shape, mode="bilinear", align_corners=False)[0].argmax(0).numpy()
    found = refine_logits(coarse, image, method=method).argmax(0).numpy()
    assert (found != truth).mean() < 0.5 * (plain != truth).mean()


def test_what_is_thinner_than_a_patch_is_told_from_its_surroundings() -> None:
    """No patch is mostly pole; the colours say where in the patches their share of it is."""
    image, truth = scene()
    shares = coarse_of(truth, 3, 8) / 10
    assert float(shares[2].max()) < 0.4
    found = propagate(replace(read_evidence(10 * shares), shares=shares), shares[:-1], image, trust=1.0)
    pole = (1 - found.sum(0)).repeat_interleave(2, dim=0).repeat_interleave(2, dim=1).numpy()
    beside = np.roll(truth == 2, 8, axis=1)
    assert pole[truth == 2].mean() > 4 * pole[beside].mean()
    plain = F.interpolate(shares[None, 2:], size=truth.shape, mode="bilinear", align_corners=False)[0, 0].numpy()
    assert plain[truth == 2].mean() < 2 * plain[beside].mean()


def test_features_reach_the_eigenvectors() -> None:
    image, truth = scene()
    coarse = coarse_of(truth, 3, 8, sigma=0.1)
    features = torch.randn(14, 18, 16, generator=seeded(4))
    with_them = refine_logits(coarse, image, features, method=SPECTRAL)
    assert not torch.equal(with_them, refine_logits(coarse, image, method=SPECTRAL))


def test_a_picture_without_edges_does_little_harm() -> None:
    _, truth = scene()
    coarse = coarse_of(truth, 3, 8)
    flat = np.full((*truth.shape, 3), 127, dtype=np.uint8)
    plain = F.interpolate(coarse[None], size=truth.shape, mode="bilinear", align_corners=False)[0].argmax(0).numpy()
    found = refine_logits(coarse, flat).argmax(0).numpy()
    assert (found != truth).mean() < (plain != truth).mean() + 0.04


def test_no_class_is_swallowed() -> None:
    """Two greys that hardly differ: smoothness alone would paint the smaller one over."""
    truth = np.zeros((128, 128), dtype=np.int64)
    truth[40:72, 40:72] = 1
    image = np.where(truth[..., None] == 1, 131, 128).repeat(3, axis=2).astype(np.uint8)
    evidence = replace(read_evidence(coarse_of(truth, 2, 8)), noise=0.3)
    found = propagate(evidence, evidence.shares[:-1], image, trust=1e-5)[0]
    assert 0.3 < float((found < 0.5).float().mean()) * truth.size / (truth == 1).sum() < 2.5


@pytest.mark.parametrize("count", [2, 5, 40])
def test_classes_in_strips_are_those_of_the_logits(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.segmentation.outlines.refinement._STRIP_VALUES", 30_000)
    coarse, image = 5 * torch.randn(count, 6, 8, generator=seeded(count)), noise(90, 130)
    logits = refine_logits(coarse, image)
    classes, confidence = pixel_classes(coarse, (90, 130), image)
    best = logits.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-3).numpy()
    assert clear.mean() > 0.8
    assert (classes == logits.argmax(0).numpy())[clear].all()
    if count <= 5:  # else those without a chance are left out of the posterior
        assert np.abs(confidence - logits.softmax(0).amax(0).numpy()).max() < 1e-3


def test_shares_scale_noise_and_crowding_are_read_off_the_logits() -> None:
    image, truth = scene((448, 576))
    trust = {}
    for sigma in (0.05, 0.2):
        evidence = read_evidence(coarse_of(truth, 3, 16, sigma=sigma))
        assert evidence.scale == pytest.approx(10, rel=0.15)
        assert evidence.noise == pytest.approx(sigma, rel=0.45)
        regions = read_regions(evidence, image, None)
        assert 1 < regions.crowding < 2.3
        trust[sigma] = regions.trust
        torch.testing.assert_close(evidence.shares.sum(0), torch.ones(28, 36))
    assert trust[0.05] > trust[0.2]


def test_posteriors_that_are_shares_are_refined_as_shares() -> None:
    """A network trained with a cross-entropy on pixels says in its softmax what part of a patch a class covers."""
    image, truth = scene()
    shares = (coarse_of(truth, 3, 8) / 10).clamp_min(1e-3)
    trained = (shares / shares.sum(dim=0)).log()
    torch.testing.assert_close(read_posteriors(trained).shares, trained.softmax(dim=0))
    quality = {}
    for name, method in (("posteriors", POSTERIORS), ("fine", FINE)):
        found, _ = pixel_classes(trained, (112, 144), image, method=method)
        quality[name] = mean_iou(confusion(truth, found, 3))
    assert quality["posteriors"] > quality["fine"] + 0.05
    # The pole, where a patch's posterior never reaches one half, is what trust keeps.
    kept, _ = pixel_classes(trained, (112, 144), image, method=replace(POSTERIORS, trust=1.0))
    assert mean_iou(confusion(truth, kept, 3)) > 0.95
    more = torch.cat([trained, trained[:1]])  # a class that only takes its share
    assert len(read_posteriors(more, 3).shares) == 3
    rest = more.softmax(dim=0)[3] / 3
    torch.testing.assert_close(read_posteriors(more, 3).shares, more.softmax(dim=0)[:3] + rest)


def test_trust_does_not_depend_on_the_scale_of_the_logits() -> None:
    image, truth = scene()
    coarse = coarse_of(truth, 3, 8, sigma=0.1)
    one, other = read_evidence(coarse), read_evidence(3 * coarse)
    assert one.noise == pytest.approx(other.noise, rel=1e-4)
    trust = [read_regions(evidence, image, None).trust for evidence in (one, other)]
    assert trust[0] == pytest.approx(trust[1], rel=1e-3)
    assert other.scale == pytest.approx(3 * one.scale)


def test_nearest_shares_are_nearest() -> None:
    wild = torch.randn(4, 3, 5, generator=seeded(5))
    found = nearest_shares(wild)
    torch.testing.assert_close(found.sum(0), torch.ones(3, 5))
    assert found.min() >= 0
    others = torch.distributions.Dirichlet(torch.ones(4)).sample((2000,))[..., None, None]
    assert ((others - wild).square().sum(1).amin(0) >= (found - wild).square().sum(0) - 1e-6).all()


@pytest.mark.parametrize(("count", "size"), [(3, 12), (5, 13), (7, 7), (4, 30)])
def test_patches_average_their_cells(count: int, size: int) -> None:
    sharp = average_matrix(count, size, 1e-3)
    torch.testing.assert_close(sharp.sum(1), torch.ones(count))
    if size % count == 0:
        expected = torch.eye(count).repeat_interleave(size // count, dim=1) * count / size
        torch.testing.assert_close(sharp, expected)
    torch.testing.assert_close(average_matrix(count, size, 0.7).sum(1), torch.ones(count))


def test_lines_of_the_colours_are_found_exactly() -> None:
    image = torch.rand(3, 20, 30, generator=seeded(6))
    slope = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]])
    values = torch.einsum("kc,chw->khw", slope, image) + 0.3
    lines = fit_local_lines(values, image, radius=3, smoothness=0.0)
    torch.testing.assert_close(lines.at(image), values, rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(50, 70), (10, 12), (203, 31)], ids=str)
def test_strips_join_without_a_seam(size: tuple[int, int]) -> None:
    values = torch.randn(2, 13, 17, generator=seeded(7))
    whole = F.interpolate(values[None], size=size, mode="bilinear", align_corners=False)[0]
    cuts = [0, 1, size[0] // 3, size[0] - 1, size[0]]
    strips = [grow_rows(values, slice(a, b), size) for a, b in itertools.pairwise(cuts)]
    torch.testing.assert_close(torch.cat(strips, dim=1), whole, rtol=0, atol=1e-5)
    lines = fit_local_lines(values, torch.rand(3, 13, 17, generator=seeded(8)), radius=2, smoothness=1e-2)
    image = rgb_rows(noise(*size))
    parts = [lines.at(image[:, a:b], slice(a, b), size[0]) for a, b in itertools.pairwise(cuts)]
    torch.testing.assert_close(torch.cat(parts, dim=1), lines.at(image), rtol=0, atol=1e-4)


def test_eigen_segments_are_the_regions_of_a_picture() -> None:
    image, truth = scene((120, 160))
    found = eigen_segments(image, count=6)
    assert found.shape == truth.shape
    assert set(np.unique(found)) == set(range(int(found.max()) + 1))
    disc = truth == 1
    best = max(range(int(found.max()) + 1), key=lambda k: ((found == k) & disc).sum() / ((found == k) | disc).sum())
    assert ((found == best) & disc).sum() / ((found == best) | disc).sum() > 0.8
    assert np.array_equal(found, eigen_segments(image, count=6))


@pytest.mark.parametrize("cut", range(24, 41, 4))
def test_the_first_eigen_mask_of_two_halves_is_a_half_and_never_the_whole(cut: int) -> None:
    """No edge joins them, so the constant vector and the one that tells them apart have one eigenvalue."""
    image = np.full((48, 64, 3), 40, dtype=np.uint8)
    image[:, cut:] = 200
    first = eigen_masks(image)[0]
    assert (first == (image[..., 0] == 200)).mean() in (pytest.approx(0, abs=0.05), pytest.approx(1, abs=0.05))


def test_eigen_masks_take_keys_or_colours() -> None:
    image, truth = scene((120, 160))
    keys = F.one_hot(torch.from_numpy(truth[4::8, 4::8] == 1).long(), 2).float()
    by_keys = eigen_masks(image, count=3, keys=keys + 0.05, colour_weight=0.0)
    assert by_keys.shape == (3, 120, 160)
    disc = truth == 1
    assert max(((m & disc).sum() / (m | disc).sum()) for m in [*by_keys, *~by_keys]) > 0.7
    assert eigen_masks(image).shape == (5, 120, 160)


def test_drawn_scenes_get_better_masks_than_by_upsampling() -> None:
    labels = ["red striped shape", "green dotted shape", "blue checkered shape", "yellow plain shape"]
    encoder = Encoder("builtin", device="cpu")
    classes = TextEncoder(encoder).classes([*[(label,) for label in labels], (BACKGROUND,)])
    totals = {name: np.zeros((5, 5), dtype=np.int64) for name in ("plain", "shape")}
    borders: dict[str, list[float]] = {"plain": [], "shape": []}
    for number in range(6):
        drawn = annotation_scene(np.random.default_rng((5, number)), labels, number=number, size=(240, 320), unit=140)
        truth = (index_truth(drawn, labels).astype(np.int64) - 1) % 5  # the last is the background
        features = encoder.embed_images([drawn.image])[0].features
        logits = zero_shot_logits(features, classes, scale=encoder.logit_scale, bias=encoder.logit_bias)
        for name, image in (("plain", None), ("shape", drawn.image)):
            found = pixel_classes(logits, (240, 320), image)[0].astype(np.int64)
            totals[name] += confusion(truth, found, 5)
            borders[name].append(boundary_f(found, truth, 5, radius=2))
    assert mean_iou(totals["shape"]) > mean_iou(totals["plain"]) + 0.03
    gains = np.array(borders["shape"]) - np.array(borders["plain"])
    assert gains.mean() > 0.15
    assert gains.min() > -0.05
