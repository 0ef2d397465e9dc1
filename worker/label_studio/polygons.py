"""Outlines: a mask to rings of points and a ring back to a mask.

Own code because OpenCV's contours run through pixel centres: filled as the editor's canvas fills a path, they lost
3.8 % of the pixels of twenty random masks of 600 x 400, these rings none (tolerance 0, 2026-11-29). Nor does OpenCV
join holes to their outline, and its `approxPolyDP` goes beyond the tolerance, see `_simplify`.

Points are (x, y) in pixels of the image, in the frame of pixel edges: the image spans 0..W and 0..H, the first pixel is
the square from (0, 0) to (1, 1), its centre is (0.5, 0.5). A pixel is inside a ring when its centre is, by non-zero
winding, which is how a canvas fills a path.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(N, 2) float64, x and y in pixels, frame of pixel edges."""

_NEAREST_WORK = 20_000_000  # holes x points of an island up to which the nearest point is searched: some 0.2 s
_CROSSINGS = 1 << 21  # of edges and rows handled at a time: some hundred megabytes for any ring


def mask_rings(mask: NDArray[np.bool_], *, tolerance: float) -> list[Points]:
    """Outline each island of a mask with one ring; an island in a hole of another is an island of its own.

    A hole is joined to its island's outline by a cut: a line walked there and back, which encloses nothing. So one
    island stays one ring, and filling it leaves the hole open. Pixels that touch at a corner belong to one island.

    Args:
        mask: (H, W) bool.
        tolerance: in pixels, at least 0. No point of an outline is moved further, and none at all for 0. Islands
            thinner than that are kept closer, to half their width, so that lines and dots survive.

    Returns:
        Closed rings without the repeated first point, three points or more each. Pixels whose centre is further from
        the mask's outline than the tolerance keep their value.
    """
    islands = _island_outlines(mask)
    rings = [ring for island in islands for ring in island]
    if not rings:
        return []
    limits = np.array([min(tolerance, _half_width(island)) for island in islands])
    simple = iter(_simplify(rings, np.repeat(limits, [len(island) for island in islands])))
    return [_cut_open([next(simple) for _ in island]) for island in islands]


def fill_ring(points: Points, *, height: int, width: int) -> NDArray[np.bool_]:
    """Mask of the pixels whose centre lies in a ring, clipped to the image.

    Args:
        points: closed ring; the first point may be repeated at the end.
        height: in pixels.
        width: in pixels.

    Returns:
        (H, W) bool. A centre exactly on the ring is inside on the ring's left and upper side only.
    """
    ends = np.roll(points, -1, axis=0)
    down = points[:, 1] <= ends[:, 1]
    # Both ways along a cut must cross a row at the very same x: always compute it from the upper end.
    upper, lower = np.where(down[:, None], points, ends), np.where(down[:, None], ends, points)
    top = np.clip(np.ceil(upper[:, 1] - 0.5), 0, height).astype(np.int64)  # first row whose centre is not above
    rows = np.clip(np.ceil(lower[:, 1] - 0.5), 0, height).astype(np.int64) - top
    mask = np.zeros((height, width), dtype=np.bool_)
    crossing = np.flatnonzero(rows)
    if not crossing.size:
        return mask
    first, after = int(top[crossing].min()), int((top + rows)[crossing].max())
    turns = np.zeros((after - first, width + 1), dtype=np.int32)
    batches = np.cumsum(rows[crossing]) // _CROSSINGS
    for edges in np.split(crossing, np.flatnonzero(np.diff(batches)) + 1):
        row, column, edge = _crossings(upper, lower, top, rows, edges)
        np.add.at(turns, (row - first, np.clip(column, 0, width).astype(np.int64)), np.where(down, 1, -1)[edge])
    mask[first:after] = np.cumsum(turns, axis=1, out=turns)[:, :width] != 0
    return mask


