"""Polygons of few points: straight edges fitted to outlines by least squares.

Own code because Douglas-Peucker picks its points from the outline. On a staircase of pixels that takes two to four
times as many as an annotator would, in clumps, and a polygon inscribed into a bent outline loses area. Here the outline
is divided into as few runs as a straight line each fits well enough, the points are put where those lines cross, and
moved once more so that all edges together fit best. All rings are worked on at once.

A run is judged by the root mean square distance of its points from the line that fits them best (total least squares),
which sums of coordinates and their products along the outline give at once for any run. "Well enough" only ever gets
worse as a run grows longer, but for rare cases, so the furthest end from each start is found by bisection, and going
from end to end is the division into the fewest runs (as in Imai and Iri, 1988, for chords).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_STARTS = 48  # from which a division of a ring is tried
_BALANCINGS, _FITTINGS = 3, 2  # repeats of moving the ends of runs, and of moving the points
_HOLD = 0.02  # how much a point is held where it is, against lines that are nearly parallel
_STRIDE = 2  # pixels that a point may be moved at once


def fit_rings(rings: list[Points], *, errors: Floats, limits: Floats, size: tuple[int, int]) -> list[Points]:
    """Fit a polygon of few points to each ring.

    Args:
        rings: closed, each of at least four corners of pixels, (N, 2): neighbours differ in x or in y, by whole pixels.
        errors: (R,) in pixels, above 0: root mean square distance up to which an edge fits its part of a ring.
        limits: (R,) in pixels, at least 0: no point of a ring is further from the polygon than that, nor the other way
            round. Where a polygon of few points would be, corners of the ring are added to it.
        size: (H, W) of the image in pixels, beyond which no point goes.

    Returns:
        For each ring a polygon of three points or more, turning the same way.
    """
    outlines = _Outlines.of(rings)
    ends = outlines.fewest_ends(errors)
    for _ in range(_BALANCINGS):
        ends = outlines.balanced(ends)
    points = outlines.crossings(ends)
    for _ in range(_FITTINGS):
        ends, points = outlines.nearest_ends(ends, points)
        points = outlines.fitted(ends, points)
    return outlines.within(limits, size, ends, points)


@dataclass(frozen=True)
class _Runs:
    """Runs of outlines, in order, each from its place to that of the next run of its ring.

    Attributes:
        ring: (K,) of each.
        start: (K,) place of its first point in two laps of its ring, in the first lap.
        stop: (K,) place behind its last point, at most a lap further.
        next: (K,) number of the run behind it.
        previous: (K,) number of the run before it.
    """

    ring: Ints
    start: Ints
    stop: Ints
    next: Ints
    previous: Ints


@dataclass(frozen=True)
class _Outlines:
    """Rings as sides of pixels, one after another, and sums along them.

    Attributes:
        corners: (N, 2) where each side starts, all rings after each other.
        middles: (N, 2) of the sides.
        ring: (N,) of each side.
        first: (R,) number of each ring's first side.
        count: (R,) sides of each ring.
        centres: (R, 2) means of the middles.
        sums: (2 N + 1, 5) of x, y, xx, yy and xy of the middles, from the centres, before each place; a ring takes two
            laps of places, which begin at twice its first side, so that every run of a ring is a range.
    """

    corners: Points
    middles: Points
    ring: Ints
    first: Ints
    count: Ints
    centres: Points
    sums: Floats

    @classmethod
    def of(cls, rings: list[Points]) -> _Outlines:
        """Walk along rings of pixel corners."""
        ahead = np.concatenate([np.roll(ring, -1, axis=0) - ring for ring in rings])
        lengths = np.abs(ahead).sum(axis=1)
        sides = lengths.astype(np.int64)
        steps = np.repeat(ahead / lengths[:, None], sides, axis=0)
        corners = np.repeat(np.concatenate(rings), sides, axis=0) + steps * _counting(sides)[:, None]
        middles = corners + steps / 2
        count = np.add.reduceat(sides, _starts(np.array([len(ring) for ring in rings])))
        first, ring = _starts(count), np.repeat(np.arange(len(rings)), count)
        centres = np.add.reduceat(middles, first) / count[:, None]
        x, y = (middles - centres[ring])[np.repeat(first, 2 * count) + _counting(np.repeat(count, 2))].T
        sums = np.zeros((len(x) + 1, 5))
        np.cumsum(np.stack((x, y, x * x, y * y, x * y), axis=1), axis=0, out=sums[1:])
        return cls(corners, middles, ring, first, count, centres, sums)

    def fewest_ends(self, errors: Floats) -> Ints:
        """Divide each ring into the fewest runs that fit well enough, three or more; see `fit_rings` for `errors`.

        Returns:
            (K,) sides with which runs start, ascending.
        """
        places = np.arange(len(self.ring)) + self.first[self.ring]
        reach = self._reach(places, errors)
        misfit = self._misfit(places, places + reach)
        tried = np.minimum(reach[self.first], _STARTS)
        ring = np.repeat(np.arange(len(tried)), tried)
        start = 2 * self.first[ring] + _counting(tried) * reach[self.first][ring] // tried[ring]
        stop = start + self.count[ring]
        place, runs, total = start.copy(), np.zeros(len(ring), dtype=np.int64), np.zeros(len(ring))
        going = np.arange(len(ring))
        while going.size:
            side = self._side(ring[going], place[going])
            ahead = place[going] + reach[side]
            runs[going] += 1
            total[going] += misfit[side]
            place[going] = ahead
            going = going[ahead < stop[going]]
        best = np.lexsort((total, runs, ring))[_starts(tried)]
        is_end = self._walk(ring[best], start[best], reach)
        two = best[np.bincount(self.ring[is_end], minlength=len(best)) < 3]  # the sides of a strip
        is_end |= self._walk(ring[two], start[two], np.minimum(reach, np.maximum(2 * self.count // 5, 1)[self.ring]))
        return np.flatnonzero(is_end)

    def _reach(self, places: Ints, errors: Floats) -> Ints:
        """(N,) sides of the longest run from each side that fits well enough, by bisection; at most half a ring."""
        most = errors[self.ring] ** 2
        least: Ints = np.ones(len(places), dtype=np.int64)
        longest: Ints = self.count[self.ring] // 2
        while (least < longest).any():
            tried = (least + longest + 1) // 2
            fits = self._misfit(places, places + tried) <= most * tried
            least, longest = np.where(fits, tried, least), np.where(fits, longest, tried - 1)
        return least

    def _walk(self, ring: Ints, start: Ints, reach: Ints) -> NDArray[np.bool_]:
        """(N,) whether a run starts with each side, when rings are walked from their starts by `reach`."""
        is_end = np.zeros(len(self.ring), dtype=np.bool_)
        place: Ints = start.copy()
        stop: Ints = start + self.count[ring]
        while place.size:
            side = self._side(ring, place)
            is_end[side] = True
            place = place + reach[side]
            going = place < stop
            ring, place, stop = ring[going], place[going], stop[going]
        return is_end

    def balanced(self, ends: Ints) -> Ints:
        """Move each end of two runs to where both together fit best, at most to the middle of either."""
        runs = self._runs(ends)
        lap = self.count[runs.ring]
        before = self._before(runs)
        shift = np.where(before < 2 * self.first[runs.ring], lap, 0)
        before, here, after = before + shift, runs.start + shift, runs.stop + shift
        least = here - (here - before - 1) // 2
        counts = here + (after - here) // 2 - least + 1
        run = np.repeat(np.arange(len(ends)), counts)
        place = least[run] + _counting(counts)
        misfit = self._misfit(before[run], place) + self._misfit(place, after[run])
        misfit += 1e-9 * np.abs(place - here[run])
        return self._sorted(runs.ring, _lowest(place, misfit, counts))[0]

    def crossings(self, ends: Ints) -> Points:
        """(K, 2) where the lines of neighbouring runs cross; of nearly parallel ones, close to their common end."""
        runs = self._runs(ends)
        mean, spread = self._moments(runs.start, runs.stop)
        turn = np.arctan2(2 * spread[:, 2], spread[:, 0] - spread[:, 1]) / 2
        normal = np.stack((-np.sin(turn), np.cos(turn)), axis=1)
        at = self.corners[ends]
        away = ((self.centres[runs.ring] + mean - at) * normal).sum(axis=1)
        away_before = ((self.centres[runs.ring] + mean)[runs.previous] - at) * normal[runs.previous]
        pull = away[:, None] * normal + away_before.sum(axis=1)[:, None] * normal[runs.previous]
        return at + _solved(_outer(normal) + _outer(normal[runs.previous]), pull, _HOLD)

    def nearest_ends(self, ends: Ints, points: Points) -> tuple[Ints, Points]:
        """Move the ends of runs to the places of the outline that are nearest to the points between them."""
        runs = self._runs(ends)
        least = runs.start - (runs.start - self._before(runs) - 1) // 2
        counts = runs.start + (runs.stop - runs.start) // 2 - least + 1
        run = np.repeat(np.arange(len(ends)), counts)
        place = least[run] + _counting(counts)
        away = self.corners[self._side(runs.ring[run], place)] - points[run]
        ends, order = self._sorted(runs.ring, _lowest(place, (away**2).sum(axis=1), counts))
        return ends, points[order]

    def fitted(self, ends: Ints, points: Points) -> Points:
        """Move the points so that the edges between them fit their runs best: each in turn, the others as they are."""
        runs = self._runs(ends)
        number = np.arange(len(ends)) - np.searchsorted(runs.ring, runs.ring)
        is_last = runs.ring != runs.ring[np.minimum(np.arange(len(ends)) + 1, len(ends) - 1)]
        is_last[-1] = True
        turns = np.where(is_last & (number % 2 == 0), 2, number % 2)  # neighbours never move in the same turn
        moved = np.zeros_like(points)
        system = self._edge_system(runs, points)
        for _ in range(3):
            for turn in range(3):
                k = np.flatnonzero(turns == turn)
                moved[k] = self._moves(system, runs, k, moved)
        length = np.hypot(*moved.T)
        return np.asarray(points + moved * np.minimum(1, _STRIDE / np.maximum(length, 1e-9))[:, None])

    def _edge_system(self, runs: _Runs, points: Points) -> tuple[Points, Floats]:
        """Normal (K, 2) of the edge from each point, and (5, K) sums over its run, for weights u from 0 at its start to
        1 at its end and distances d along the normal: of (1-u)(1-u), (1-u)u, uu, (1-u)d and ud.
        """
        mean, spread = self._moments(runs.start, runs.stop)
        edge = points[runs.next] - points
        length = np.maximum(np.hypot(*edge.T), 1e-6)
        along = edge / length[:, None]
        normal = np.stack((-along[:, 1], along[:, 0]), axis=1)
        away = self.centres[runs.ring] + mean - points
        u, d = (away * along).sum(axis=1) / length, (away * normal).sum(axis=1)
        (ax, ay), (nx, ny) = along.T, normal.T
        xx, yy, xy = spread.T
        uu = u * u + (xx * ax * ax + yy * ay * ay + 2 * xy * ax * ay) / length**2
        ud = u * d + (xx * ax * nx + yy * ay * ny + xy * (ax * ny + ay * nx)) / length
        return normal, np.stack((1 - 2 * u + uu, u - uu, uu, d - ud, ud)) * (runs.stop - runs.start)

    @staticmethod
    def _moves(system: tuple[Points, Floats], runs: _Runs, k: Ints, moved: Points) -> Points:
        """Best moves of points `k`, (len(k), 2), while the others are moved by `moved`."""
        normal, (starts, both, stops, start_pull, stop_pull) = system
        before, after = runs.previous[k], runs.next[k]
        own, other = normal[k], normal[before]
        pull = (start_pull[k] - both[k] * (own * moved[after]).sum(axis=1))[:, None] * own
        pull += (stop_pull[before] - both[before] * (other * moved[before]).sum(axis=1))[:, None] * other
        matrix = starts[k, None, None] * _outer(own) + stops[before, None, None] * _outer(other)
        return _solved(matrix, pull, _HOLD * (starts[k] + stops[before]))

    def within(self, limits: Floats, size: tuple[int, int], ends: Ints, points: Points) -> list[Points]:
        """Hold points to the limits and the size of `fit_rings`, and add corners where edges are beyond the limits."""
        at = self.corners[ends]
        away = np.clip(points, 0, size[::-1]) - at
        length = np.hypot(*away.T)
        points = at + away * np.minimum(1, limits[self.ring[ends]] / np.maximum(length, 1e-9))[:, None]
        anchors = self.corners.copy()
        anchors[ends] = points
        kept = np.zeros(len(self.ring), dtype=np.bool_)
        kept[ends] = True
        while True:
            ends = np.flatnonzero(kept)
            runs = self._runs(ends)
            run = np.cumsum(kept) - 1
            firsts = np.searchsorted(runs.ring, np.arange(len(self.first)))
            before_first = run < firsts[self.ring]
            run[before_first] = np.append(firsts[1:], len(ends))[self.ring[before_first]] - 1
            distance = chord_distance(self.corners, anchors[ends][run], anchors[ends][runs.next][run])
            distance[ends] = 0  # held to the limit above
            furthest = np.zeros(len(ends))
            np.maximum.at(furthest, run, distance)
            split = (distance > limits[self.ring]) & (distance == furthest[run])
            if not split.any():
                return np.split(anchors[ends], firsts[1:])
            kept |= split

    def _runs(self, ends: Ints) -> _Runs:
        ring = self.ring[ends]
        start = ends + self.first[ring]
        firsts = np.searchsorted(ring, np.arange(len(self.first)))
        is_last = np.append(ring[1:] != ring[:-1], True)
        after = np.where(is_last, firsts[ring], np.arange(len(ends)) + 1)
        previous = np.empty_like(after)
        previous[after] = np.arange(len(ends))
        return _Runs(ring, start, start[after] + np.where(is_last, self.count[ring], 0), after, previous)

    def _before(self, runs: _Runs) -> Ints:
        """Place at which the run before each starts, which may be before the first lap."""
        before = runs.start[runs.previous]
        return np.where(before >= runs.start, before - self.count[runs.ring], before)

    def _side(self, ring: Ints, place: Ints) -> Ints:
        """Side at a place, which may be up to a lap before or behind the two laps."""
        return np.asarray(self.first[ring] + (place - 2 * self.first[ring]) % self.count[ring])

    def _sorted(self, ring: Ints, places: Ints) -> tuple[Ints, Ints]:
        """Sides at places, ascending, and the order that sorts them."""
        sides = self._side(ring, places)
        order = np.argsort(sides, kind="stable")
        return sides[order], order

    def _moments(self, start: Ints, stop: Ints) -> tuple[Points, Floats]:
        """Mean (M, 2) from the centres, and variances (M, 3) of x, of y and of both, of runs."""
        sums = (self.sums[stop] - self.sums[start]) / (stop - start)[:, None]
        mean = sums[:, :2]
        return mean, sums[:, 2:] - np.stack((mean[:, 0] ** 2, mean[:, 1] ** 2, mean[:, 0] * mean[:, 1]), axis=1)

    def _misfit(self, start: Ints, stop: Ints) -> Floats:
        """(M,) sum of squared distances of runs from the lines that fit them best; runs of no side have none."""
        count = np.maximum(stop - start, 1)
        sums = self.sums[stop] - self.sums[start]
        x, y, xx, yy, xy = sums.T
        xx, yy, xy = xx - x * x / count, yy - y * y / count, xy - x * y / count
        return np.asarray(np.maximum((xx + yy) / 2 - np.hypot((xx - yy) / 2, xy), 0))


def chord_distance(points: Points, starts: Points, stops: Points) -> Floats:
    """Distance in pixels of each point to its chord, a line segment: (N, 2) each -> (N,)."""
    chord, away = stops - starts, points - starts
    squared = (chord**2).sum(axis=1)
    along = np.clip((away * chord).sum(axis=1) / np.maximum(squared, 1e-12), 0, 1)
    return np.asarray(np.hypot(*(away - along[:, None] * chord).T))


def _outer(vectors: Points) -> Floats:
    return np.asarray(vectors[:, :, None] * vectors[:, None, :])


def _solved(matrices: Floats, pull: Points, hold: Floats | float) -> Points:
    """(M, 2) solutions of 2 x 2 systems, `hold` added to their diagonals."""
    a, b, c = matrices[:, 0, 0] + hold, matrices[:, 0, 1], matrices[:, 1, 1] + hold
    x, y = pull.T
    return np.asarray(np.stack((c * x - b * y, a * y - b * x), axis=1) / (a * c - b * b)[:, None])


def _lowest(values: Ints, costs: Floats, counts: Ints) -> Ints:
    """The value of least cost in each of groups of `counts` after each other."""
    group = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((costs, group))
    return np.asarray(values[order[_starts(counts)]])


def _starts(counts: Ints) -> Ints:
    """Where each group starts, in groups of `counts` after each other."""
    return np.asarray(np.cumsum(counts) - counts)


def _counting(counts: Ints) -> Ints:
    """0, 1, 2 ... within each of groups of `counts` after each other."""
    return np.asarray(np.arange(counts.sum()) - np.repeat(_starts(counts), counts))
