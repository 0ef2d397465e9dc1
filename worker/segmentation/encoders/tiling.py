"""How an image enters a backbone: in one pass or in overlapping windows, whose features become one grid.

A large image is covered by square windows of the size that the model takes in one pass. Their features are averaged
with weights that fade towards the borders; then patches that are alike agree on one graph over the whole grid, so that
no seam remains.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from worker.segmentation.outlines.graph import conjugate_gradients

_MAX_ASPECT = 4.0
_MIN_GAIN = 1.25  # in resolution over one pass: less is not worth several forwards
_SCALE_STEP = 0.95
_OVERLAP = 4  # neighbouring windows share one part in this many of their side
_NEIGHBOURS = 32  # most similar patches that each patch is joined to, spread evenly over all windows
_LANDMARKS = 4096  # candidates for those, spread evenly over the grid
_MAX_COSINES = 16_000_000  # held at once, 64 MB
_EDGE_POWER = 8  # of the cosines: edges between merely similar patches become weak
_SMOOTHNESS = 8.0  # weight of all neighbours against a patch's own feature, per unit of disagreement
_ITERATIONS, _TOLERANCE = 10, 1e-3


@dataclass(frozen=True)
class Tiling:
    """How an image is covered by windows.

    Attributes:
        grid: (h, w) patches of the whole image.
        window: (h, w) patches of every window.
        corners: (top, left) of each window, patches.
    """

    grid: tuple[int, int]
    window: tuple[int, int]
    corners: tuple[tuple[int, int], ...]

    @classmethod
    def single_pass(cls, grid: tuple[int, int]) -> Tiling:
        """One window over the whole image."""
        return cls(grid, grid, ((0, 0),))


def plan_tiling(size: tuple[int, int], short_side: float, patch: int, *, max_windows: int) -> Tiling:
    """Choose the grid of an image and the windows that cover it.

    Args:
        size: (H, W) of the image, pixels.
        short_side: pixels of the short side at which the image would enter in one pass.
        patch: pixels per patch.
        max_windows: most windows; 0 or 1 = one pass.
    """
    height, width = size
    short = max(1.0, short_side / patch)
    aspect = min(_MAX_ASPECT, max(height, width) / min(height, width))
    long = max(1, round(short * aspect))
    entry = (round(short), long) if height <= width else (long, round(short))
    return cover(entry, size, patch, max_windows=max_windows)


def cover(entry: tuple[int, int], size: tuple[int, int], patch: int, *, max_windows: int) -> Tiling:
    """Cover an image with square windows at the finest resolution that the number of windows allows.

    Args:
        entry: (h, w) patches at which the image would enter in one pass; windows have its short side.
        size: (H, W) of the image, pixels; the grid is never finer than these.
        patch: pixels per patch.
        max_windows: most windows.

    Returns:
        Windows that overlap by a quarter; one pass where windows would gain too little.
    """
    side = min(entry)
    scale = min(size[0] / (entry[0] * patch), size[1] / (entry[1] * patch))
    while scale >= _MIN_GAIN:
        grid = (round(entry[0] * scale), round(entry[1] * scale))
        tops, lefts = (_starts(length, side) for length in grid)
        if len(tops) * len(lefts) <= max_windows:
            return Tiling(grid, (side, side), tuple((top, left) for top in tops for left in lefts))
        scale *= _SCALE_STEP
    return Tiling.single_pass(entry)


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    overlap = side // _OVERLAP
    count = -(-(length - overlap) // (side - overlap))
    return [round(number * (length - side) / (count - 1)) for number in range(count)]


def cut_windows(images: Iterable[tuple[NDArray[np.uint8], Tiling]], patch: int) -> list[Tensor]:
    """Resize images to their grids and cut out their windows.

    Args:
        images: (H, W, 3) uint8 RGB each, with its tiling.
        patch: pixels per patch.

    Returns:
        (3, H', W') uint8 pixels of every window, image by image in the order of the corners.
    """
    windows = []
    for image, tiling in images:
        pixels = _resize(image, (tiling.grid[0] * patch, tiling.grid[1] * patch))
        height, width = tiling.window[0] * patch, tiling.window[1] * patch
        for top, left in tiling.corners:
            windows.append(pixels[:, top * patch : top * patch + height, left * patch : left * patch + width])
    return windows


def _resize(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    # Bicubic, as the models were trained; reducing_gap keeps 100-megapixel images cheap.
    small = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def merge_windows(
    features: Sequence[Tensor], affinities: Sequence[Tensor], tiling: Tiling, *, harmonised: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Merge the features of all windows of one image into one grid.

    Args:
        features: (h, w, D) float32 of unit length of each window.
        affinities: (h, w, P) float32 features of a self-supervised ViT of each window; empty without one.
        tiling: where the windows lie.
        harmonised: whether several windows are made to agree on one graph.

    Returns:
        (h, w, D) and (h, w, P) float32 of unit length of the whole grid; None in place of the latter without one.
    """
    if len(features) == 1:
        return features[0], affinities[0] if affinities else None
    affinity = F.normalize(average_windows(affinities, tiling), dim=-1) if affinities else None
    averaged = average_windows(features, tiling)
    if harmonised:
        averaged = harmonise(averaged, averaged if affinity is None else affinity, tiling)
    return F.normalize(averaged, dim=-1), affinity


