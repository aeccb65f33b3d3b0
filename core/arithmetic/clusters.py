"""One-dimensional k-means: numbers into clusters, by Lloyd's iteration on sorted numbers.

A cluster of sorted numbers is a range, so an iteration costs a binary search a centre instead of a look at every number. Many numbers are
counted first, in the 2^16 buckets of float16, which are sorted already: they are looked at once. The iteration ends in one of many optima, a
third above the least error or worse where clusters are many. The start "exact" is the best partition of some hundred groups of
neighbours, found by the dynamic programming of Ckmeans.1d.dp (Wang and Song 2011, doi:10.32614/RJ-2011-015), which leaves it little to do. What
takes long is done in pieces, each in a turn of its own, with the same result however many they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ckwrap
import numpy as np

ITERATIONS = 1000
STILL = 1e-6  # of the range: centres that moved no farther have settled
DRAWN = 1 << 12  # numbers among which kmeans++ chooses its centres
SORTED_BELOW = 1 << 15  # so few numbers are sorted; more are counted in buckets
BUCKETS_A_CLUSTER = 64  # numbers in fewer buckets are sorted after all: they lie closer together than float16 can tell
FEW_CLUSTERS, FEW_GROUPS = 16, 384  # of neighbours, that "exact" cuts between for so few clusters
MANY_GROUPS, GROUPS_A_CLUSTER = 512, 4  # at least, for more
PIECE = 1 << 22  # numbers that are looked at in one turn, some hundredths of a second
QUANTILES = 8  # of each sorted piece, by which the ranges are chosen that pieces are put together in
Turn = Callable[[], contextlib.AbstractContextManager]

_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
_FINITE = np.flatnonzero(np.isfinite(_HALVES))
_ASCENDING = _FINITE[np.argsort(_HALVES[_FINITE], kind="stable")]  # buckets from that of −65504 to that of 65504


@dataclass(frozen=True)
class Tally:
    """Numbers in ascending order: values (m,) float32; before (m + 1,) how many numbers, and sums (m + 1,) what of them, lie before each. float64."""

    values: np.ndarray
    before: np.ndarray
    sums: np.ndarray

    @staticmethod
    def of(values: np.ndarray, counts: np.ndarray | None = None) -> Tally:
        wide = values.astype(np.float64)
        before = np.arange(len(values) + 1.0) if counts is None else _running(counts)
        return Tally(values, before, _running(wide if counts is None else wide * counts))

    def at_ranks(self, ranks: np.ndarray) -> np.ndarray:
        """The numbers of these ranks (0 for the smallest), float64."""
        return self.values[np.searchsorted(self.before, ranks, side="right") - 1].astype(np.float64)


def centres(numbers: np.ndarray, count: int, start: str, seed: int, turn: Turn = contextlib.nullcontext) -> np.ndarray:
    """At most `count` centres (k,) float32, ascending, of the numbers (n,) that are not 0; fewer where there are fewer distinct numbers.

    `start`: near the least error (exact), evenly over the range (linear), over the ranks (density), or drawn by squared distance
    (kmeans++, arXiv:1203.6402). `turn` is entered around every piece of the work.
    """
    numbers = numbers.astype(np.float32, copy=False)
    tally = _counted(numbers, count, turn) if numbers.size > SORTED_BELOW else None
    if tally is None:
        row = _sorted(numbers, turn)
        with turn():
            distinct = row[np.concatenate([[True], row[1:] != row[:-1]])] if row.size else row
        if distinct.size <= count:
            return distinct
        with turn():
            tally = Tally.of(row)
    with turn():
        found = _start(tally, count, start, seed)
    with turn():
        return np.unique(_lloyd(tally, found).astype(np.float32))


def pieces(numbers: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers (n,) as rows of at most `PIECE`, in their order."""
    return (numbers[begin : begin + PIECE] for begin in range(0, numbers.size, PIECE))


