"""Graphs: affinities, eigenvectors and propagation are what dense linear algebra says they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from worker.segmentation.outlines.graph import (
    conjugate_gradients,
    dense_affinity,
    gap_aware_count,
    lattice,
    leading_eigenvectors,
    normalise,
    paper_affinity,
)
from worker.segmentation.outlines.spectral import _spectrum

pytestmark = pytest.mark.usefixtures("one_thread")


def picture(height: int, width: int, *, seed: int = 0) -> Tensor:
    """Blobs of colour with a little noise, (3, h, w) in Lab's range."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 40 * torch.randn(1, 3, 4, 5, generator=generator)
    blobs = torch.nn.functional.interpolate(coarse, size=(height, width), mode="nearest")[0]
    return blobs + torch.randn(3, height, width, generator=generator)


def laplacian_matrix(image: Tensor, **options: float) -> Tensor:
    """(D - W) written out pixel by pixel, in float64: what `Lattice.laplacian` must equal."""
    _, height, width = image.shape
    values = image.double()
    pairs = []
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
                if y + dy < height and 0 <= x + dx < width:
                    square = float(((values[:, y, x] - values[:, y + dy, x + dx]) ** 2).sum())
                    pairs.append((y * width + x, (y + dy) * width + x + dx, square, (dy * dy + dx * dx) ** 0.5))
    mean = sum(square for _, _, square, _ in pairs) / len(pairs) + 1e-6
    matrix = torch.zeros(height * width, height * width, dtype=torch.float64)
    for one, other, square, length in pairs:
        weight = (np.exp(-options.get("contrast", 8.0) * square / mean) + options.get("floor", 1e-4)) / length
        matrix[one, other] -= weight
        matrix[other, one] -= weight
        matrix[one, one] += weight
        matrix[other, other] += weight
    return matrix


@pytest.mark.parametrize("size", [(2, 2), (2, 9), (9, 2), (6, 7), (11, 5)], ids=str)
def test_the_lattice_is_the_laplacian_written_out(size: tuple[int, int]) -> None:
    image = picture(*size)
    values = torch.randn(3, size[0] * size[1], generator=torch.Generator().manual_seed(1))
    graph = lattice(image)
    expected = values.double() @ laplacian_matrix(image)
    torch.testing.assert_close(graph.laplacian(values).double(), expected, rtol=1e-4, atol=1e-4)
    assert graph.laplacian(torch.ones(1, values.shape[1])).abs().max() < 1e-5


def test_a_batch_of_lattices_is_what_its_images_are_one_by_one() -> None:
    images = torch.stack([picture(6, 7, seed=seed) for seed in range(3)])
    values = torch.randn(3, 2, 42, generator=torch.Generator().manual_seed(2))
    together = lattice(images).laplacian(values)
    for image, rows, found in zip(images, values, together, strict=True):
        torch.testing.assert_close(found, lattice(image).laplacian(rows))


@pytest.mark.parametrize("trust", [1.0, 0.1, 0.01])
def test_propagation_is_the_direct_solve(trust: float) -> None:
    image, count = picture(9, 12), 9 * 12
    graph = lattice(image)
    evidence = torch.rand(4, count, generator=torch.Generator().manual_seed(3))
    sure = torch.rand(count, generator=torch.Generator().manual_seed(4)) + 0.1
    matrix = laplacian_matrix(image) + trust * torch.diag(sure.double())
    expected = torch.linalg.solve(matrix, (trust * sure * evidence).double().T).T
    found = conjugate_gradients(
        lambda x: graph.laplacian(x) + trust * sure * x,
        trust * sure * evidence, evidence, graph.degree + trust * sure, iterations=400, tolerance=1e-6,
    )  # fmt: skip
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-4)


def test_a_solved_system_stays_solved() -> None:
    diagonal = torch.arange(1.0, 6.0)
    right = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    found = conjugate_gradients(lambda x: diagonal * x, right, right / diagonal, diagonal, iterations=5)
    torch.testing.assert_close(found, right / diagonal)


def test_a_good_start_saves_iterations() -> None:
    graph = lattice(picture(12, 12))
    right = torch.rand(2, 144, generator=torch.Generator().manual_seed(5))

    def operator(x: Tensor) -> Tensor:
        return graph.laplacian(x) + 0.05 * x

    def solve(start: Tensor, iterations: int) -> Tensor:
        return conjugate_gradients(operator, right, start, graph.degree + 0.05, iterations=iterations)

    exact = solve(torch.zeros_like(right), 600)
    cold, warm = solve(torch.zeros_like(right), 8), solve(exact + 0.01, 8)
    assert (warm - exact).norm() < 0.1 * (cold - exact).norm()


@pytest.mark.parametrize("count", [1, 4, 12])
def test_leading_eigenvectors_are_those_of_eigh(count: int) -> None:
    matrix, _ = normalise(dense_affinity(picture(12, 15), colour_scale=40.0))
    values, vectors = torch.linalg.eigh(matrix.double())
    found = leading_eigenvectors(matrix, count, sweeps=6)
    torch.testing.assert_close(found.values.double(), values.flip(0)[:count], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(count), rtol=0, atol=1e-4)
    inside = vectors.flip(1)[:, : count + 2].T @ found.vectors.double()  # two to spare: near-equal ones may turn
    assert inside.square().sum(dim=0).min() > 0.999


