"""Splitting a component in which several things of one class touch.

Two proposals say where to cut a component of the class map: the Fiedler vector of its cell graph, weighted by the
similarity of colour and texture (Shi and Malik, "Normalized Cuts and Image Segmentation", TPAMI 2000), and the
narrowest chords of its outline. A logistic model of what `cut_evidence` measures, fitted on scenes and photographs,
chooses among them and decides whether to cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from worker.segmentation.instances.cell_graph import CellGraph, Cells, Mask, build_graph
from worker.segmentation.instances.chords import narrow_chords
from worker.segmentation.instances.cut_evidence import CutComponent, CutEvidence, solidity

_COLUMNS, _ITERATIONS = 3, 4  # of inverse subspace iteration
_SHIFT = 1e-4
_MIN_SHARE = 0.08  # of a component: no part is smaller
_MAX_PARTS = 8
_CHORDS = 3  # examined per component
_COMPACT, _UNIFORM = 0.94, 3.0  # solidity above, and feature deviation below which a component is one thing


@dataclass(frozen=True)
class CutWeights:
    """Logistic model of whether a cut separates two things, linear in its evidence. Positive weights speak for it."""

    bias: float
    neck: float
    neck_squared: float
    contrast: float
    edge: float
    crease: float
    convexity: float
    balance: float

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


ALIKE_CONTRAST = 2.0
"""Contrast below which two sides look alike: light alone makes as much of a difference on one rounded thing."""

# Fitted by `python -m worker.lab.evaluation.fit_assembly`; docs/research/instances.md describes the data.
CUT_RULE = CutRule(
    alike=CutWeights(
        bias=0.1351, neck=-0.3715, neck_squared=-2.6962, contrast=0.6224, edge=1.2905, crease=0.3547,
        convexity=0.8416, balance=0.7223,
    ),
    unlike=CutWeights(
        bias=-2.5411, neck=-0.2776, neck_squared=-1.625, contrast=0.774, edge=0.8258, crease=0.6171,
        convexity=1.3881, balance=0.9371,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One thing.

    Attributes:
        mask: (h, w) bool.
        cut_margin: least absolute log-odds of the decisions to cut or not to cut around it; infinite without any.
    """

    mask: Mask
    cut_margin: float


@dataclass(frozen=True)
class Cut:
    """A proposed cut: (h, w) bool mask of one side, and the evidence for it."""

    side: Mask
    evidence: CutEvidence


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
        cuts = propose_cuts(part.mask, image) if len(done) + len(waiting) + 1 < _MAX_PARTS else []
        best = max(cuts, key=lambda cut: rule.log_odds(cut.evidence), default=None)
        log_odds = rule.log_odds(best.evidence) if best else -np.inf
        cut_margin = min(part.cut_margin, abs(log_odds))
        if best is None or log_odds <= 0:
            done.append(Part(part.mask, cut_margin))
        else:
            waiting += [Part(side, cut_margin) for side in (best.side, part.mask & ~best.side)]
    return done


def propose_cuts(mask: Mask, image: NDArray[np.uint8]) -> list[Cut]:
    """Find up to four cuts of a component: the lowest normalised one and the narrowest chords.

    Args:
        mask: (h, w) bool.
        image: (h, w, 3) uint8 RGB, the same pixels.

    Returns:
        The cuts; none if the component is too small, clearly one thing, or has no cut that leaves two connected parts
        of a fair size.
    """
    component = CutComponent.of(mask, image)
    if component is None or _is_clearly_one(component.cells):
        return []
    sides = [_normalised_cut(component), *narrow_chords(component.grid, most=_CHORDS, least_share=_MIN_SHARE)]
    cuts = []
    for proposed in sides:
        side = None if proposed is None else _make_sides_connected(proposed, component.grid)
        evidence = None if side is None else component.evidence(side)
        if side is not None and evidence is not None:
            pixels = component.to_pixels(side)
            if pixels.any() and not np.array_equal(pixels, mask):
                cuts.append(Cut(pixels, evidence))
    return cuts


def _is_clearly_one(cells: Cells) -> bool:
    """Whether a component is compact and uniform; this saves most single things the eigenvector."""
    return solidity(cells.inside) > _COMPACT and float(cells.features[cells.inside].std(axis=0).max()) < _UNIFORM


def _normalised_cut(component: CutComponent) -> Mask | None:
    """One side of the lowest normalised cut of the cell graph, on the component's grid, or None."""
    cells = component.cells
    graph = build_graph(cells)
    vector = _fiedler_vector(graph)
    threshold = _lowest_cut(vector, graph)
    if threshold is None:
        return None
    side = np.zeros(cells.inside.shape, dtype=np.bool_)
    side[cells.inside] = vector > threshold
    connected = _make_sides_connected(side, cells.inside)
    return None if connected is None else component.from_cells(connected)


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
