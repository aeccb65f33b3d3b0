"""One-dimensional k-means: numbers into clusters, by Lloyd's iteration on the sorted numbers.

A cluster of sorted numbers is a range, so an iteration costs a binary search a centre instead of a look at every number. The iteration
ends in one of many optima, a third above the least error or worse where clusters are many. The start "exact" is the best partition of a
thousand groups of neighbours, found by dynamic programming (Wang and Song 2011, doi:10.32614/RJ-2011-015), which leaves it little to do.
"""

from __future__ import annotations

import numpy as np

ITERATIONS = 1000
STILL = 1e-6  # of the range: centres that moved no farther have settled
DRAWN = 1 << 15  # numbers among which kmeans++ chooses its centres
GROUPS = 1024  # of neighbours, that "exact" cuts between


def centres(numbers: np.ndarray, count: int, start: str, seed: int) -> np.ndarray:
    """At most `count` centres (k,) float32, ascending, of numbers (n,); fewer where there are fewer distinct numbers.

    `start`: near the least error (exact), evenly over the range (linear), over the ranks (density), or drawn by squared distance
    (kmeans++, arXiv:1203.6402).
    """
    row = np.sort(numbers.astype(np.float32, copy=False))
    if not row.size:
        return np.zeros(0, np.float32)
    distinct = row[np.concatenate([[True], row[1:] != row[:-1]])] if row.size < 4 * count or row[count] == row[0] else None
    if distinct is not None and distinct.size <= count:
        return distinct
    sums = np.concatenate([[0.0], np.cumsum(row, dtype=np.float64)])
    found = _start(row, count, start, seed)
    for _ in range(ITERATIONS):
        ends = np.concatenate([[0], np.searchsorted(row, _between(found)), [row.size]])
        sizes = np.diff(ends)
        moved = np.where(sizes > 0, np.diff(sums[ends]) / np.maximum(sizes, 1), found)
        if (sizes == 0).any():
            moved = _fill(row, moved, sizes, ends)
        change = np.abs(moved - found).max()
        found = moved
        if change <= STILL * (row[-1] - row[0]):
            break
    return np.unique(found.astype(np.float32))


def _between(found: np.ndarray) -> np.ndarray:
    """The midpoints of neighbours as float32, never rounded down: as many float32 numbers lie below, and looking for them converts none."""
    exact = (found[1:] + found[:-1]) / 2
    rounded = exact.astype(np.float32)
    return np.where(rounded < exact, np.nextafter(rounded, np.float32(np.inf)), rounded)


def _start(row: np.ndarray, count: int, start: str, seed: int) -> np.ndarray:
    if start == "exact":
        return _exact(row, count)
    if start == "linear":
        return np.linspace(row[0], row[-1], count, dtype=np.float64)
    if start == "density":
        return row[((np.arange(count) + 0.5) / count * row.size).astype(int)].astype(np.float64)
    few = row[:: max(1, row.size // DRAWN)].astype(np.float64)
    generator = np.random.default_rng(seed)
    found = [few[generator.integers(few.size)]]
    distance = (few - found[0]) ** 2
    while len(found) < count and distance.any():
        found.append(few[np.searchsorted(np.cumsum(distance), generator.random() * distance.sum(), side="right").clip(max=few.size - 1)])
        distance = np.minimum(distance, (few - found[-1]) ** 2)
    return np.sort(np.concatenate([found, np.linspace(row[0], row[-1], count - len(found))]) if len(found) < count else np.array(found))


def _fill(row: np.ndarray, moved: np.ndarray, sizes: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Centres that won no number go to the middle of the widest clusters, so that none is wasted."""
    empty = np.flatnonzero(sizes == 0)
    spans = np.where(sizes > 1, row[np.maximum(ends[1:], 1) - 1] - row[np.minimum(ends[:-1], row.size - 1)], 0.0)
    widest = np.argsort(-spans, kind="stable")[: empty.size]
    moved = moved.copy()
    for place, cluster in zip(empty, widest):
        if spans[cluster] > 0:
            moved[place] = row[ends[cluster]] + 0.25 * spans[cluster]
    return np.sort(moved)


def _exact(row: np.ndarray, count: int) -> np.ndarray:
    """The means (count,) of the best cut of the sorted numbers into ranges, each a union of groups of neighbours.

    Half of the groups hold equally many numbers, half are equally wide, so that neither the middle nor the ends are coarse.
    """
    groups = max(GROUPS, 6 * count)
    ranks = np.linspace(0, row.size, groups // 2 + 1)[:-1].astype(int)
    wide = np.searchsorted(row, np.linspace(row[0], row[-1], groups // 2, dtype=np.float64))
    starts = np.unique(np.concatenate([ranks, np.minimum(wide, row.size - 1)]))
    numbers = row.astype(np.float64) - float(row.mean(dtype=np.float64))  # about 0, so that squares cancel less
    weight = np.concatenate([[0.0], np.cumsum(np.diff(np.append(starts, row.size)))])
    first = np.concatenate([[0.0], np.cumsum(np.add.reduceat(numbers, starts))])
    second = np.concatenate([[0.0], np.cumsum(np.add.reduceat(np.square(numbers), starts))])
    size = len(starts)

    def spread(begin, end):
        """Squared error of groups begin … end − 1 as one cluster."""
        total = first[end] - first[begin]
        return second[end] - second[begin] - total * total / np.maximum(weight[end] - weight[begin], 1)

    ends = np.arange(size + 1)
    least = spread(np.zeros(size + 1, int), ends)
    cuts = []
    for clusters in range(2, min(count, size) + 1):
        least, cut = _one_more(least, spread, size, clusters)
        cuts.append(cut)
    borders, end = [size], size
    for cut in reversed(cuts):
        end = int(cut[end])
        borders.append(end)
    borders = np.unique(np.append(borders, 0))
    means = np.diff(first[borders]) / np.diff(weight[borders]) + float(row.mean(dtype=np.float64))
    return means if means.size == count else np.sort(np.concatenate([means, np.linspace(row[0], row[-1], count - means.size)]))


def _one_more(before: np.ndarray, spread, size: int, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """The least errors of the first j groups in one cluster more than `before`, and where the last of them begins.

    The best beginnings rise with j, so each is looked for between those of its neighbours, half of the j at a time.
    """
    least, cut = np.full(size + 1, np.inf), np.zeros(size + 1, int)
    known = np.array([clusters - 1, size + 1])  # j whose beginnings are known; the two ends stand for the limits
    limits = np.zeros(size + 2, int)
    limits[clusters - 1], limits[size + 1] = clusters - 1, size
    while True:
        middle = (known[1:] + known[:-1]) // 2
        fresh = middle[(middle > known[:-1]) & (middle < known[1:])]
        if not fresh.size:
            return least, cut
        place = np.searchsorted(known, fresh)
        low = np.maximum(limits[known[place - 1]], clusters - 1)
        high = np.minimum(np.minimum(limits[known[place]], fresh - 1), size - 1)
        high = np.maximum(high, low)
        lengths = high - low + 1
        offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        begins = np.arange(lengths.sum()) - np.repeat(offsets - low, lengths)
        errors = before[begins] + spread(begins, np.repeat(fresh, lengths))
        best = np.minimum.reduceat(errors, offsets)
        at = np.flatnonzero(errors == np.repeat(best, lengths))
        which = np.repeat(np.arange(fresh.size), lengths)[at]
        firsts = at[np.searchsorted(which, np.arange(fresh.size))]
        least[fresh], cut[fresh] = best, begins[firsts]
        limits[fresh] = cut[fresh]
        known = np.sort(np.concatenate([known, fresh]))
