"""Is a cut the border of two things? What the shape of a component and the image say about it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.segmentation.instances.cell_graph import Cells, Floats, Mask, sample_cells

_PIXELS = 4000  # of a component at most: it is reduced to these before its cuts are measured
_WIDEST_NECK = 1.2
_SOFTENING = 0.02  # of a share of the convex hull, so that two nearly convex things are not told apart
_CREASE = 0.06  # of the root of the area: half the width of a crease between two things
_TOLERANCE = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))  # a crease may lie this far from the cut
_SQUARE = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class CutEvidence:
    """Measurements of one cut. None has a unit of length.

    Attributes:
        neck: width of the component at the cut relative to that of its narrower side: about 1 without a neck, at most
            1.2.
        neck_squared: its square: from a wide neck to none is less of a difference than from a narrow one to a wide one.
        contrast: distance of the mean features of the two sides, in units of their standard deviation.
        edge: log of the image gradient along the cut relative to that elsewhere in the component.
        crease: log of one plus the depth of the dark line along the cut, in units of lightness (Lab).
        convexity: log of how much of what the component lacks of its convex hull is no longer lacking of the hulls of
            the two sides.
        balance: log of the smaller area over the larger.
    """

    neck: float
    neck_squared: float
    contrast: float
    edge: float
    crease: float
    convexity: float
    balance: float


class CutComponent:
    """Holds what all cuts of one component share, on a grid of its own of at most about 4000 pixels.

    Args:
        mask: (h, w) bool, one connected component.
        image: (h, w, 3) uint8 RGB, the same pixels.
        cells: of the component.

    Attributes:
        grid: (r, c) bool, the component reduced.
        cells: of the component.
    """

    def __init__(self, mask: Mask, image: NDArray[np.uint8], cells: Cells) -> None:
        self.cells = cells
        self._mask = mask
        cropped = mask[cells.crop]
        step = max(1.0, (np.count_nonzero(cropped) / _PIXELS) ** 0.5)
        self._size = (max(2, round(cropped.shape[1] / step)), max(2, round(cropped.shape[0] / step)))
        self.grid: Mask = self._reduced(cropped.astype(np.float32)) >= 0.5
        self._crease = _creases(self.grid, self._reduced(image[cells.crop]))
        self._core = cv2.erode(self.grid.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
        self._cell_core = cv2.erode(cells.inside.astype(np.uint8), _SQUARE, borderValue=0) > 0
        self._lacking = 1 - solidity(self.grid)

    @classmethod
    def of(cls, mask: Mask, image: NDArray[np.uint8]) -> CutComponent | None:
        """Sample a component; None if it has too few cells for a graph."""
        cells = sample_cells(mask, image)
        return None if cells is None else cls(mask, image, cells)

    def from_cells(self, side: Mask) -> Mask:
        """Bring a side from cells to the grid, (r, c) bool, with a border smoothed over about one cell."""
        signed = np.where(side, 1.0, -1.0) * self.cells.inside
        smooth = cv2.resize(cv2.GaussianBlur(signed, (0, 0), 0.8), self._size, interpolation=cv2.INTER_LINEAR)
        return np.asarray(self.grid & (smooth > 0))

    def to_pixels(self, side: Mask) -> Mask:
        """Bring a side, (r, c) bool, from the grid to the pixels of the component's mask, (h, w) bool."""
        cropped = self._mask[self.cells.crop]
        signed = np.where(side, 1.0, -1.0) * self.grid
        smooth = cv2.resize(cv2.GaussianBlur(signed, (0, 0), 0.8), cropped.shape[::-1], interpolation=cv2.INTER_LINEAR)
        whole = np.zeros(self._mask.shape, dtype=np.bool_)
        whole[self.cells.crop] = cropped & (smooth > 0)
        return whole

    def evidence(self, side: Mask) -> CutEvidence | None:
        """Measure the cut around a side, (r, c) bool; None if a side is too small to have a cell of its own."""
        other = self.grid & ~side
        in_cells = cv2.resize(side.astype(np.float32), self.cells.inside.shape[::-1], interpolation=cv2.INTER_AREA)
        share = cv2.resize(self.grid.astype(np.float32), self.cells.inside.shape[::-1], interpolation=cv2.INTER_AREA)
        cell_side = self.cells.inside & (in_cells >= 0.5 * share)
        cell_other = self.cells.inside & ~cell_side
        if not cell_side.any() or not cell_other.any() or not side.any() or not other.any():
            return None
        one, two = self.cells.features[cell_side], self.cells.features[cell_other]
        spread = np.sqrt(0.5 * (one.var(axis=0) + two.var(axis=0))) + 2.0
        border = _border(side, other)
        neck = min(self._neck(side, other, border), _WIDEST_NECK)
        areas = sorted((np.count_nonzero(side), np.count_nonzero(other)))
        left = sum(np.count_nonzero(part) * (1 - solidity(part)) for part in (side, other)) / sum(areas)
        return CutEvidence(
            neck=neck,
            neck_squared=neck**2,
            contrast=float(np.linalg.norm((one.mean(axis=0) - two.mean(axis=0)) / spread)),
            edge=self._edge(cell_side, cell_other),
            crease=float(np.log1p(_mean(self._crease[_among(border, self._core)]))),
            convexity=float(np.log((self._lacking + _SOFTENING) / (left + _SOFTENING))),
            balance=float(np.log(areas[0] / areas[1])),
        )

    def _reduced(self, values: NDArray[np.generic]) -> Floats:
        return np.asarray(cv2.resize(values, self._size, interpolation=cv2.INTER_AREA))

    def _neck(self, side: Mask, other: Mask, border: Mask) -> float:
        narrower = min(_widest(side, side), _widest(other, other))
        return _widest(self.grid, border) / max(1.0, narrower)

    def _edge(self, side: Mask, other: Mask) -> float:
        border = _border(side, other)
        along = _among(border, self._cell_core)  # the gradient is high all along the component's outline
        gradient, elsewhere = (_mean(self.cells.gradient[place]) for place in (along, self._cell_core & ~border))
        return float(np.log((gradient + 1.0) / (elsewhere + 1.0)))