def _counted(numbers: np.ndarray, count: int, turn: Turn = contextlib.nullcontext) -> Tally | None:
    """The numbers that are not 0 by their float16 buckets, scaled so that the largest just fits; None where they fill too few buckets.

    Scaling by a power of two is exact, and rounding is to nearest: a centre, a mean of many, moves by far less than a bucket.
    """
    import torch

    largest = 0.0
    for part in pieces(numbers):
        with turn():
            largest = max(largest, float(part.max()), -float(part.min()))
    if not 0 < largest < np.inf:
        return None
    power = 15 - int(np.frexp(largest)[1])  # largest · 2^power lies in [2^14, 2^15)
    counts = np.zeros(1 << 16, np.int64)
    for part in pieces(numbers):
        with turn():
            scaled = torch.from_numpy(part) * 2.0**power if abs(power) < 100 else torch.from_numpy(np.ldexp(part, power))
            counts += torch.bincount(scaled.half().view(torch.int16).int() & 0xFFFF, minlength=1 << 16).numpy()
    counts = counts[_ASCENDING]
    values = np.ldexp(_HALVES[_ASCENDING].astype(np.float32), -power)
    filled = np.flatnonzero((counts > 0) & (values != 0))
    return Tally.of(values[filled], counts[filled]) if filled.size >= BUCKETS_A_CLUSTER * count else None


