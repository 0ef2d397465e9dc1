"""Eigenvectors of an image's graph Laplacian: a basis of smooth shapes, and class-agnostic segments.

After Deep Spectral Methods (Melas-Kyriazi et al., CVPR 2022) and SAZS (Liu et al., CVPR 2023), without any use of the
ground truth.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.segmentation.outlines.graph import (
    Spectrum,
    dense_affinity,
    gap_aware_count,
    leading_eigenvectors,
    normalise,
    paper_affinity,
)
from worker.segmentation.outlines.guided import fit_local_lines
from worker.segmentation.pictures import lab_picture, rgb_picture

_NODES = 600  # of the dense graph; its cost grows with the square
_ROUGHNESS_COST = 0.1  # how much more a vector of eigenvalue 0 must explain than one of eigenvalue 1
_KMEANS_ROUNDS = 12
_RADIUS, _SMOOTHNESS = 2, 1e-3


def low_pass(shares: Tensor, image: NDArray[np.uint8], features: Tensor | None, *, count: int) -> Tensor:
    """Fit class shares (C, h, w) by the leading eigenvectors of the image's graph: ridge regression, no selection.

    Args:
        image: (H, W, 3) uint8 RGB.
        features: (h', w', D) float dense features that refine the graph, or None.
        count: eigenvectors at most; cut at the widest eigengap of the upper third.
    """
    _, height, width = shares.shape
    spectrum, root, grid = _spectrum(image, features, (height, width), count, shares.device)
    kept = gap_aware_count(spectrum.values, least=max(1, 2 * count // 3))
    values = spectrum.values[:kept]
    waves = (spectrum.vectors[:, :kept] / root[:, None]).T.reshape(1, kept, *grid)  # of the random walk: smooth
    basis = F.interpolate(waves, size=(height, width), mode="bilinear", align_corners=False)[0].flatten(1).T
    basis = basis / basis.norm(dim=0)
    gram = basis.T @ basis + torch.diag(_ROUGHNESS_COST * (1 - values) + 1e-4)
    weights = torch.linalg.solve(gram, basis.T @ shares.flatten(1).T)
    fitted: Tensor = basis @ weights
    return fitted.T.reshape(shares.shape)


def eigen_masks(
    image: NDArray[np.uint8], *, count: int = 5, keys: Tensor | None = None, colour_weight: float = 10.0
) -> NDArray[np.bool_]:
    """Threshold the first eigenvectors at zero, as SAZS does: mask proposals without a ranking.

    Args:
        image: (H, W, 3) uint8 RGB.
        count: how many; the constant vector is left out.
        keys: (h, w, D) float keys of a self-supervised ViT: the affinity is then the paper's (features and kNN colour);
            None = colour and position.
        colour_weight: lambda of the paper's affinity.

    Returns:
        (count, H, W) bool.
    """
    if keys is None:
        spectrum, root, grid = _spectrum(
            image, None, _grid_of(image), count, torch.device("cpu"), without_constant=True
        )
    else:
        grid = (keys.shape[0], keys.shape[1])
        colour = rgb_picture(image, grid).to(keys.device)
        matrix, root = normalise(paper_affinity(keys, colour, colour_weight=colour_weight))
        spectrum = leading_eigenvectors(_without_constant(matrix, root), count)
    vectors = (spectrum.vectors / root[:, None]).T.reshape(-1, *grid)
    grown = F.interpolate(vectors[None], size=image.shape[:2], mode="bilinear", align_corners=False)[0]
    return np.asarray((grown > 0).cpu().numpy())


def eigen_segments(image: NDArray[np.uint8], features: Tensor | None = None, *, count: int = 12) -> NDArray[np.int32]:
    """Cluster an image into class-agnostic regions: k-means on the rows of the eigenvectors.

    Rows are scaled to length 1 as in Ng, Jordan and Weiss (2001); farthest points are the seeds, so the result is
    deterministic; borders follow the pixels' colours.

    Args:
        image: (H, W, 3) uint8 RGB.
        features: (h, w, D) float dense features, or None.
        count: segments at most.

    Returns:
        (H, W) int32, 0 to n - 1; every number occurs.
    """
    device = torch.device("cpu") if features is None else features.device
    spectrum, root, grid = _spectrum(image, features, _grid_of(image), count, device)
    rows = F.normalize(spectrum.vectors / root[:, None], dim=-1)
    owner = _kmeans(rows, min(count, len(rows)))
    member = F.one_hot(owner, int(owner.max()) + 1).T.float().reshape(-1, *grid)
    lines = fit_local_lines(member, rgb_picture(image, grid).to(member.device), radius=_RADIUS, smoothness=_SMOOTHNESS)
    full = lines.at(rgb_picture(image, (image.shape[0], image.shape[1])).to(member.device))
    _, found = np.unique(full.argmax(dim=0).cpu().numpy(), return_inverse=True)
    return np.asarray(found.reshape(image.shape[:2]), dtype=np.int32)


def _spectrum(
    image: NDArray[np.uint8], features: Tensor | None, size: tuple[int, int], count: int, device: torch.device, *,
    without_constant: bool = False,
) -> tuple[Spectrum, Tensor, tuple[int, int]]:
    """Eigenvectors of the image on a grid like `size` but with a bounded number of nodes, D^1/2, and that grid."""
    shrink = min(1.0, (_NODES / (size[0] * size[1])) ** 0.5)
    grid = (max(2, round(size[0] * shrink)), max(2, round(size[1] * shrink)))
    colour = lab_picture(image, grid).to(device)
    if features is not None:
        channels = features.to(device).float().permute(2, 0, 1)[None]
        features = F.interpolate(channels, size=grid, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    matrix, root = normalise(dense_affinity(colour, features=features))
    if without_constant:
        matrix = _without_constant(matrix, root)
    return leading_eigenvectors(matrix, count, sweeps=2), root, grid


def _without_constant(matrix: Tensor, root: Tensor) -> Tensor:
    """The (N, N) matrix with eigenvalue 0 for the constant vector, which is D^1/2, (N,). Of a graph in two parts that
    share no edge, another vector has its eigenvalue 1, too: which of both comes first would depend on the machine.
    """
    constant = root / root.norm()
    left: Tensor = matrix - constant[:, None] * constant[None, :]
    return left


def _grid_of(image: NDArray[np.uint8]) -> tuple[int, int]:
    height, width = image.shape[:2]
    cell = (height * width / _NODES) ** 0.5
    return max(2, round(height / cell)), max(2, round(width / cell))


def _kmeans(rows: Tensor, count: int) -> Tensor:
    """(N,) int64 cluster of each row; seeds are the row nearest the mean, then the farthest rows in turn."""
    seeds = [int((rows - rows.mean(dim=0)).square().sum(dim=1).argmin())]
    distance = (rows - rows[seeds[0]]).square().sum(dim=1)
    while len(seeds) < count and float(distance.max()) > 1e-9:
        seeds.append(int(distance.argmax()))
        distance = torch.minimum(distance, (rows - rows[seeds[-1]]).square().sum(dim=1))
    centres = rows[seeds]
    owner = torch.cdist(rows, centres).argmin(dim=1)
    for _ in range(_KMEANS_ROUNDS):
        member = F.one_hot(owner, len(centres)).to(rows.dtype)
        size = member.sum(dim=0)[:, None]
        centres = torch.where(size > 0, member.T @ rows / size.clamp_min(1), centres)
        owner = torch.cdist(rows, centres).argmin(dim=1)
    return owner
