"""Graphs over an image: affinity, normalised Laplacian, leading eigenvectors, linear systems along edges.

Tensor operations only, so one code path serves CPU and GPU. Leading dimensions are batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Operator = Callable[[Tensor], Tensor]

_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # half of the eight; the other half is their mirror
_SPARE = 8  # extra columns of the block, so that the last wanted vectors converge as fast as the first
_TINY = 1e-20


@dataclass(frozen=True)
class Lattice:
    """Pixels joined to their eight neighbours.

    Attributes:
        weights: four (..., h * w - shift) float32: of the edge from pixel i to pixel i + shift; 0 across borders.
        shifts: distance of the two ends of each kind of edge in row-major order.
        degree: (..., h * w) float32 sum of the weights at each pixel.
    """

    weights: tuple[Tensor, ...]
    shifts: tuple[int, ...]
    degree: Tensor

    def laplacian(self, values: Tensor) -> Tensor:
        """(D - W) x for values (..., C, h * w)."""
        result = values * self.degree[..., None, :]
        for shift, weight in zip(self.shifts, self.weights, strict=True):
            edge = weight[..., None, :]
            result[..., :-shift].addcmul_(edge, values[..., shift:], value=-1)
            result[..., shift:].addcmul_(edge, values[..., :-shift], value=-1)
        return result


def lattice(image: Tensor, *, contrast: float = 8.0, floor: float = 1e-4) -> Lattice:
    """Join neighbours by how alike they are: exp(-contrast d^2 / mean d^2) + floor, over the distance of the two.

    Args:
        image: (..., D, h, w) float32, h and w at least 2: colours (Lab) or any dense features.
        contrast: how fast the weight falls; relative to the image's own mean difference, so no unit.
        floor: least weight, which keeps the graph in one piece.
    """
    height, width = image.shape[-2:]
    flat = image.flatten(-2)
    column = torch.arange(width, device=image.device).repeat(height)
    squares, inside = [], []
    for rows, columns in _NEIGHBOURS:
        shift = rows * width + columns
        squares.append((flat[..., shift:] - flat[..., :-shift]).square_().sum(dim=-2))
        there = column[:-shift] + columns
        inside.append(((there >= 0) & (there < width)).to(flat.dtype))
    count = sum(float(mask.sum()) for mask in inside)
    total = torch.stack([(square * mask).sum(dim=-1) for square, mask in zip(squares, inside, strict=True)]).sum(dim=0)
    falloff = (-contrast / (total / count + 1e-6)).unsqueeze(-1)
    weights = tuple(
        (square.mul_(falloff).exp_() + floor) * (mask / math.hypot(rows, columns))
        for square, mask, (rows, columns) in zip(squares, inside, _NEIGHBOURS, strict=True)
    )
    shifts = tuple(rows * width + columns for rows, columns in _NEIGHBOURS)
    degree = torch.zeros_like(flat[..., 0, :])
    for shift, weight in zip(shifts, weights, strict=True):
        degree[..., :-shift] += weight
        degree[..., shift:] += weight
    return Lattice(weights, shifts, degree)


def conjugate_gradients(
    operator: Operator, right: Tensor, start: Tensor, diagonal: Tensor, *, iterations: int, tolerance: float = 0.0
) -> Tensor:
    """Solve operator(x) = right for every row at once, without ever forming a matrix (Hestenes and Stiefel, 1952).

    Args:
        operator: linear, symmetric and positive on the last dimension, and the same for all rows.
        right: (..., N) float.
        start: (..., N) first guess; the better, the fewer iterations.
        diagonal: broadcastable to right, positive: the operator's diagonal or near it (Jacobi preconditioner).
        iterations: how many at most.
        tolerance: stop when every row's residual is below this part of its right-hand side; 0 = never check.
    """
    inverse = 1 / diagonal
    solution = start.clone()
    residual = right - operator(solution)
    direction = residual * inverse
    energy = torch.linalg.vecdot(residual, direction).unsqueeze(-1)
    enough = tolerance**2 * right.square().sum(dim=-1) if tolerance else None
    for _ in range(iterations):
        if enough is not None and bool((residual.square().sum(dim=-1) <= enough).all()):
            break
        image = operator(direction)
        step = energy / (torch.linalg.vecdot(direction, image).unsqueeze(-1) + _TINY)
        solution.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        conditioned = residual * inverse
        lower = torch.linalg.vecdot(residual, conditioned).unsqueeze(-1)
        direction.mul_(lower / (energy + _TINY)).add_(conditioned)
        energy = lower
    return solution


def gaussian_affinity(points: Tensor) -> Tensor:
    """exp(-|z_i - z_j|^2 / 2) of points (..., N, D), already in units of their scales: (..., N, N) float32."""
    square = points.square().sum(dim=-1)
    exponent = torch.matmul(points, points.transpose(-1, -2)).sub_(square[..., None] / 2).sub_(square[..., None, :] / 2)
    return exponent.clamp_max_(0.0).exp_()


def dense_affinity(
    colour: Tensor, *, features: Tensor | None = None, colour_scale: float = 8.0, position_scale: float = 0.25
) -> Tensor:
    """Affinity of every two places of a small grid, by colour, position and features.

    Args:
        colour: (..., 3, h, w) float32 Lab (L in 0..100).
        features: (..., h, w, D) float32 of any length, or None: their cosines, cubed, multiply the affinity (the
            exponent of Wysoczanska et al., CLIP-DINOiser, 2024, and of LPOSS, Stojnic et al., 2025).
        colour_scale: Lab distance at which affinity has fallen to exp(-1/2).
        position_scale: the same for the distance as a part of the long side.

    Returns:
        (..., h * w, h * w) float32 in [0, 1], symmetric.
    """
    height, width = colour.shape[-2:]
    points = torch.cat([colour / colour_scale, _positions(colour) / position_scale], dim=-3)
    affinity = gaussian_affinity(points.flatten(-2).transpose(-1, -2))
    if features is not None:
        unit = F.normalize(features.float(), dim=-1).reshape(*features.shape[:-3], height * width, -1)
        affinity = affinity * torch.matmul(unit, unit.transpose(-1, -2)).clamp_min_(0.0).pow_(3)
    return affinity


def paper_affinity(keys: Tensor, colour: Tensor, *, colour_weight: float = 10.0) -> Tensor:
    """W_feat + lambda W_knn of Deep Spectral Methods (Melas-Kyriazi et al., CVPR 2022), also used by SAZS.

    Args:
        keys: (h, w, D) float32, keys of the last block of a self-supervised ViT (DINO), all heads side by side.
        colour: (3, h, w) float32 RGB in [0, 1].
        colour_weight: lambda; 0 leaves the colours out, as the released command line does.

    Returns:
        (h * w, h * w) float32, symmetric.
    """
    unit = F.normalize(keys.float().flatten(0, 1), dim=-1)
    affinity = (unit @ unit.T).clamp_min_(0.0)
    affinity = affinity / affinity.max()
    if colour_weight == 0:
        return affinity
    position = _positions(colour) * max(colour.shape[-2:]) / torch.tensor(colour.shape[-2:]).view(2, 1, 1).to(colour)
    nearest = torch.zeros_like(affinity)
    for count, weight in ((20, 2.0), (10, 0.1)):  # the two searches of KNN matting that the released code makes
        points = torch.cat([colour, weight * position]).flatten(1).T
        found = torch.cdist(points, points).topk(min(count, len(points)), largest=False).indices
        nearest.scatter_add_(1, found, torch.ones_like(found, dtype=nearest.dtype))
    return affinity + colour_weight * (nearest + nearest.T)


def normalise(affinity: Tensor) -> tuple[Tensor, Tensor]:
    """D^-1/2 W D^-1/2, whose largest eigenvectors are the normalised Laplacian's smallest, and D^1/2 (..., N)."""
    root = affinity.sum(dim=-1).clamp_min(1e-12).sqrt()
    return affinity / (root[..., :, None] * root[..., None, :]), root