def test_negative_eigenvalues_are_not_taken_for_leading_ones() -> None:
    basis = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(6))).Q
    values = torch.linspace(-1, 0.5, 40)
    values[-1] = 0.9
    found = leading_eigenvectors(basis @ torch.diag(values) @ basis.T, 3, sweeps=8)
    torch.testing.assert_close(found.values, values.flip(0)[:3], rtol=0, atol=1e-3)


def test_a_batch_of_spectra_is_what_its_matrices_are_one_by_one() -> None:
    pictures = [picture(8, 9, seed=seed) for seed in range(3)]
    matrices = torch.stack([normalise(dense_affinity(image, colour_scale=40.0))[0] for image in pictures])
    together = leading_eigenvectors(matrices, 3, sweeps=6)
    for number, matrix in enumerate(matrices):
        alone = leading_eigenvectors(matrix, 3, sweeps=6)
        torch.testing.assert_close(together.values[number], alone.values, rtol=0, atol=1e-5)
        torch.testing.assert_close(together.vectors[number], alone.vectors, rtol=0, atol=1e-2)


def test_eigenvectors_come_out_the_same_each_time_with_the_smaller_side_positive() -> None:
    image = picture(10, 10)
    image[:, :3, :3] += 100  # a small corner of its own
    matrix, root = normalise(dense_affinity(image, colour_scale=40.0))
    first, again = leading_eigenvectors(matrix, 4), leading_eigenvectors(matrix, 4)
    assert torch.equal(first.vectors, again.vectors)
    corner = (first.vectors / root[:, None])[:, 1:].reshape(10, 10, -1)[:3, :3].mean(dim=(0, 1))
    rest = (first.vectors / root[:, None])[:, 1:].reshape(10, 10, -1)[3:, 3:].mean(dim=(0, 1))
    best = int((corner - rest).abs().argmax())
    assert corner[best] > 0 > rest[best]


def test_a_warm_start_needs_fewer_sweeps() -> None:
    matrix, _ = normalise(dense_affinity(picture(14, 14), colour_scale=40.0))
    exact = torch.linalg.eigvalsh(matrix.double()).flip(0)[:6]
    known = leading_eigenvectors(matrix, 6, sweeps=6)
    cold = leading_eigenvectors(matrix, 6, sweeps=1, degree=1).values.double() - exact
    warm = leading_eigenvectors(matrix, 6, sweeps=1, degree=1, start=known.vectors).values.double() - exact
    assert warm.abs().max() < 0.1 * cold.abs().max()


def test_more_eigenvectors_than_places_are_not_asked_for() -> None:
    matrix, _ = normalise(dense_affinity(picture(2, 2), colour_scale=40.0))
    assert leading_eigenvectors(matrix, 9).vectors.shape == (4, 4)


@pytest.mark.parametrize(
    ("values", "least", "kept"),
    [([1.0, 0.9, 0.2, 0.1], 1, 2), ([1.0, 0.5, 0.45, 0.4, 0.1], 2, 4), ([1.0, 0.5], 2, 2), ([1.0], 3, 1)],
)
def test_eigenvectors_are_cut_at_the_widest_gap(values: list[float], least: int, kept: int) -> None:
    assert gap_aware_count(torch.tensor(values), least=least) == kept


def test_features_say_who_belongs_together_where_colours_do_not() -> None:
    grey = torch.zeros(3, 4, 6)
    features = torch.zeros(4, 6, 2)
    features[:, :3, 0] = features[:, 3:, 1] = 1.0
    affinity = dense_affinity(grey, features=features).reshape(4, 6, 4, 6)
    assert affinity[0, 2, 0, 3] == 0 < affinity[0, 2, 0, 1]
    torch.testing.assert_close(affinity.reshape(24, 24), affinity.reshape(24, 24).T)


def test_the_papers_affinity_is_its_formula() -> None:
    generator = torch.Generator().manual_seed(7)
    keys, colour = torch.randn(5, 6, 8, generator=generator), torch.rand(3, 5, 6, generator=generator)
    unit = torch.nn.functional.normalize(keys.reshape(30, 8), dim=-1)
    similar = (unit @ unit.T).clamp_min(0)
    plain = paper_affinity(keys, colour, colour_weight=0)
    torch.testing.assert_close(plain, similar / similar.max())
    added = paper_affinity(keys, colour) - plain
    torch.testing.assert_close(added, added.T)
    counts = (added / 10).round()
    torch.testing.assert_close(added / 10, counts, rtol=0, atol=1e-4)
    assert counts.sum() == 2 * 30 * (20 + 10)  # each place names its 20 and 10 nearest, and is named back


@pytest.mark.parametrize("features", [None, torch.ones(4, 5, 8)], ids=["colour alone", "with features"])
def test_the_pictures_graph_is_made_on_the_device_asked_for(features: Tensor | None) -> None:
    """The meta device refuses to meet tensors of another one, as a GPU does."""
    meta = torch.device("meta")
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    spectrum, root, grid = _spectrum(image, features, (6, 8), 5, meta)
    assert spectrum.vectors.device == root.device == meta
    assert spectrum.vectors.shape == (grid[0] * grid[1], 5)