def _crossings(
    upper: Points, lower: Points, top: NDArray[np.int64], rows: NDArray[np.int64], edges: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Row, first pixel not left of the edge, and edge, for each row of pixel centres that each of `edges` crosses."""
    counts = rows[edges]
    edge = np.repeat(edges, counts)
    row = np.arange(edge.size) - np.repeat(np.cumsum(counts) - counts, counts) + top[edge]
    (upper_x, upper_y), (lower_x, lower_y) = upper[edge].T, lower[edge].T
    x = upper_x + (row + 0.5 - upper_y) * ((lower_x - upper_x) / (lower_y - upper_y))
    return row, np.ceil(x - 0.5), edge


def _island_outlines(mask: NDArray[np.bool_]) -> list[list[Points]]:
    """For each island its outer ring and then its holes, on pixel corners."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # OpenCV walks through the centres of border pixels. On the mask drawn twice as large they lie a quarter pixel
    # inside the border, on either side, so halving and rounding outwards gives the corners themselves.
    double = box.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, tree = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    islands: dict[int, list[Points]] = {}
    for number, contour in enumerate(contours):
        parent = int(tree[0, number, 3])
        ring = _drop_idle(((contour[:, 0] + 1) // 2 + (columns[0], rows[0])).astype(np.float64))
        # The outer ring turns one way and its holes the other, so that they cancel when filled.
        if (_area(ring) > 0) != (parent < 0):
            ring = ring[::-1]
        islands.setdefault(number if parent < 0 else parent, []).insert(0 if parent < 0 else 1, ring)
    return list(islands.values())


def _drop_idle(ring: Points) -> Points:
    """The ring without repeated points."""
    moved: NDArray[np.bool_] = (ring != np.roll(ring, 1, axis=0)).any(axis=1)
    return ring[moved]


def _area(ring: Points) -> float:
    """Signed area of a ring in square pixels."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2


def _half_width(island: list[Points]) -> float:
    """Half the width of an island in pixels, were it a strip along its outline: area over perimeter."""
    perimeter = sum(float(np.hypot(*(ring - np.roll(ring, 1, axis=0)).T).sum()) for ring in island)
    return sum(_area(ring) for ring in island) / perimeter


def _simplify(rings: list[Points], limits: NDArray[np.float64]) -> list[Points]:
    """Douglas-Peucker on all rings at once, breadth first; a ring that would lose its area is left as it is.

    `cv2.approxPolyDP` measures to the endless line through a chord and then drops further points, so it may go beyond
    its tolerance (seen: 1.27 px for 1); here the distance is to the chord itself and the limit holds.
    """
    points = np.concatenate(rings)
    sizes = np.array([len(ring) for ring in rings])
    ring_starts = np.cumsum(sizes) - sizes
    ring_of = np.repeat(np.arange(len(rings)), sizes)
    kept = np.zeros(len(points), dtype=np.bool_)
    kept[ring_starts] = True
    while True:
        starts = np.flatnonzero(kept)
        same = np.append(ring_of[starts[1:]] == ring_of[starts[:-1]], False)
        stops = np.where(same, np.roll(starts, -1), ring_starts[ring_of[starts]])
        chord = np.cumsum(kept) - 1
        distance = _chord_distance(points, points[starts][chord], points[stops][chord])
        furthest = np.maximum.reduceat(distance, starts)[chord]
        split = (distance == furthest) & (distance > limits[ring_of]) & ~kept
        if not split.any():
            break
        kept |= split
    kept |= np.bincount(ring_of, weights=kept)[ring_of] < 3
    return np.split(points[kept], np.cumsum(np.bincount(ring_of[kept]))[:-1])


def _chord_distance(points: Points, starts: Points, stops: Points) -> NDArray[np.float64]:
    """Distance in pixels of each point to its chord, a line segment."""
    chord, away = stops - starts, points - starts
    squared = (chord**2).sum(axis=1)
    along = np.clip((away * chord).sum(axis=1) / np.maximum(squared, 1e-12), 0, 1)
    return np.asarray(np.hypot(*(away - along[:, None] * chord).T))


def _cut_open(island: list[Points]) -> Points:
    """One ring for an outer ring and its holes, each joined by a cut to the nearest point there is.

    In an island full of holes that search would take minutes: there each hole is joined to the one before it.
    """
    ring, *holes = island
    holes.sort(key=lambda hole: float(hole[:, 0].min()))
    walks = [
        np.concatenate((np.roll(hole, -int(hole[:, 0].argmin()), axis=0), hole[[hole[:, 0].argmin()]]))
        for hole in holes
    ]
    if len(walks) * sum(map(len, island)) > _NEAREST_WORK:
        back = np.array([walk[0] for walk in walks[-2::-1]]).reshape(-1, 2)
        walks = [np.concatenate((*walks, back))]
    for walk in walks:
        anchor = int(((ring - walk[0]) ** 2).sum(axis=1).argmin())
        ring = np.concatenate((ring[: anchor + 1], walk, ring[anchor:]))
    return ring
