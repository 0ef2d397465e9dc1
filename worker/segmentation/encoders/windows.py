"""Large images in overlapping windows: where they lie, how their features become one grid, how their seams vanish.

It must not know about models or classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.segmentation.outlines.graph import conjugate_gradients

_WORTH = 1.25  # finer than one pass by less than this: not worth several forwards
_STEP = 0.95
_OVERLAP = 4  # the share of a window that it has in common with the next: one in four
_NEAREST = 32  # most alike patches that each is joined to, evenly taken from all windows
_LANDMARKS = 4096  # patches among which they are looked for, evenly spread over the grid
_COSINES = 16_000_000  # held at once, 64 MB
_SHARPNESS = 8  # power of the cosines: what is merely similar stays apart
_PULL = 8.0  # weight of all neighbours against a patch's own feature, per disagreement of the windows
_ITERATIONS, _TOLERANCE = 10, 1e-3


@dataclass(frozen=True)
class Windows:
    """Where an image is looked at.

    Attributes:
        grid: (h, w) patches of the whole image.
        window: (h, w) patches of every window.
        corners: (top, left) of each window, patches.
    """

    grid: tuple[int, int]
    window: tuple[int, int]
    corners: tuple[tuple[int, int], ...]

    @classmethod
    def whole(cls, grid: tuple[int, int]) -> Windows:
        """One look at all of it."""
        return cls(grid, grid, ((0, 0),))


def place_windows(entry: tuple[int, int], size: tuple[int, int], patch: int, *, most: int) -> Windows:
    """Cover an image with as many square windows as allowed, as fine as its own pixels at most.

    Args:
        entry: (h, w) patches at which the image would enter in one pass; its short side is that of the windows.
        size: (H, W) of the image, pixels.
        patch: pixels per patch.
        most: windows at most.

    Returns:
        windows that overlap by a quarter; one pass where nothing finer is to be had.
    """
    side = min(entry)
    scale = min(size[0] / (entry[0] * patch), size[1] / (entry[1] * patch))
    while scale >= _WORTH:
        grid = (round(entry[0] * scale), round(entry[1] * scale))
        tops, lefts = (_starts(length, side) for length in grid)
        if len(tops) * len(lefts) <= most:
            return Windows(grid, (side, side), tuple((top, left) for top in tops for left in lefts))
        scale *= _STEP
    return Windows.whole(entry)


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    overlap = side // _OVERLAP
    count = -(-(length - overlap) // (side - overlap))
    return [round(number * (length - side) / (count - 1)) for number in range(count)]


def merge(parts: Sequence[Tensor], windows: Windows) -> Tensor:
    """Average the features of windows, each counting less towards its border.

    Args:
        parts: (h, w, D) float32 of each window, in the order of its corners.

    Returns:
        (h, w, D) float32 of the whole grid.
    """
    (height, width), like = windows.window, parts[0]
    weight = _weight(windows, like)[..., None]
    total = like.new_zeros(*windows.grid, like.shape[-1])
    for part, (top, left) in zip(parts, windows.corners, strict=True):
        total[top : top + height, left : left + width] += weight * part
    merged: Tensor = total / _sum(weight, windows)
    return merged


def disagreement(merged: Tensor, windows: Windows) -> float:
    """Mean of 1 - cosine between what two windows say of the same patch.

    Args:
        merged: (h, w, D) float32: what `merge` made of unit features. An average of unit vectors is the shorter the
            more they differ, so the windows themselves are not needed again.
        windows: where each was seen.
    """
    weight = _weight(windows, merged)[..., None]
    alone = _sum(weight.square(), windows) / _sum(weight, windows).square()
    several = float((1 - alone).sum())
    return max(0.0, float((1 - merged.square().sum(dim=-1)).sum())) / several if several > 0 else 0.0


def _sum(weight: Tensor, windows: Windows) -> Tensor:
    """(h, w, 1) sum of a (h, w, 1) weight over all windows."""
    total = weight.new_zeros(*windows.grid, 1)
    for top, left in windows.corners:
        total[top : top + len(weight), left : left + weight.shape[1]] += weight
    return total


def _owners(windows: Windows, like: Tensor) -> Tensor:
    """(h, w) int64: the window that counts most at each patch."""
    height, width = windows.window
    best = like.new_zeros(windows.grid)
    owner = torch.zeros(windows.grid, dtype=torch.int64, device=like.device)
    weight = _weight(windows, like)
    for number, (top, left) in enumerate(windows.corners):
        rows, columns = slice(top, top + height), slice(left, left + width)
        more = weight > best[rows, columns]
        owner[rows, columns] = torch.where(more, number, owner[rows, columns])
        best[rows, columns] = torch.maximum(best[rows, columns], weight)
    return owner


def _weight(windows: Windows, like: Tensor) -> Tensor:
    """(h, w) of what a window says at each of its patches."""
    return _fade(windows.window[0], like)[:, None] * _fade(windows.window[1], like)


def _fade(side: int, like: Tensor) -> Tensor:
    """(side,) weights: 1 inside, a raised cosine over the overlap, never 0."""
    place = torch.arange(side, device=like.device, dtype=like.dtype) + 0.5
    depth = torch.minimum(place, side - place) / max(1, side // _OVERLAP)
    return torch.sin(depth.clamp_max(1.0) * (torch.pi / 2)).square()


def harmonise(features: Tensor, guide: Tensor, windows: Windows) -> Tensor:
    """Let patches that are alike agree, over the whole grid at once, so that no window keeps a view of its own.

    Label propagation of LPOSS (Stojnic et al., CVPR 2025), on features instead of labels, over all windows together as
    GLA-CLIP (CVPR 2026) asks for: minimises sum_i |x_i - f_i|^2 + pull * sum_ij w_ij |x_i - x_j|^2 / 2 by conjugate
    gradients. Edges join each patch to its eight neighbours and to the most alike patches of *every* window: those of
    its own are alike already, in what is wrong about it, too. Their weight is a power of the cosine of the features
    without the grid's mean. The pull is as strong as the windows disagree where they overlap: with no disagreement, or
    a grid of one feature, all stays as it is.

    Args:
        features: (h, w, D) float32, what `merge` made of unit features.
        guide: (h, w, P) float32 that tells who is alike: the features themselves, or an affinity tower's.
        windows: where each was seen.

    Returns:
        (h, w, D) float32.
    """
    pull = _PULL * disagreement(features, windows)
    if pull == 0:
        return features
    centred = guide.float() - guide.float().mean(dim=(0, 1))
    edges = _edges(F.normalize(centred, dim=-1), _owners(windows, features).flatten())
    degree = torch.sparse.mm(edges, features.new_ones(edges.shape[1], 1))[:, 0]
    flat = features.flatten(0, 1).T.contiguous()  # (D, N)

    def energy(values: Tensor) -> Tensor:
        pulled: Tensor = values + pull * (degree * values - torch.sparse.mm(edges, values.T.contiguous()).T)
        return pulled

    solved = conjugate_gradients(energy, flat, flat, 1 + pull * degree, iterations=_ITERATIONS, tolerance=_TOLERANCE)
    return solved.T.reshape(features.shape)


def _edges(unit: Tensor, owner: Tensor) -> Tensor:
    """(N, N) sparse, symmetric: weights between patches (h, w, P) that are side by side or alike."""
    height, width, _ = unit.shape
    flat, count = unit.flatten(0, 1), height * width
    place = torch.arange(count, device=unit.device)
    cells = place.reshape(height, width)
    pairs = [_alike(flat, owner)]
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        one = cells[: height - down, max(0, -across) : width - max(0, across)]
        other = cells[down:, max(0, across) : width + min(0, across)]
        pairs.append(torch.stack([one.flatten(), other.flatten()]))
    ends = torch.cat(pairs, dim=1).sort(dim=0).values  # either end may have found the other, or both
    ends = ends[:, ends[0] != ends[1]]
    once = torch.unique(ends[0] * count + ends[1])
    ends = torch.stack([once // count, once % count])
    parts = torch.split(ends, max(1, _COSINES // flat.shape[1]), dim=1)
    weight = torch.cat([(flat[part[0]] * flat[part[1]]).sum(dim=-1) for part in parts])
    weight = weight.clamp_min_(0.0).pow_(_SHARPNESS).div_(_NEAREST)
    ends, weight = torch.cat([ends, ends.flip(0)], dim=1), weight.repeat(2)
    return torch.sparse_coo_tensor(ends, weight, (count, count), check_invariants=False).coalesce()


def _alike(flat: Tensor, owner: Tensor) -> Tensor:
    """(2, E) int64: each patch of (N, P) with the most alike landmarks of every window."""
    count = len(flat)
    landmarks = torch.linspace(0, count - 1, min(count, _LANDMARKS), device=flat.device).round().long()
    groups = [landmarks[owner[landmarks] == number] for number in torch.unique(owner)]
    each = max(1, _NEAREST // len(groups))
    rows = max(1, _COSINES // len(landmarks))
    pairs = []
    for start in range(0, count, rows):
        part = flat[start : start + rows]
        place = torch.arange(start, start + len(part), device=flat.device)
        for group in groups:
            nearest = min(each, len(group))
            if nearest:
                found = group[(part @ flat[group].T).topk(nearest).indices]
                pairs.append(torch.stack([place.repeat_interleave(nearest), found.flatten()]))
    return torch.cat(pairs, dim=1)
