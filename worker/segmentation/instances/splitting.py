"""Splitting a component in which several things of one class touch, by normalised cuts of its cell graph.

A component of the class map becomes a graph of some hundred cells, weighted by the similarity of colour and texture.
Its Fiedler vector (Shi and Malik, "Normalized Cuts and Image Segmentation", TPAMI 2000) proposes where to cut; a
logistic model of four measurements, fitted on drawn scenes, decides whether to cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from worker.segmentation.instances.cell_graph import CellGraph, Cells, Floats, Mask, build_graph, sample_cells

_COLUMNS, _ITERATIONS = 3, 4  # of inverse subspace iteration
_SHIFT = 1e-4
_MIN_SHARE = 0.08  # of a component: no part is smaller
_MAX_PARTS = 8
_NECK_PIXELS = 4000  # to which a component is subsampled before its neck is measured
_COMPACT, _UNIFORM = 0.94, 3.0  # solidity above, and feature deviation below which a component is one thing


@dataclass(frozen=True)
class CutEvidence:
    """Measurements of one cut.

    Attributes:
        cut: log of its normalised cut over adjacent cells of equal weight: how narrow the neck is that it crosses.
        neck: width of the component at the cut relative to that of its narrower side; about 1 without a neck.
        contrast: distance of the mean features of the two sides, in units of their standard deviation.
        edge: log of the image gradient along the cut relative to that elsewhere in the component.
    """

    cut: float
    neck: float
    contrast: float
    edge: float


@dataclass(frozen=True)
class CutWeights:
    """Logistic model of whether a cut separates two things, linear in its evidence."""

    bias: float
    cut: float
    neck: float
    contrast: float
    edge: float

    def log_odds(self, evidence: CutEvidence) -> float:
        """Log-odds; above 0 means more likely than not."""
        weighted: list[float] = [getattr(self, name) * value for name, value in vars(evidence).items()]
        return self.bias + sum(weighted)


@dataclass(frozen=True)
class CutRule:
    """When to cut: one model for sides that look alike, where the outline decides, and one for the others."""

    alike: CutWeights
    unlike: CutWeights

    def log_odds(self, evidence: CutEvidence) -> float:
        """Log-odds that the cut separates two things; above 0, cut."""
        weights = self.alike if evidence.contrast < ALIKE_CONTRAST else self.unlike
        return weights.log_odds(evidence)


ALIKE_CONTRAST = 1.0
"""Contrast below which two sides look alike."""

# Fitted by `python -m worker.lab.evaluation.fit_assembly`; docs/research/instances.md describes the data.
CUT_RULE = CutRule(
    alike=CutWeights(bias=0.3755, cut=-0.1568, neck=-3.5695, contrast=1.0626, edge=1.373),
    unlike=CutWeights(bias=-3.0531, cut=-0.6593, neck=-1.0262, contrast=0.6532, edge=1.2207),
)


@dataclass(frozen=True)
class Part:
    """One thing.

    Attributes:
        mask: (h, w) bool.
        cut_margin: least absolute log-odds of the decisions to cut or not to cut around it; infinite without any.
    """

    mask: Mask
    cut_margin: float


def split_component(mask: Mask, image: NDArray[np.uint8], rule: CutRule = CUT_RULE) -> list[Part]:
    """Split a component into the things that touch in it.

    Args:
        mask: (h, w) bool, one connected component, cropped to its bounding box for speed.
        image: (h, w, 3) uint8 RGB, the same pixels.
        rule: when to cut.

    Returns:
        One to eight disjoint parts that cover the component.
    """
    waiting, done = [Part(mask, np.inf)], list[Part]()
    while waiting:
        part = waiting.pop()
        proposal = propose_cut(part.mask, image) if len(done) + len(waiting) + 1 < _MAX_PARTS else None
        log_odds = rule.log_odds(proposal[1]) if proposal else -np.inf
        cut_margin = min(part.cut_margin, abs(log_odds))
        if proposal is None or log_odds <= 0:
            done.append(Part(part.mask, cut_margin))
        else:
            waiting += [Part(side, cut_margin) for side in (proposal[0], part.mask & ~proposal[0])]
    return done


def propose_cut(mask: Mask, image: NDArray[np.uint8]) -> tuple[Mask, CutEvidence] | None:
    """Find the best cut of a component.

    Args:
        mask: (h, w) bool.
        image: (h, w, 3) uint8 RGB, the same pixels.

    Returns:
        (h, w) bool mask of one side, and the evidence for the cut; None if the component is too small, clearly one
        thing, or has no cut that leaves two parts of a fair size.
    """
    cells = sample_cells(mask, image)
    if cells is None or _is_clearly_one(cells):
        return None
    graph = build_graph(cells)
    vector = _fiedler_vector(graph)
    threshold = _lowest_cut(vector, graph)
    if threshold is None:
        return None
    side = np.zeros(cells.inside.shape, dtype=np.bool_)
    side[cells.inside] = vector > threshold
    connected = _make_sides_connected(side, cells.inside)
    if connected is None:
        return None
    pixels = _to_pixels(connected, cells, mask)
    return pixels, _evidence(connected, cells, graph, _neck(pixels, mask))


def _is_clearly_one(cells: Cells) -> bool:
    """Whether a component is compact and uniform; this saves most single things the eigenvector."""
    return _solidity(cells.inside) > _COMPACT and float(cells.features[cells.inside].std(axis=0).max()) < _UNIFORM


def _fiedler_vector(graph: CellGraph) -> NDArray[np.float64]:
    """Compute the generalised eigenvector of (D - W) x = mu D x after the constant one, (N,).

    By inverse subspace iteration: the matrix is small enough to be factored, once for all iterations.
    """
    root = np.sqrt(graph.degree)
    laplacian = np.eye(graph.count, dtype=np.float32) * np.float32(1 + _SHIFT)
    one, other = graph.ends
    laplacian[one, other] = laplacian[other, one] = -graph.weights / (root[one] * root[other])
    factor = torch.linalg.cholesky(torch.from_numpy(laplacian))
    angle = (np.arange(graph.count)[:, None] + 0.5) * np.pi / graph.count
    block = (np.cos(angle * np.arange(1, _COLUMNS + 1)) * root[:, None]).astype(np.float32)
    constant = (root[:, None] / np.linalg.norm(root)).astype(np.float32)
    for iteration in range(_ITERATIONS):
        block -= constant * (constant.T @ block)
        block = torch.cholesky_solve(torch.from_numpy(block), factor).numpy()
        block = np.linalg.qr(block)[0] if iteration % 2 else block / np.linalg.norm(block, axis=0)
    _, mix = np.linalg.eigh(block.T @ laplacian @ block)
    return np.asarray(block @ mix[:, 0] / root)


def _lowest_cut(vector: NDArray[np.float64], graph: CellGraph) -> float | None:
    """Find the threshold of a vector (N,) with the lowest normalised cut that leaves no part too small, or None."""
    order = np.argsort(vector)
    rank = np.empty_like(order)
    rank[order] = np.arange(graph.count)
    low, high = np.sort(rank[graph.ends], axis=0)
    opened, closed = (np.bincount(place, graph.weights, minlength=graph.count) for place in (low, high))
    cut = np.cumsum(opened - closed)  # of the edges between the first k + 1 cells and the rest
    volume = np.cumsum(graph.degree[order])
    value = cut / volume + cut / np.maximum(volume[-1] - volume, 1e-12)
    share = volume / volume[-1]
    value[(share < _MIN_SHARE) | (share > 1 - _MIN_SHARE)] = np.inf
    best = int(value.argmin())
    if not np.isfinite(value[best]) or best + 1 >= graph.count:
        return None
    return float((vector[order[best]] + vector[order[best + 1]]) / 2)


def _make_sides_connected(side: Mask, inside: Mask) -> Mask | None:
    """Give all but the largest piece of each side to the other side; None if too little is left of one."""
    for _ in range(2):
        kept = _largest(side)
        side = inside & ~kept
    share = np.count_nonzero(side) / np.count_nonzero(inside)
    return side if _MIN_SHARE <= share <= 1 - _MIN_SHARE else None


def _largest(mask: Mask) -> Mask:
    """The largest 8-connected component of a mask."""
    count, numbered, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    return np.asarray(numbered == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))


def _to_pixels(side: Mask, cells: Cells, mask: Mask) -> Mask:
    """Upsample one side from cells to pixels, (h, w) bool, with a border smoothed over about one cell."""
    crop = mask[cells.crop]
    signed = np.where(side, 1.0, -1.0) * cells.inside
    grown = cv2.resize(cv2.GaussianBlur(signed, (0, 0), 0.8), crop.shape[::-1], interpolation=cv2.INTER_LINEAR)
    whole = np.zeros(mask.shape, dtype=np.bool_)
    whole[cells.crop] = crop & (grown > 0)
    return whole


def _evidence(side: Mask, cells: Cells, graph: CellGraph, neck: float) -> CutEvidence:
    other = cells.inside & ~side
    border = (_grown(side) & other) | (_grown(other) & side)
    one, two = cells.features[side], cells.features[other]
    spread = np.sqrt(0.5 * (one.var(axis=0) + two.var(axis=0))) + 2.0
    core = ~_grown(~np.pad(cells.inside, 1))[1:-1, 1:-1]  # the gradient is high all along the component's outline
    along = border & core if (border & core).any() else border
    gradient, elsewhere = _mean(cells.gradient[along]), _mean(cells.gradient[core & ~border])
    return CutEvidence(
        cut=float(np.log(graph.unweighted_cut(side[cells.inside]) + 1e-3)),
        neck=neck,
        contrast=float(np.linalg.norm((one.mean(axis=0) - two.mean(axis=0)) / spread)),
        edge=float(np.log((gradient + 1.0) / (elsewhere + 1.0))),
    )


def _grown(mask: Mask) -> Mask:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0


def _neck(side: Mask, mask: Mask) -> float:
    """Width of the mask along the border of a side, relative to the width of the narrower side, on a grid of pixels."""
    step = max(1, int((np.count_nonzero(mask) / _NECK_PIXELS) ** 0.5))
    whole = mask[::step, ::step]
    one = side[::step, ::step]
    other = whole & ~one
    border = (_grown(one) & other) | (_grown(other) & one)
    return _widest(whole, border) / max(1.0, min(_widest(one, one), _widest(other, other)))


def _widest(mask: Mask, among: Mask) -> float:
    """Diameter, in pixels of the mask, of the largest disc inside it whose centre is `among` these pixels."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1]
    return 2 * float(depth[among].max(initial=0.5)) - 1


def _solidity(mask: Mask) -> float:
    """Area relative to that of the convex hull, holes counted as filled."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = max(contours, key=len)
    hull = cv2.convexHull(contour)
    # OpenCV's contour runs through the centres of the border cells, which leaves out half a cell along its length.
    filled, convex = (cv2.contourArea(part) + cv2.arcLength(part, True) / 2 + 1 for part in (contour, hull))
    return float(min(1.0, filled / convex))