@dataclass(frozen=True)
class Spectrum:
    """Leading eigenpairs, largest first.

    Attributes:
        values: (..., K) float32.
        vectors: (..., N, K) float32, orthonormal; of each the smaller side is positive.
    """

    values: Tensor
    vectors: Tensor


def leading_eigenvectors(
    matrix: Tensor, count: int, *, start: Tensor | None = None, sweeps: int = 3, degree: int = 6
) -> Spectrum:
    """Largest eigenpairs of symmetric matrices by subspace iteration with a Chebyshev filter: GEMMs of (N, N) x (N, K).

    The filter of Zhou and Saad (2007) damps all that lies below the block's smallest Ritz value, negative eigenvalues
    too. The result is deterministic: no random start, fixed signs.

    Args:
        matrix: (..., N, N) float, symmetric, eigenvalues in [-1, 1].
        count: K, how many; fewer come back when N is smaller.
        start: (..., N, at least K) first guess, say the vectors of a similar image; None = a fixed one of slow waves.
        sweeps: how often to filter and orthogonalise.
        degree: of the filter; products with the matrix per sweep.
    """
    size = matrix.shape[-1]
    count = min(count, size)
    columns = min(size, count + _SPARE)
    block = _waves(size, columns, matrix)
    if start is not None:
        known = min(start.shape[-1], columns)
        block = torch.cat([start[..., :known], block.expand(*matrix.shape[:-2], *block.shape)[..., known:]], dim=-1)
    values, block = _rayleigh_ritz(matrix, _orthonormal(matrix @ block))
    for _ in range(sweeps):
        block = _orthonormal(_chebyshev(matrix, block, values[..., -1], degree))
        values, block = _rayleigh_ritz(matrix, block)
    return Spectrum(values[..., :count], _signed(block[..., :count]))