def average_windows(parts: Sequence[Tensor], tiling: Tiling) -> Tensor:
    """Average the features of windows, each with weights that fall towards its border.

    Args:
        parts: (h, w, D) float32 of each window, in the order of the corners.
        tiling: where the windows lie.

    Returns:
        (h, w, D) float32 of the whole grid.
    """
    (height, width), like = tiling.window, parts[0]
    weight = _window_weight(tiling, like)[..., None]
    total = like.new_zeros(*tiling.grid, like.shape[-1])
    for part, (top, left) in zip(parts, tiling.corners, strict=True):
        total[top : top + height, left : left + width] += weight * part
    averaged: Tensor = total / _total_weight(weight, tiling)
    return averaged


def cut_grid(grid: Tensor, tiling: Tiling) -> Tensor:
    """Cut what stands on the whole grid, (H, W, ...), into what each window sees of it, (windows, h, w, ...)."""
    height, width = tiling.window
    return torch.stack([grid[top : top + height, left : left + width] for top, left in tiling.corners])


def disagreement(averaged: Tensor, tiling: Tiling) -> float:
    """Measure how much windows differ where they overlap: the mean of 1 - cosine between two features of one patch.

    Args:
        averaged: (h, w, D) float32 average of unit features, from `average_windows`. An average of unit vectors is the
            shorter the more they differ, so the windows themselves are not needed again.
        tiling: where the windows lie.
    """
    weight = _window_weight(tiling, averaged)[..., None]
    alone = _total_weight(weight.square(), tiling) / _total_weight(weight, tiling).square()
    overlap = float((1 - alone).sum())
    return max(0.0, float((1 - averaged.square().sum(dim=-1)).sum())) / overlap if overlap > 0 else 0.0


def _total_weight(weight: Tensor, tiling: Tiling) -> Tensor:
    """(h, w, 1) sum of a window's weight, (h, w, 1), over all windows of the grid."""
    total = weight.new_zeros(*tiling.grid, 1)
    for top, left in tiling.corners:
        total[top : top + len(weight), left : left + weight.shape[1]] += weight
    return total


def _dominant_windows(tiling: Tiling, like: Tensor) -> Tensor:
    """(h, w) int64 number of the window with the largest weight at each patch."""
    height, width = tiling.window
    best = like.new_zeros(tiling.grid)
    dominant = torch.zeros(tiling.grid, dtype=torch.int64, device=like.device)
    weight = _window_weight(tiling, like)
    for number, (top, left) in enumerate(tiling.corners):
        rows, columns = slice(top, top + height), slice(left, left + width)
        larger = weight > best[rows, columns]
        dominant[rows, columns] = torch.where(larger, number, dominant[rows, columns])
        best[rows, columns] = torch.maximum(best[rows, columns], weight)
    return dominant


def _window_weight(tiling: Tiling, like: Tensor) -> Tensor:
    """(h, w) weight of a window at each of its patches."""
    return _fade(tiling.window[0], like)[:, None] * _fade(tiling.window[1], like)


