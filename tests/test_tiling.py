"""Large images in windows: placed to cover, merged without a trace where they agree, harmonised where they do not."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models import noise
from worker.segmentation.encoders import tiling
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.tiling import Tiling, average_windows, cover, cut_windows, harmonise, plan_tiling

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """The builtin model entering at 64 pixels, 8 patches, so that small pictures are large ones to it."""
    return Encoder("builtin", device="cpu", short_side=64, windows=9)


@pytest.mark.parametrize("most", [4, 6, 9, 16, 64])
@pytest.mark.parametrize("size", [(448, 448), (3000, 4000), (4000, 1000), (10_000, 10_000), (700, 560)], ids=str)
def test_windows_cover_everything_and_overlap(size: tuple[int, int], most: int) -> None:
    found = plan_tiling(size, 224, 16, max_windows=most)
    assert len(found.corners) <= most
    covered = np.zeros(found.grid, dtype=int)
    height, width = found.window
    for top, left in found.corners:
        assert top + height <= found.grid[0]
        assert left + width <= found.grid[1]
        covered[top : top + height, left : left + width] += 1
    assert covered.min() >= 1
    for side, starts in ((height, sorted({top for top, _ in found.corners})),
                         (width, sorted({left for _, left in found.corners}))):  # fmt: skip
        assert all(before + side - after >= side // 5 for before, after in pairwise(starts))
    assert found.grid[0] * 16 <= size[0] + 16  # never finer than the image itself
    assert found.grid[0] / found.grid[1] == pytest.approx(size[0] / size[1], rel=0.06)


@pytest.mark.parametrize(
    ("size", "most"), [((3000, 4000), 0), ((3000, 4000), 1), ((3000, 3000), 3), ((260, 260), 16), ((20, 3000), 16)]
)
def test_one_pass_where_there_is_nothing_to_gain(size: tuple[int, int], most: int) -> None:
    found = plan_tiling(size, 224, 16, max_windows=most)
    assert found == Tiling.single_pass(found.grid)
    assert min(found.grid) == 14


def test_more_windows_see_finer() -> None:
    areas = [np.prod(cover((14, 14), (4000, 4000), 16, max_windows=most).grid) for most in (4, 9, 16, 25)]
    assert areas == sorted(set(areas))


def test_windows_that_agree_merge_into_the_whole() -> None:
    """Where features depend on the place alone, as if no window had ever been cut."""
    place = cover((8, 8), (4000, 5000), 16, max_windows=12)
    whole = torch.randn(*place.grid, 5, generator=torch.Generator().manual_seed(0))
    parts = [whole[top : top + 8, left : left + 8] for top, left in place.corners]
    torch.testing.assert_close(average_windows(parts, place), whole)


THREE = Tiling((8, 20), (8, 8), ((0, 0), (0, 6), (0, 12)))


def tinted(tint: float) -> tuple[Tensor, list[Tensor]]:
    """Two things, top and bottom, and three windows on them, each with a tint of its own, as context gives it."""
    generator = torch.Generator().manual_seed(1)
    kinds = F.normalize(torch.randn(2, 16, generator=generator), dim=-1)
    whole = kinds[(torch.arange(8) >= 4).long()][:, None].expand(8, 20, 16)
    parts = [F.normalize(whole[:, left : left + 8] + tint * torch.randn(16, generator=generator), dim=-1)
             for _, left in THREE.corners]  # fmt: skip
    return whole, parts


def steps(features: Tensor) -> float:
    """The largest step from a patch to its right neighbour; there is none in the things themselves."""
    unit = F.normalize(features, dim=-1)
    return float((unit[:, 1:] - unit[:, :-1]).norm(dim=-1).amax())


def test_disagreement_is_what_two_windows_differ_by() -> None:
    """By hand, patch by patch, weighted by how much both count."""
    _, parts = tinted(0.1)
    fade = torch.sin((torch.tensor([0.5, 1.5]) / 2).clamp_max(1) * torch.pi / 2).square()
    both, apart = 0.0, 0.0
    for one, other in pairwise(parts):
        for row, column in product(range(8), range(2)):
            down = float(fade[row] if row < 2 else fade[7 - row] if row > 5 else 1.0)
            here, there = float(fade[1 - column]) * down, float(fade[column]) * down
            share = here * there / (here + there) ** 2
            both += share
            apart += share * float(1 - one[row, 6 + column] @ other[row, column])
    found = tiling.disagreement(average_windows(parts, THREE), THREE)
    assert found == pytest.approx(apart / both, rel=1e-3)


def test_windows_that_agree_are_left_alone() -> None:
    whole, parts = tinted(0.0)
    merged = average_windows(parts, THREE)
    torch.testing.assert_close(harmonise(merged, merged, THREE), whole, rtol=0, atol=1e-4)


def test_one_feature_everywhere_stays_as_it_is() -> None:
    flat = torch.full((8, 20, 6), 0.3)  # shorter than unit length, as if windows disagreed
    torch.testing.assert_close(harmonise(flat, flat, THREE), flat, rtol=0, atol=1e-5)


def test_patches_that_nothing_joins_keep_their_features() -> None:
    """A guide that tells nothing: the graph has no edge of any weight."""
    features = 0.1 * torch.randn(8, 20, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(harmonise(features, torch.zeros(8, 20, 16), THREE), features)


@pytest.mark.parametrize("tint", [0.05, 0.1])
def test_the_graph_lowers_the_seams_of_windows_that_disagree(tint: float) -> None:
    whole, parts = tinted(tint)
    cut = whole.clone()
    for part, (_, left) in zip(parts, THREE.corners, strict=True):
        cut[:, left : left + 8] = part  # as windows without overlap
    merged = average_windows(parts, THREE)
    found = harmonise(merged, merged, THREE)
    assert steps(merged) < 0.8 * steps(cut)
    assert steps(found) < 0.9 * steps(merged)
    kinds = whole[0, 0], whole[-1, 0]
    apart = (found[:4].mean(dim=(0, 1)) - found[4:].mean(dim=(0, 1))).norm()
    assert apart > 0.85 * (kinds[0] - kinds[1]).norm()  # and the two things stay two


def test_a_tower_that_knows_what_belongs_together_lowers_them_more() -> None:
    whole, parts = tinted(0.1)
    merged = average_windows(parts, THREE)
    assert steps(harmonise(merged, whole, THREE)) < 0.5 * steps(merged)


def test_landmarks_stand_for_all_on_large_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise on three things is averaged away among their likes, were they found among all patches or among a few."""
    generator = torch.Generator().manual_seed(2)
    halves = Tiling((30, 40), (30, 24), ((0, 0), (0, 16)))
    kinds = F.normalize(torch.randn(3, 12, generator=generator), dim=-1)
    whole = kinds[(torch.arange(30) // 10)[:, None].expand(30, 40)]
    parts = [F.normalize(whole[:, left : left + 24] + 0.2 * torch.randn(30, 24, 12, generator=generator), dim=-1)
             for left in (0, 16)]  # fmt: skip
    merged = average_windows(parts, halves)
    before = float((F.normalize(merged, dim=-1) - whole).norm(dim=-1).mean())
    for landmarks in (4096, 60):
        monkeypatch.setattr(tiling, "_LANDMARKS", landmarks)
        found = F.normalize(harmonise(merged, whole, halves), dim=-1)
        assert float((found - whole).norm(dim=-1).mean()) < 0.6 * before


def test_a_picture_of_the_entry_size_is_not_touched_by_windows(encoder: Encoder) -> None:
    plain = Encoder("builtin", device="cpu", short_side=64)
    image = noise(64, 90)
    assert torch.equal(encoder.embed_images([image])[0].features, plain.embed_images([image])[0].features)


def test_large_and_small_pictures_share_a_batch(encoder: Encoder) -> None:
    """Windows of large pictures enter with small pictures of their size; each gets its own."""
    images = [noise(300, 300), noise(64, 64), noise(150, 400), noise(64, 100)]
    together = encoder.embed_images(images)
    for image, found in zip(images, together, strict=True):
        alone = encoder.embed_images([image])[0]
        assert found.size == image.shape[:2]
        torch.testing.assert_close(found.features, alone.features, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.features.norm(dim=-1), torch.ones(found.features.shape[:2]))
    assert min(together[0].features.shape[:2]) > 8
    assert together[1].features.shape[:2] == (8, 8)


def test_windows_are_the_pictures_own_pixels(encoder: Encoder) -> None:
    image = noise(300, 400)
    place = plan_tiling((300, 400), 64, encoder.patch, max_windows=9)
    whole = cut_windows([(image, Tiling.single_pass(place.grid))], encoder.patch)[0]
    for view, (top, left) in zip(cut_windows([(image, place)], encoder.patch), place.corners, strict=True):
        rows, columns = (slice(start * 8, (start + 8) * 8) for start in (top, left))
        assert torch.equal(view, whole[:, rows, columns])


def test_a_hundred_megapixels_cost_no_more_memory_than_their_windows(encoder: Encoder) -> None:
    """Beside the picture itself, which is not copied."""
    image = np.zeros((10_000, 10_000, 3), dtype=np.uint8)
    image[2000:5000, 2000:5000] = (215, 40, 40)
    tracemalloc.start()
    found = encoder.embed_images([image])[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert min(found.features.shape[:2]) > 16
    assert peak < 30_000_000


@pytest.fixture(scope="module")
def stitching() -> Encoder:
    """The builtin ViT, whose windows of 8 patches are read at once."""
    return Encoder("builtin-vit", device="cpu", short_side=64, windows=16, readout="naclip-stitched")


def test_stitched_windows_differ_from_single_ones_and_have_no_seam(stitching: Encoder) -> None:
    image = noise(300, 300)
    place = plan_tiling((300, 300), 64, stitching.patch, max_windows=16)
    assert len(place.corners) > 8  # more than share a forward
    alone = Encoder("builtin-vit", device="cpu", short_side=64, windows=16, readout="naclip", harmonised=False)
    apart, stitched = (one.embed_images([image])[0].features for one in (alone, stitching))
    assert apart.shape == stitched.shape
    assert not torch.allclose(apart, stitched, atol=1e-2)
    windows, _ = stitching._embed_windows([(image, place)], None)
    assert tiling.disagreement(average_windows(windows, place), place) < 1e-5
    separate, _ = alone._embed_windows([(image, place)], None)
    assert tiling.disagreement(average_windows(separate, place), place) > 1e-3


def test_stitched_images_of_a_batch_do_not_see_one_another(stitching: Encoder) -> None:
    images = [noise(300, 300), noise(64, 64), noise(310, 300), noise(64, 64)[::-1].copy()]
    for image, found in zip(images, stitching.embed_images(images), strict=True):
        alone = stitching.embed_images([image])[0]
        torch.testing.assert_close(found.features, alone.features, rtol=0, atol=1e-4)


def test_a_picture_in_one_pass_is_read_as_without_stitching(stitching: Encoder) -> None:
    plain = Encoder("builtin-vit", device="cpu", short_side=64, readout="naclip")
    image = noise(64, 90)
    assert torch.equal(stitching.embed_images([image])[0].features, plain.embed_images([image])[0].features)