def gap_aware_count(values: Tensor, *, least: int) -> int:
    """How many of (K,) falling eigenvalues to keep: cut at the widest gap from `least` on.

    Inside a cluster of close eigenvalues single vectors are arbitrary; their span is not, so cut between clusters.
    """
    if len(values) <= least:
        return len(values)
    gaps = values[least - 1 : -1] - values[least:]
    return least + int(gaps.argmax())


def _rayleigh_ritz(matrix: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
    small = block.transpose(-1, -2) @ (matrix @ block)
    values, mix = torch.linalg.eigh((small + small.transpose(-1, -2)) / 2)
    return values.flip(-1), block @ mix.flip(-1)


def _chebyshev(matrix: Tensor, block: Tensor, bound: Tensor, degree: int) -> Tensor:
    """T_degree of the matrix mapped so that [-1, bound] goes to [-1, 1]: beyond it the polynomial grows fastest."""
    half = ((bound + 1) / 2).clamp_min(1e-3)[..., None, None]
    centre = bound[..., None, None] - half
    before, now = block, (matrix @ block - centre * block) / half
    for _ in range(degree - 1):
        # Norms are kept in bounds by the largest eigenvalue being 1: T grows by a factor that float32 holds.
        before, now = now, 2 * (matrix @ now - centre * now) / half - before
    return now


def _orthonormal(block: Tensor) -> Tensor:
    block = block / block.norm(dim=-2, keepdim=True).clamp_min(_TINY)
    basis: Tensor = torch.linalg.qr(block).Q
    return basis


def _signed(vectors: Tensor) -> Tensor:
    """The sign rule of Deep Spectral Methods made smooth: the heavier tail, which is the smaller side, is positive."""
    skew = vectors.pow(3).sum(dim=-2, keepdim=True)
    total = vectors.sum(dim=-2, keepdim=True)
    leaning = torch.where(skew.abs() > 1e-6 * vectors.abs().pow(3).sum(dim=-2, keepdim=True), skew, total)
    return torch.where(leaning < 0, -vectors, vectors)


def _waves(size: int, columns: int, like: Tensor) -> Tensor:
    """(size, columns): cosines that grow faster, the spectrum of a path graph."""
    place = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) * (math.pi / size)
    return torch.cos(place[:, None] * torch.arange(columns, device=like.device, dtype=like.dtype))


def _positions(image: Tensor) -> Tensor:
    """(..., 2, h, w): row and column as parts of the long side."""
    height, width = image.shape[-2:]
    rows = torch.arange(height, device=image.device, dtype=torch.float32)[:, None].expand(height, width)
    columns = torch.arange(width, device=image.device, dtype=torch.float32)[None].expand(height, width)
    return (torch.stack([rows, columns]) / max(height, width)).expand(*image.shape[:-3], 2, height, width)