def _sorted(numbers: np.ndarray, turn: Turn) -> np.ndarray:
    """The numbers that are not 0 in ascending order: every piece by itself, then what each has of one range of values after the other."""
    runs = []
    for part in pieces(numbers):
        with turn():
            runs.append(np.sort(part[part != 0]))
    if len(runs) < 2:
        return runs[0] if runs else numbers
    few = np.sort(np.concatenate([run[:: max(1, run.size // QUANTILES)] for run in runs]))
    borders = np.unique(few[QUANTILES::QUANTILES])
    cuts = [np.concatenate([[0], np.searchsorted(run, borders), [run.size]]) for run in runs]
    row, end = np.empty(sum(run.size for run in runs), np.float32), 0
    for at in range(len(borders) + 1):
        with turn():
            part = np.sort(np.concatenate([run[cut[at] : cut[at + 1]] for run, cut in zip(runs, cuts, strict=True)]))
            row[end : end + part.size] = part
            end += part.size
    return row


def _running(numbers: np.ndarray) -> np.ndarray:
    """The sums of the first 0, 1, …, n numbers."""
    return np.concatenate([[0.0], np.cumsum(numbers, dtype=np.float64)])


def _lloyd(tally: Tally, found: np.ndarray) -> np.ndarray:
    values = tally.values
    reach = STILL * float(values[-1] - values[0])
    for _ in range(ITERATIONS):
        ends = np.concatenate([[0], np.searchsorted(values, (found[1:] + found[:-1]) / 2), [len(values)]])
        sizes = np.diff(tally.before[ends])
        moved = np.where(sizes > 0, np.diff(tally.sums[ends]) / np.maximum(sizes, 1), found)
        if (sizes == 0).any():
            moved = _fill(values, moved, sizes, ends)
        change = np.abs(moved - found).max()
        found = moved
        if change <= reach:
            break
    return found


def _start(tally: Tally, count: int, start: str, seed: int) -> np.ndarray:
    if start == "exact":
        return _exact(tally, count)
    low, high, total = float(tally.values[0]), float(tally.values[-1]), int(tally.before[-1])
    if start == "linear":
        return np.linspace(low, high, count)
    if start == "density":
        return tally.at_ranks(((np.arange(count) + 0.5) / count * total).astype(int))
    few = tally.at_ranks(np.arange(0, total, max(1, total // DRAWN)))
    generator = np.random.default_rng(seed)
    found = [few[generator.integers(few.size)]]
    distance = (few - found[0]) ** 2
    while len(found) < count and distance.any():
        found.append(few[np.searchsorted(np.cumsum(distance), generator.random() * distance.sum(), side="right").clip(max=few.size - 1)])
        distance = np.minimum(distance, (few - found[-1]) ** 2)
    return np.sort(np.concatenate([found, np.linspace(low, high, count - len(found))]) if len(found) < count else np.array(found))


def _fill(values: np.ndarray, moved: np.ndarray, sizes: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Centres that won no number go to the middle of the widest clusters, so that none is wasted."""
    empty = np.flatnonzero(sizes == 0)
    spans = np.where(sizes > 1, values[np.maximum(ends[1:], 1) - 1] - values[np.minimum(ends[:-1], len(values) - 1)], 0.0)
    widest = np.argsort(-spans, kind="stable")[: empty.size]
    moved = moved.copy()
    for place, cluster in zip(empty, widest):
        if spans[cluster] > 0:
            moved[place] = values[ends[cluster]] + 0.25 * spans[cluster]
    return np.sort(moved)


def _exact(tally: Tally, count: int) -> np.ndarray:
    """The means (count,) of the best cut of the numbers into ranges, each a union of groups of neighbours.

    What lies inside a group adds the same to the error of every cut, so that its mean stands for it.
    """
    values = tally.values
    starts = _even_groups(tally) if count <= FEW_CLUSTERS else _dense_groups(tally, max(MANY_GROUPS, GROUPS_A_CLUSTER * count))
    borders = np.append(np.unique(np.searchsorted(values, values[starts])), len(values))  # equal numbers stay together
    sizes, largest = np.diff(tally.before[borders]), np.abs(values[[0, -1]]).max().astype(np.float64)
    middles, group = np.unique(np.diff(tally.sums[borders]) / sizes / largest, return_inverse=True)  # tiny numbers of a sum may come out alike
    found = ckwrap.ckmeans(middles, min(count, len(middles)), weights=np.bincount(group, sizes), method="loglinear")
    means = np.sort(found.centers) * largest
    return means if means.size == count else np.sort(np.concatenate([means, np.linspace(values[0], values[-1], count - means.size)]))


def _even_groups(tally: Tally) -> np.ndarray:
    """Where groups begin, half of which hold equally many numbers and half are equally wide, so that neither the middle nor the ends are coarse."""
    values, total = tally.values, tally.before[-1]
    ranks = np.searchsorted(tally.before, np.linspace(0, total, FEW_GROUPS // 2 + 1)[:-1].astype(int), side="right") - 1
    wide = np.searchsorted(values, np.linspace(values[0], values[-1], FEW_GROUPS // 2, dtype=np.float64))
    return np.concatenate([ranks, np.minimum(wide, len(values) - 1)])


def _dense_groups(tally: Tally, count: int) -> np.ndarray:
    """Where some `count` groups begin that lie as densely as the centres of the best of many clusters do: as the cube root of the numbers' density.

    Bennett 1948, doi:10.1002/j.1538-7305.1948.tb01340.x. A number that is alone far out has a group for itself and leaves the rest to the others.
    """
    firsts = np.flatnonzero(np.concatenate([[True], tally.values[1:] != tally.values[:-1]]))  # of equal numbers
    if len(firsts) <= count:
        return firsts
    gaps = np.diff(tally.values[firsts].astype(np.float64))
    widths = np.concatenate([gaps[:1], gaps]) + np.concatenate([gaps, gaps[-1:]])
    room = np.cbrt(np.diff(tally.before[np.append(firsts, len(tally.values))]) * widths**2)
    parted = np.partition(room, -count)
    falling = np.sort(parted[-count:])[::-1]
    shares = (parted[:-count].sum() + np.cumsum(falling[::-1])[::-1]) / np.arange(count, 0, -1)  # of a group, when 0, 1, … of the largest have one each
    room = np.minimum(room, shares[np.argmax(falling <= shares)])
    ends = np.cumsum(room)
    starts = np.searchsorted(ends, np.linspace(0, ends[-1], count, endpoint=False), side="right")
    alone = np.flatnonzero(room == room.max())
    return firsts[np.unique(np.minimum(np.concatenate([starts, alone, alone + 1]), len(firsts) - 1))]
