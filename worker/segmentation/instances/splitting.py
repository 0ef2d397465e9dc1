"""Things of one class that touch -> one part each, cut where the picture's own graph holds together least.

A component of the class map becomes a graph of some hundred cells: neighbours are joined by how alike their colour and
texture are. Its Fiedler vector (Shi and Malik, "Normalized cuts", 2000) proposes where to cut; whether to cut is
decided by evidence, weighed as fitted on drawn scenes. It must not know about labels or text.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from worker.segmentation.instances.cells import Cells, Edges, Floats, Mask, cells_of, edges_of

_COLUMNS, _ROUNDS = 3, 4  # of inverse iteration
_SHIFT = 1e-4
_SMALLEST_SHARE = 0.08  # of a component: no part is smaller
_MOST_PARTS = 8
_NECK_PIXELS = 4000  # of a component when its neck is measured
_COMPACT, _UNIFORM = 0.94, 3.0  # solidity, and spread of colour and texture, of what is not looked at further


@dataclass(frozen=True)
class CutEvidence:
    """What speaks for or against one cut, cheap to read off the cells.

    Attributes:
        cut: log of its normalised cut where touching cells are joined alike: how narrow a neck it goes through.
        neck: width of the component where it is cut, against that of its narrower side; about 1 where there is no neck.
        contrast: how far apart colour and texture of the sides are, against their spread.
        edge: how much steeper the picture is along the cut than elsewhere in the component.
    """

    cut: float
    neck: float
    contrast: float
    edge: float


@dataclass(frozen=True)
class CutWeights:
    """Log-odds that a cut parts two things, linear in its evidence."""

    bias: float
    cut: float
    neck: float
    contrast: float
    edge: float

    def odds(self, evidence: CutEvidence) -> float:
        """Above 0: more likely than not."""
        weighed: list[float] = [getattr(self, name) * value for name, value in vars(evidence).items()]
        return self.bias + sum(weighed)


@dataclass(frozen=True)
class CutRule:
    """When to cut: between sides that look alike the outline must tell, between others their looks do."""

    alike: CutWeights
    unlike: CutWeights

    def odds(self, evidence: CutEvidence) -> float:
        """Log-odds that the cut parts two things; above 0: cut."""
        weights = self.alike if evidence.contrast < ALIKE else self.unlike
        return weights.odds(evidence)


ALIKE = 1.0  # contrast below which two sides look alike
# Fitted by `python -m worker.lab.evaluation.fit_assembly`; docs/research/instances.md tells on what.
CUT_RULE = CutRule(
    alike=CutWeights(bias=0.3755, cut=-0.1568, neck=-3.5695, contrast=1.0626, edge=1.373),
    unlike=CutWeights(bias=-3.0531, cut=-0.6593, neck=-1.0262, contrast=0.6532, edge=1.2207),
)


@dataclass(frozen=True)
class Part:
    """A thing: (h, w) bool mask, and the log-odds that every cut made or not made around it was right."""

    mask: Mask
    sureness: float


def parts_of(mask: Mask, image: NDArray[np.uint8], rule: CutRule = CUT_RULE) -> list[Part]:
    """The things that a component consists of: itself, or up to eight parts.

    Args:
        mask: (h, w) bool, one connected component; best its bounding box.
        image: (h, w, 3) uint8 RGB, the same pixels.
        rule: when to cut.
    """
    waiting, done = [Part(mask, np.inf)], list[Part]()
    while waiting:
        whole = waiting.pop()
        found = propose(whole.mask, image) if len(done) + len(waiting) + 1 < _MOST_PARTS else None
        odds = rule.odds(found[1]) if found else -np.inf
        sureness = min(whole.sureness, abs(odds))
        if found is None or odds <= 0:
            done.append(Part(whole.mask, sureness))
        else:
            waiting += [Part(side, sureness) for side in (found[0], whole.mask & ~found[0])]
    return done


def propose(mask: Mask, image: NDArray[np.uint8]) -> tuple[Mask, CutEvidence] | None:
    """The best cut of a component: (h, w) bool of one side, and what speaks for it; None when it is too small."""
    cells = cells_of(mask, image)
    if cells is None:
        return None
    if _obviously_one(cells):
        return None
    edges = edges_of(cells)
    vector = _fiedler_vector(edges)
    place = _lowest_cut(vector, edges)
    if place is None:
        return None
    side = np.zeros(cells.inside.shape, dtype=np.bool_)
    side[cells.inside] = vector > place
    tidy = _in_two_pieces(side, cells.inside)
    if tidy is None:
        return None
    pixels = _to_pixels(tidy, cells, mask)
    return pixels, _evidence(tidy, cells, edges, _neck(pixels, mask))


def _obviously_one(cells: Cells) -> bool:
    """Compact and of one colour and texture: most things alone are spared the eigenvector."""
    return _solidity(cells.inside) > _COMPACT and float(cells.features[cells.inside].std(axis=0).max()) < _UNIFORM


def _fiedler_vector(edges: Edges) -> NDArray[np.float64]:
    """(N,) the generalised eigenvector of (D - W) x = mu D x behind the constant one.

    Inverse subspace iteration: the matrix is small enough to be factored, and one factor serves all rounds.
    """
    root = np.sqrt(edges.degree)
    laplacian = np.eye(edges.count, dtype=np.float32) * np.float32(1 + _SHIFT)
    one, other = edges.ends
    laplacian[one, other] = laplacian[other, one] = -edges.weights / (root[one] * root[other])
    factor = torch.linalg.cholesky(torch.from_numpy(laplacian))
    place = (np.arange(edges.count)[:, None] + 0.5) * np.pi / edges.count
    block = (np.cos(place * np.arange(1, _COLUMNS + 1)) * root[:, None]).astype(np.float32)
    constant = (root[:, None] / np.linalg.norm(root)).astype(np.float32)
    for turn in range(_ROUNDS):
        block -= constant * (constant.T @ block)
        block = torch.cholesky_solve(torch.from_numpy(block), factor).numpy()
        block = np.linalg.qr(block)[0] if turn % 2 else block / np.linalg.norm(block, axis=0)
    _, mix = np.linalg.eigh(block.T @ laplacian @ block)
    return np.asarray(block @ mix[:, 0] / root)


def _lowest_cut(vector: NDArray[np.float64], edges: Edges) -> float | None:
    """Where to cut a vector for the lowest normalised cut, among all places that leave no part too small."""
    order = np.argsort(vector)
    rank = np.empty_like(order)
    rank[order] = np.arange(edges.count)
    low, high = np.sort(rank[edges.ends], axis=0)
    opened, closed = (np.bincount(place, edges.weights, minlength=edges.count) for place in (low, high))
    cut = np.cumsum(opened - closed)  # of the edges between the first k + 1 cells and the rest
    volume = np.cumsum(edges.degree[order])
    value = cut / volume + cut / np.maximum(volume[-1] - volume, 1e-12)
    share = volume / volume[-1]
    value[(share < _SMALLEST_SHARE) | (share > 1 - _SMALLEST_SHARE)] = np.inf
    best = int(value.argmin())
    if not np.isfinite(value[best]) or best + 1 >= edges.count:
        return None
    return float((vector[order[best]] + vector[order[best + 1]]) / 2)


def _in_two_pieces(side: Mask, inside: Mask) -> Mask | None:
    """Give what lies apart from the main piece of a side to the other side; None when too little is left of one."""
    for _ in range(2):
        kept = _largest(side)
        side = inside & ~kept
    share = np.count_nonzero(side) / np.count_nonzero(inside)
    return side if _SMALLEST_SHARE <= share <= 1 - _SMALLEST_SHARE else None


def _largest(mask: Mask) -> Mask:
    count, numbered, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    return np.asarray(numbered == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))


def _to_pixels(side: Mask, cells: Cells, mask: Mask) -> Mask:
    """The side at full resolution: the nearest cell of the component decides, softened over a cell."""
    crop = mask[cells.window]
    member = np.where(side, 1.0, -1.0) * cells.inside
    grown = cv2.resize(cv2.GaussianBlur(member, (0, 0), 0.8), crop.shape[::-1], interpolation=cv2.INTER_LINEAR)
    whole = np.zeros(mask.shape, dtype=np.bool_)
    whole[cells.window] = crop & (grown > 0)
    return whole


def _evidence(side: Mask, cells: Cells, edges: Edges, neck: float) -> CutEvidence:
    other = cells.inside & ~side
    border = (_grown(side) & other) | (_grown(other) & side)
    one, two = cells.features[side], cells.features[other]
    spread = np.sqrt(0.5 * (one.var(axis=0) + two.var(axis=0))) + 2.0
    core = ~_grown(~np.pad(cells.inside, 1))[1:-1, 1:-1]  # the component's own outline is steep everywhere
    along = border & core if (border & core).any() else border
    steep, usual = _mean(cells.steepness[along]), _mean(cells.steepness[core & ~border])
    return CutEvidence(
        cut=float(np.log(edges.even_cut(side[cells.inside]) + 1e-3)),
        neck=neck,
        contrast=float(np.linalg.norm((one.mean(axis=0) - two.mean(axis=0)) / spread)),
        edge=float(np.log((steep + 1.0) / (usual + 1.0))),
    )


def _grown(mask: Mask) -> Mask:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0


def _neck(side: Mask, mask: Mask) -> float:
    """Width of the mask along the border of a side, against the width of the narrower side; finer than the cells."""
    step = max(1, int((np.count_nonzero(mask) / _NECK_PIXELS) ** 0.5))
    whole = mask[::step, ::step]
    one = side[::step, ::step]
    other = whole & ~one
    border = (_grown(one) & other) | (_grown(other) & one)
    return _widest(whole, border) / max(1.0, min(_widest(one, one), _widest(other, other)))


def _widest(mask: Mask, among: Mask) -> float:
    """Diameter in pixels of the largest disc that fits into the mask with its centre `among` these."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1]
    return 2 * float(depth[among].max(initial=0.5)) - 1


def _solidity(mask: Mask) -> float:
    """Area over that of the convex hull, holes counted as filled."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = max(contours, key=len)
    hull = cv2.convexHull(contour)
    # OpenCV runs through the centres of the border's cells: half the length on either side is missing.
    filled, convex = (cv2.contourArea(part) + cv2.arcLength(part, True) / 2 + 1 for part in (contour, hull))
    return float(min(1.0, filled / convex))