def _fade(side: int, like: Tensor) -> Tensor:
    """(side,) weights: 1 inside, a raised cosine over the overlap, never 0."""
    place = torch.arange(side, device=like.device, dtype=like.dtype) + 0.5
    depth = torch.minimum(place, side - place) / max(1, side // _OVERLAP)
    return torch.sin(depth.clamp_max(1.0) * (torch.pi / 2)).square()


def harmonise(features: Tensor, guide: Tensor, tiling: Tiling) -> Tensor:
    """Smooth features along one graph over all windows, so that similar patches agree across their borders.

    Label propagation of LPOSS (Stojnic et al., CVPR 2025), on features instead of labels, over all windows together as
    GLA-CLIP (CVPR 2026) asks for: minimises sum_i |x_i - f_i|^2 + s * sum_ij w_ij |x_i - x_j|^2 / 2 by conjugate
    gradients. Edges join each patch to its eight neighbours and to the most similar patches of *every* window, because
    patches of its own window share that window's error. Edge weights are a power of the cosine of the guide without
    its mean. The smoothness s grows with the disagreement of the windows where they overlap: without disagreement, and
    on a grid of one constant feature, nothing changes.

    Args:
        features: (h, w, D) float32 average of unit features, from `average_windows`.
        guide: (h, w, P) float32 whose cosines give the edges: the features themselves, or a self-supervised ViT's.
        tiling: where the windows lie.

    Returns:
        (h, w, D) float32.
    """
    return _harmonised(features, features, guide, tiling, tolerance=_TOLERANCE)


def harmonise_scores(scores: Tensor, features: Tensor, tiling: Tiling) -> Tensor:
    """Smooth what windows say about patches, as `harmonise` does, by how much their features disagree.

    Every channel takes the same number of steps, whatever the others are: a channel more changes none of them.

    Args:
        scores: (h, w, C) float32 average over the windows of anything about patches.
        features: (h, w, D) float32 average of unit features, from `average_windows`.
        tiling: where the windows lie.

    Returns:
        (h, w, C) float32.
    """
    return _harmonised(scores, features, features, tiling, tolerance=0.0)


def _harmonised(scores: Tensor, features: Tensor, guide: Tensor, tiling: Tiling, *, tolerance: float) -> Tensor:
    """See `harmonise`; `tolerance` is that of `conjugate_gradients`."""
    smoothness = _SMOOTHNESS * disagreement(features, tiling)
    if smoothness == 0:
        return scores
    centred = guide.float() - guide.float().mean(dim=(0, 1))
    edges = _edge_matrix(F.normalize(centred, dim=-1), _dominant_windows(tiling, features).flatten())
    degree = torch.sparse.mm(edges, scores.new_ones(edges.shape[1], 1))[:, 0]
    flat = scores.flatten(0, 1).T.contiguous()  # (C, N)

    def system(values: Tensor) -> Tensor:
        product: Tensor = values + smoothness * (degree * values - torch.sparse.mm(edges, values.T.contiguous()).T)
        return product

    solved = conjugate_gradients(
        system, flat, flat, 1 + smoothness * degree, iterations=_ITERATIONS, tolerance=tolerance
    )
    return solved.T.reshape(scores.shape)


def _edge_matrix(unit: Tensor, window: Tensor) -> Tensor:
    """(N, N) sparse symmetric edge weights between patches of (h, w, P) that are adjacent or similar.

    `window` is (N,) int64, the dominant window of each patch.
    """
    height, width, _ = unit.shape
    flat, count = unit.flatten(0, 1), height * width
    cells = torch.arange(count, device=unit.device).reshape(height, width)
    pairs = [_similar_pairs(flat, window)]
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        one = cells[: height - down, max(0, -across) : width - max(0, across)]
        other = cells[down:, max(0, across) : width + min(0, across)]
        pairs.append(torch.stack([one.flatten(), other.flatten()]))
    ends = torch.cat(pairs, dim=1).sort(dim=0).values  # either end may have found the other, or both
    ends = ends[:, ends[0] != ends[1]]
    unique = torch.unique(ends[0] * count + ends[1])
    ends = torch.stack([unique // count, unique % count])
    parts = torch.split(ends, max(1, _MAX_COSINES // flat.shape[1]), dim=1)
    weight = torch.cat([(flat[part[0]] * flat[part[1]]).sum(dim=-1) for part in parts])
    weight = weight.clamp_min_(0.0).pow_(_EDGE_POWER).div_(_NEIGHBOURS)
    ends, weight = torch.cat([ends, ends.flip(0)], dim=1), weight.repeat(2)
    return torch.sparse_coo_tensor(ends, weight, (count, count), check_invariants=False).coalesce()


def _similar_pairs(flat: Tensor, window: Tensor) -> Tensor:
    """(2, E) int64: each patch of (N, P) paired with the most similar landmarks of every window."""
    count = len(flat)
    landmarks = torch.linspace(0, count - 1, min(count, _LANDMARKS), device=flat.device).round().long()
    groups = [landmarks[window[landmarks] == number] for number in torch.unique(window)]
    per_group = max(1, _NEIGHBOURS // len(groups))
    rows = max(1, _MAX_COSINES // len(landmarks))
    pairs = []
    for start in range(0, count, rows):
        part = flat[start : start + rows]
        place = torch.arange(start, start + len(part), device=flat.device)
        for group in groups:
            nearest = min(per_group, len(group))
            if nearest:
                found = group[(part @ flat[group].T).topk(nearest).indices]
                pairs.append(torch.stack([place.repeat_interleave(nearest), found.flatten()]))
    return torch.cat(pairs, dim=1)
