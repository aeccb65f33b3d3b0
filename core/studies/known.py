"""What is known already: the measured runs of one dataset as flat rows, kept up to date from the store and the gallery.

    shelf = Shelf.of(Store())
    shelf.known("resnet18", "fashion_mnist").rows

Runs of this machine go before shipped ones. Only those count that are of the checkpoint, the data and the engine that are here now, over the whole
split. A graph's latency is the last that was measured of it on this machine; another machine's is marked. One `Shelf` serves every session, so it is
guarded by a lock; `core.studies.study` makes reports from it. Imports no torch.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from core import device, pareto, zoo
from core.datasets import DATASETS, labels
from core.errors import BadInput, NotHere
from core.lessons import students
from core.machine import machine
from core.papers import reproduced
from core.recipe import TRAIN, Recipe
from core.runtimes.timed import RUNTIMES
from core.store import COMPLETE, Store
from core.studies import gallery
from core.studies.points import RUNTIMES as RATIOS
from core.studies.points import latency, point, timing
from core.work import Work


@dataclass(frozen=True)
class Known:
    """The measured runs of one model on one dataset's validation split. `others` are those of other models on it.

    `apart` are shipped runs that are found by their ids and not drawn: students, many of which differ in the seed alone.
    """

    rows: list[dict] = field(default_factory=list)
    baseline: dict | None = None
    others: list[dict] = field(default_factory=list)
    apart: list[dict] = field(default_factory=list)

    def find(self, id: str) -> dict | None:
        everything = (*self.rows, *self.apart, *self.others, *([self.baseline] if self.baseline else []))
        return next((row for row in everything if row["id"] == id), None)

    def untimed(self, here: Mapping | None, tried: Collection[str]) -> dict | None:
        """A run whose graph was not timed on this machine, one a graph: the one at hand first, then those that train nothing."""
        rows = [*([self.baseline] if self.baseline and self.baseline["identity"] else []), *self.rows, *self.apart]
        at_hand = lambda row: here is not None and row["id"] == here["id"]
        wanted = [row for row in rows if (row["elsewhere"] and row["graph"]) or (row["ratio"] is None and at_hand(row))]
        wanted = [row for row in wanted if (row["graph"] or row["id"]) not in tried]
        return min(wanted, key=lambda row: (not at_hand(row), row["pictures"]), default=None)


class Shelf:
    """Flat rows of every COMPLETE run. A look costs one small query while nothing has changed."""

    @staticmethod
    def of(store: Store) -> Shelf:
        """What is in the store, and everything that is shipped, as this machine sees it."""
        return Shelf(store, [*reproduced.runs(), *gallery.runs()], machine()["id"], apart=students.runs())

    def __init__(self, store: Store, shipped: Iterable[Mapping], machine: str, apart: Iterable[Mapping] = ()):
        self._store, self._machine, self._lock, self._revision = store, machine, threading.Lock(), -1
        self._rows: dict[tuple, dict] = {}
        self._recipes: dict[str, Recipe] = {}  # by identity: parsing them all twice would take as long as drawing the chart
        self._timings: dict[tuple[str, str, str], dict] = {}  # what was timed on this machine
        self._beside: dict[tuple[str, str, str], dict] = {}  # and that in runtimes that no run comes with, by the graphs that runs name
        self._right: dict[str, np.ndarray] = {}
        self._current: dict[tuple[str, str], int] = {}
        self._ties: dict[tuple, set[str]] = {}
        self._apart = {result["identity"] for result in apart}
        self._shipped = [*shipped, *apart]
        for result in self._shipped:
            self._add(result)

    def results(self) -> list[Mapping]:
        """The shipped runs as they were measured."""
        return self._shipped

    def known(self, model: str, dataset: str, split: str = "validation") -> Known:
        """One row a model and recipe: the run of the device that computes here, before another's; of the store, before shipped ones. Raises `StoreError`."""
        with self._lock:
            self._refresh()
            rows = [row for row in self._rows.values() if row["dataset"] == dataset and row["split"] == split]
        family = DATASETS.get(dataset).family
        here = {found.model: found for found in zoo.checkpoints() if found.family == family}
        current: dict[str, tuple[int, dict]] = {}
        for row in rows:
            nearness = self._current_as(row, here[row["model"]]) if row["model"] in here else 0
            if nearness > current.get(row["id"], (0, row))[0]:
                current[row["id"]] = (nearness, row)
        rows = [row for _nearness, row in current.values()]
        own = [row for row in rows if row["model"] == model]
        drawn = [row for row in rows if row["family"] != "Baseline" and row["identity"] not in self._apart]
        baseline = next((row for row in own if row["family"] == "Baseline"), None) or _from_runs(own)
        if baseline is not None and baseline["identity"] is None:
            baseline |= self._timed(baseline)
        return Known(
            [row for row in drawn if row["model"] == model],
            baseline,
            [row for row in drawn if row["model"] != model],
            [row for row in own if row["identity"] in self._apart],
        )

    def _current_as(self, row: Mapping, checkpoint: zoo.Checkpoint) -> int:
        """2 of a run of the checkpoint, the data and the engine that are here now, over the whole split; 1 if another device computed it; else 0."""
        key = (row["identity"], checkpoint.hash, device.chosen())
        if key not in self._current:
            try:
                work = Work(row["model"], row["dataset"], self._recipes[row["identity"]], row["split"])
                self._current[key] = 2 if work.identity_of(checkpoint) == row["identity"] else int(work.is_identity(row["identity"]))
            except (BadInput, NotHere):  # refused for this model by now, or another model's checkpoint taught it, which has gone
                self._current[key] = 0
        return self._current[key]

    def _refresh(self) -> None:
        revision = self._store.revision()
        if revision == self._revision:
            return
        changed = self._store.rows(kind="run", states=[COMPLETE], since=self._revision if self._revision >= 0 else None)
        timings = self._store.latencies(self._machine)
        timed = timings != self._timings  # a graph, for the first time or again
        self._timings = timings
        in_order = sorted(timings.items(), key=lambda item: item[1].get("measured_at", 0.0))
        beside = {(*row["beside"], runtime): row for (_, _, runtime), row in in_order if "beside" in row}
        self._beside = beside
        if timed:
            self._rows = {place: row | self._timed(row) for place, row in self._rows.items()}
        for result in changed:
            self._add(result)
        if changed or timed:
            self._ties.clear()
        self._revision = revision

    def _add(self, result: Mapping) -> None:
        if not result.get("metrics") or not result["metrics"].get("artifact_bytes"):
            return
        try:
            recipe = Recipe.from_json(result["recipe"])
        except BadInput:  # measured in an order, or with a value, that is refused by now
            return
        place = (result["model"], result["dataset"], result["split"], result["identity"])
        foreign = (result.get("machine") or {}).get("id") != self._machine
        known = self._rows.get(place)
        if foreign and known is not None and not known["foreign"]:
            return  # what was measured here stays
        row = point(result, elsewhere=foreign)
        row["identity"], row["baseline"], row["foreign"] = result.get("identity"), result.get("baseline"), foreign
        row["graph"] = (latency(result["metrics"]) or {}).get("signature")
        row["graphs"] = _graphs(result)
        row |= self._timed(row)
        row["pictures"] = sum(step.epochs * step.images for step in recipe.steps if step.kind == TRAIN)
        self._rows[place], self._recipes[row["identity"]] = row, recipe

    def _timed(self, row: Mapping) -> dict:
        """The columns of a row that say its latency, from the last measurement of its graph on this machine, where there was one."""
        graphs = row["graphs"]
        if (*graphs.get(row["runtime"], ()), row["runtime"]) not in self._timings:
            return self._timed_beside(row)
        found = {runtime: self._timings[key] for runtime, each in graphs.items() if (key := (*each, runtime)) in self._timings}
        said = timing({"latencies": list(found.values())})
        kept = {} if row["elsewhere"] else {f"ratio_{name}": row[f"ratio_{name}"] for name, runtime in RATIOS.items() if runtime not in found}
        return said | kept | {"elsewhere": False} | self._timed_beside(row)

    def _timed_beside(self, row: Mapping) -> dict:
        """Latency in the runtimes that no run comes with, of the graphs that a row names: a `ratio_` for each, and what was timed in `beside`."""
        entries = {f"ratio_{name}": RUNTIMES.get(runtime) for name, runtime in RATIOS.items()}
        graphs = {name: (*row["graphs"][entry.beside], entry.name) for name, entry in entries.items() if entry.beside in row["graphs"]}
        timed = {name: self._beside[graph] for name, graph in graphs.items() if graph in self._beside}
        return {name: timed.get(name, {}).get("ratio") for name in graphs} | {"beside": timed}

    def right(self, row: Mapping) -> np.ndarray | None:
        """(n,) bool: which pictures of the split a run got right, from the labels that it predicted; None when they were not kept."""
        identity = row.get("identity")
        if identity not in self._right:
            stored = self._store.predicted(identity) if identity else None
            if not stored:
                return None
            predicted = np.frombuffer(stored, "<u2")
            self._right[identity] = predicted == labels(row["dataset"], row["split"])[: len(predicted)]
        return self._right[identity]

    def difference(self, row: Mapping, other: Mapping) -> dict | None:
        """`row` less `other` in points on the same pictures: `top1`, `low`, `high`."""
        from core.metrics.accuracy import paired_difference

        mine, theirs = self.right(row), self.right(other)
        return None if mine is None or theirs is None or len(mine) != len(theirs) else paired_difference(mine, theirs)

    def ties(self, known: Known, x: str) -> set[str]:
        """The ids of the runs that noise alone may keep off the front of accuracy over `x`."""
        with self._lock:
            rows = [row for row in known.rows if row.get(x)]
            key = (x, *(row["identity"] for row in rows))
            if key not in self._ties:
                found = pareto.ties(rows, {"top1": pareto.MAX, x: pareto.MIN}, lambda i, j: self._within_noise(rows[i], rows[j]))
                self._ties[key] = {row["id"] for row, tie in zip(rows, found) if tie}
            return self._ties[key]

    def _within_noise(self, row: Mapping, other: Mapping) -> bool:
        found = self.difference(row, other)
        return found is not None and found["low"] <= 0 <= found["high"]