def solidity(mask: Mask) -> float:
    """Area relative to that of the convex hull, holes counted as filled."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = max(contours, key=len)
    hull = cv2.convexHull(contour)
    # OpenCV's contour runs through the centres of the border cells, which leaves out half a cell along its length.
    filled, convex = (cv2.contourArea(part) + cv2.arcLength(part, True) / 2 + 1 for part in (contour, hull))
    return float(min(1.0, filled / convex))


def _creases(grid: Mask, image: Floats) -> Floats:
    """Depth of the deepest dark line near each pixel, in units of lightness, (r, c): closing minus lightness."""
    light = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[..., 0]
    light = cv2.GaussianBlur(light, (0, 0), 1.0)
    radius = max(2, round(_CREASE * float(np.count_nonzero(grid)) ** 0.5))
    weight = grid.astype(np.float32)
    around = cv2.GaussianBlur(light * weight, (0, 0), radius)
    around /= np.maximum(cv2.GaussianBlur(weight, (0, 0), radius), 1e-3)
    filled = np.where(grid, light, around)  # what lies outside of the component is no side of a crease
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(cv2.morphologyEx(filled, cv2.MORPH_CLOSE, disc) - filled, _TOLERANCE))


def _border(side: Mask, other: Mask) -> Mask:
    """The pixels of each side that touch the other side."""
    grown_side, grown_other = (cv2.dilate(part.astype(np.uint8), _SQUARE) > 0 for part in (side, other))
    return np.asarray((grown_side & other) | (grown_other & side))


def _among(border: Mask, core: Mask) -> Mask:
    """What of a border lies in the core; all of it if nothing does."""
    inner = border & core
    return inner if inner.any() else border


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0


def _widest(mask: Mask, among: Mask) -> float:
    """Diameter, in pixels of the mask, of the largest disc inside it whose centre is `among` these pixels."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1]
    return 2 * float(depth[among].max(initial=0.5)) - 1
