"""The front: which runs no other run equals or betters, how much it covers, where it bends, and what a budget leaves.

Works on any rows that answer `row[objective]` with a number or None. Pages, reports and notebooks call it; it imports numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MAX, MIN = "max", "min"
Objectives = Mapping[str, str]  # objective → "max" or "min", as in {"top1": "max", "artifact_bytes": "min"}
Row = Mapping[str, object]


def values(rows: Sequence[Row], objectives: Objectives) -> np.ndarray:
    """The rows' objectives (n, k) float64 with every direction turned to "smaller is better"; NaN where a row has no figure."""
    for name, direction in objectives.items():
        if direction not in (MAX, MIN):
            raise ValueError(f"the direction of {name} is {direction!r}; it takes 'max' or 'min'")
    table = np.full((len(rows), len(objectives)), np.nan)
    for column, (name, direction) in enumerate(objectives.items()):
        sign = -1.0 if direction == MAX else 1.0
        for at, row in enumerate(rows):
            value = row.get(name)
            if value is not None:
                table[at, column] = sign * float(value)
    return table


def dominance(table: np.ndarray) -> np.ndarray:
    """table (n, k), smaller is better → (n, n) bool: [i, j] says that row i equals or betters j everywhere and betters it somewhere.

    Rows with a NaN neither dominate nor are dominated.
    """
    no_worse = (table[:, None, :] <= table[None, :, :]).all(2)
    better = (table[:, None, :] < table[None, :, :]).any(2)
    return no_worse & better


def front(rows: Sequence[Row], objectives: Objectives) -> np.ndarray:
    """(n,) bool: the rows that no other row strictly dominates. Rows that lack an objective are never on the front."""
    table = values(rows, objectives)
    if not table.size:
        return np.zeros(len(rows), bool)
    return ~dominance(table).any(0) & ~np.isnan(table).any(1)


def ties(rows: Sequence[Row], objectives: Objectives, within_noise: Callable[[int, int], bool]) -> np.ndarray:
    """(n,) bool: rows off the front that noise alone may have put there.

    `within_noise(i, j)` is a paired test's word that the noisy objective of rows i and j cannot be told apart. A row is
    a tie when that holds against every row that dominates it; a row that differs only in what is exact never is.
    """
    table = values(rows, objectives)
    if not table.size:
        return np.zeros(len(rows), bool)
    over = dominance(table)
    return np.array([over[:, j].any() and all(within_noise(int(i), j) for i in np.flatnonzero(over[:, j])) for j in range(len(rows))], bool)


def hypervolume(rows: Sequence[Row], objectives: Objectives, reference: Row) -> float:
    """The volume that the rows dominate, up to the point `reference`; rows beyond it add nothing.

    Exact, by slicing along the last objective (Zitzler and Thiele 1998, doi:10.1007/BFb0056872).
    """
    table, corner = values(rows, objectives), values([reference], objectives)[0]
    table = table[~np.isnan(table).any(1)]
    return _volume(table[(table < corner).all(1)], corner)


def _volume(table: np.ndarray, corner: np.ndarray) -> float:
    """table (n, k) below `corner` (k,) → the volume of the union of the boxes between them."""
    if not len(table):
        return 0.0
    if table.shape[1] == 1:
        return float(corner[0] - table[:, 0].min())
    table = table[np.argsort(table[:, -1], kind="stable")]
    ends = np.append(table[1:, -1], corner[-1])
    return float(sum((end - row[-1]) * _volume(table[: at + 1, :-1], corner[:-1]) for at, (row, end) in enumerate(zip(table, ends)) if end > row[-1]))


def knee(rows: Sequence[Row], objectives: Objectives, log: Sequence[str] = ()) -> int | None:
    """The number of the front's row that lies farthest from the straight line between its two ends; None for fewer than three.

    Two objectives, each scaled to its range on the front; those named in `log` are taken by their logarithm. Das 1999,
    doi:10.1007/s001580050111.
    """
    if len(objectives) != 2:
        raise ValueError(f"a knee is defined for two objectives, not {len(objectives)}")
    members = np.flatnonzero(front(rows, objectives))
    table = np.array([[_scaled(rows[i][name], direction, name in log) for name, direction in objectives.items()] for i in members])
    if len(table) < 3:
        return None
    span = table.max(0) - table.min(0)
    if (span == 0).any():
        return None
    table = (table - table.min(0)) / span  # the ends are now (0, 1) and (1, 0)
    depth = 1 - table.sum(1)  # √2 times the distance from the line between them, positive on the better side
    return int(members[depth.argmax()]) if depth.max() > 0 else None


def _scaled(value: object, direction: str, logarithmic: bool) -> float:
    number = float(value)
    number = float(np.log(number)) if logarithmic else number
    return -number if direction == MAX else number


@dataclass(frozen=True)
class Limit:
    """One budget: `at_least` or `at_most` a value of one objective."""

    objective: str
    direction: str
    value: float

    def met_by(self, row: Row) -> bool:
        """Rows that have no figure do not meet a budget on it."""
        found = row.get(self.objective)
        return found is not None and (found >= self.value if self.direction == MAX else found <= self.value)

    def excess(self, row: Row) -> float:
        """By which share of the budget's value the row misses it; 0 when it is met, infinite without a figure."""
        found = row.get(self.objective)
        if found is None:
            return float("inf")
        gap = self.value - found if self.direction == MAX else found - self.value
        return max(0.0, gap) / abs(self.value) if self.value else max(0.0, gap)


@dataclass(frozen=True)
class Answer:
    """What budgets leave: `fits` (n,) bool; the row numbers of the best fitting and the nearest missing row; the limit that binds.

    `binding` is the limit whose lifting would admit most; for a fitting best row, the one that keeps a better row out.
    """

    fits: np.ndarray
    best: int | None
    nearest: int | None
    binding: Limit | None


def answer(rows: Sequence[Row], limits: Sequence[Limit], prefer: str = "top1", direction: str = MAX) -> Answer:
    """The best row by `prefer` within every limit, the row that misses them by least, and the limit that binds."""
    met = np.array([[limit.met_by(row) for limit in limits] for row in rows], bool).reshape(len(rows), len(limits))
    fits = met.all(1)
    worth = -values(rows, {prefer: direction})[:, 0] if rows else np.zeros(0)  # larger is better
    candidates = np.flatnonzero(fits & ~np.isnan(worth))
    best = int(candidates[worth[candidates].argmax()]) if len(candidates) else None
    missed = [(sum(limit.excess(rows[i]) for limit in limits), i) for i in range(len(rows)) if not fits[i]]
    missed = [(gap, i) for gap, i in missed if np.isfinite(gap)]
    nearest = min(missed)[1] if missed else None
    return Answer(fits, best, nearest, _binding(met, worth, limits, best))


def _binding(met: np.ndarray, worth: np.ndarray, limits: Sequence[Limit], best: int | None) -> Limit | None:
    """The limit that alone keeps out the most valuable row; failing that, the one that most rows miss."""
    bar = worth[best] if best is not None else -np.inf
    gains = []
    for number in range(len(limits)):
        alone = met[:, [other for other in range(len(limits)) if other != number]].all(1) & ~met[:, number] & (worth > bar)
        gains.append(worth[alone].max() if alone.any() else -np.inf)
    if gains and np.isfinite(max(gains)):
        return limits[int(np.argmax(gains))]
    if best is None and limits and len(met):
        return limits[int((~met).sum(0).argmax())]
    return None