def _graphs(result: Mapping) -> dict[str, tuple[str, str]]:
    """Runtime → the signatures of a result's graph and of the baseline's that its latency is compared with: int8 with float32."""
    base = latency(result.get("baseline") or {})
    if not base or "signature" not in base:
        return {}
    bases = {each["runtime"]: each for each in result["baseline"]["latencies"]}
    found = [each for each in result["metrics"]["latencies"] if "signature" in each]
    return {each["runtime"]: (each["signature"], bases.get(each["runtime"], base)["signature"]) for each in found}


def _from_runs(rows: list[dict]) -> dict | None:
    """The baseline as a run that compressed it has recorded it."""
    for row in reversed(rows):
        if row["baseline"]:
            nothing = {"top1": 0.0, "low": 0.0, "high": 0.0}
            result = {"model": row["model"], "dataset": row["dataset"], "recipe": Recipe().to_json(), "metrics": row["baseline"], "split": row["split"]}
            graphs = _graphs({"metrics": row["baseline"], "baseline": row["baseline"]})
            return point(result | {"difference": nothing}, elsewhere=row["foreign"]) | {"identity": None, "graph": None, "graphs": graphs, "pictures": 0}
    return None


def seconds_a_picture(rows: Iterable[Mapping], macs: float | None) -> float:
    """How long training takes here for one picture of a model of so many `macs`: by the runs that trained here, else by arithmetic.

    Other models' runs are scaled by their multiply-adds. The guess of 10 GMAC/s and half a millisecond a picture is on the
    safe side of what one core of 2026 does.
    """
    guess = _guess(macs or 4e7)
    seen = [
        row["seconds"]["compress"] / row["pictures"] * guess / _guess(row["macs"])
        for row in rows
        if row.get("pictures") and row["seconds"].get("compress", 0) > 1 and not row["foreign"]  # quicker ones found their training kept
    ]
    return statistics.median(seen) if seen else guess


def _guess(macs: float) -> float:
    return macs / 1e10 + 5e-4
