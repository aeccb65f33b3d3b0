"""Our figures beside the papers': found among the runs of this machine and those that are shipped, or measured.

`python -m core papers --build` makes assets/gallery/papers.json, whose rows are like the gallery's, with `against` for paired differences
to a run that is no baseline, and `checkpoints`, the hashes of what they started and learned from. A run of this machine goes before a
shipped one. Imports no torch until it measures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from core import zoo
from core.datasets import DATASETS
from core.errors import NotHere
from core.papers.classics import PAPERS, Paper, Row
from core.store import COMPLETE, Store
from core.studies import gallery
from core.work import MEASURED_SPLITS, Work

FILE = gallery.FOLDER / "papers.json"


@dataclass(frozen=True)
class Line:
    """A row of a paper with our result and its paired difference to the reference row (`top1`, `low`, `high`), None where there is none yet."""

    row: Row
    result: Mapping | None
    difference: Mapping | None


@dataclass(frozen=True)
class Standing:
    """A paper with our figures on one dataset and split."""

    paper: Paper
    dataset: str
    split: str
    lines: tuple[Line, ...]

    @property
    def missing(self) -> list[Row]:
        return [line.row for line in self.lines if line.result is None]


def work(row: Row, dataset: str, split: str) -> Work:
    return Work(row.model, dataset, row.recipe, split, latency=False)


def standings(paper: Paper, store: Store | None = None) -> dict[str, Standing]:
    """Our figures by split, on the first of the paper's datasets that has any; without any, on the one that they would be measured on.

    Both splits are of the same dataset, since they stand in one table.
    """
    wanted = paper.dataset()
    for dataset in dict.fromkeys([wanted, *paper.datasets]):
        found = _results(paper, dataset, store)
        if any(found.values()):
            break
    else:
        dataset, found = wanted, {}

    def of(split: str) -> Standing:
        reference = found.get((paper.reference, split))
        known = [(row, found.get((row.name, split))) for row in paper.rows]
        return Standing(paper, dataset, split, tuple(Line(row, result, difference(result, reference, store)) for row, result in known))

    return {split: of(split) for split in MEASURED_SPLITS}


def _results(paper: Paper, dataset: str, store: Store | None) -> dict[tuple[str, str], Mapping | None]:
    """(Row's name, split) → the run of this machine that is of the checkpoint and engine of today, or the shipped one."""
    asked = {(row.name, split): (row, _identity(row, dataset, split)) for row in paper.rows for split in MEASURED_SPLITS}
    known = store.find_all(identity for _row, identity in asked.values() if identity) if store else {}
    own = {identity: run for identity, run in known.items() if run["state"] == COMPLETE and run["origin"] == "here"}
    return {(name, split): own.get(identity) or shipped(row, dataset, split) for (name, split), (row, identity) in asked.items()}


def _identity(row: Row, dataset: str, split: str) -> str | None:
    """None where the checkpoint or the pictures are not here."""
    try:
        return work(row, dataset, split).identity()
    except NotHere:
        return None


def shipped(row: Row, dataset: str, split: str) -> Mapping | None:
    """The run of a row that comes with Paretoscope, if it is of the checkpoints that are here now; whether the pictures are here does not count."""
    wanted = (row.model, dataset, split, row.recipe.key())
    found = next((run for run in runs() if (run["model"], run["dataset"], run["split"], run["key"]) == wanted), None)
    return found if found and found.get("checkpoints") == _checkpoints(row, dataset) else None


def _checkpoints(row: Row, dataset: str) -> dict[str, str] | None:
    """Model → hash of the checkpoint at hand, of the row's own model and its teachers; None where one is not here."""
    try:
        return {model: zoo.checkpoint(model, dataset).hash for model in row.models()}
    except NotHere:
        return None


def difference(result: Mapping | None, reference: Mapping | None, store: Store | None = None) -> Mapping | None:
    """`result` less `reference` in points of top-1 on the same pictures; None where either, or what it predicted, is not known."""
    if result is None or reference is None:
        return None
    if result["model"] == reference["model"] and not reference["recipe"]["steps"]:
        return result["difference"]
    known = result.get("against", {}).get(reference["identity"])
    return known or _paired(result, reference, store)


def _paired(result: Mapping, reference: Mapping, store: Store | None) -> dict | None:
    from core.datasets import load
    from core.metrics.accuracy import paired_difference

    predicted = [_predicted(run, store) for run in (result, reference)]
    if None in predicted or DATASETS.get(result["dataset"]).missing():
        return None
    labels = load(result["dataset"]).split(result["split"]).labels
    mine, theirs = (np.frombuffer(labels_said, "<u2") == labels for labels_said in predicted)
    return paired_difference(mine, theirs)


def _predicted(run: Mapping, store: Store | None) -> bytes | None:
    return run["predicted"] if "predicted" in run else store.predicted(run["identity"]) if store else None


@functools.cache
def runs() -> list[dict]:
    """The shipped runs as `core.studies.gallery.runs` has them; empty before the first build."""
    return [gallery.with_labels(row) for row in _stored()]


def _stored() -> list[dict]:
    return gallery.read(FILE) if FILE.exists() else []


def build(names: list[str], report: Callable[[str], None] = lambda said: None, **hooks) -> None:
    """Run what the shipped file lacks of these papers, on full Fashion-MNIST, and write after each run. `hooks` go to `engine.run`."""
    from core import engine

    old = {row["identity"]: row for row in _stored()}
    others = [row for name, paper in PAPERS.items() if name not in names for row in paper.rows]
    kept = {(row.model, row.recipe.key()) for row in others}
    made = {identity: row for identity, row in old.items() if (row["model"], row["key"]) in kept}
    for name in names:
        paper = PAPERS.get(name)
        for row in paper.rows:
            for split in MEASURED_SPLITS:
                asked = work(row, paper.datasets[-1], split)
                identity, of = asked.identity(), {"checkpoints": _checkpoints(row, asked.dataset)}
                if identity in old:
                    made[identity] = old[identity] | of
                elif identity not in made:
                    report(f"{paper.title}, {row.title}, {split}")
                    made[identity] = gallery.as_stored(engine.run(asked, **hooks)) | of
                    _write([*made.values(), *(row for identity, row in old.items() if identity not in made)])
    _write(list(made.values()))
    _write_differences(made)


def _write_differences(rows: dict[str, dict]) -> None:
    """Add the paired differences that need the pictures' labels, which whoever looks may not have."""
    for _name, paper in PAPERS.items():
        for split in MEASURED_SPLITS:
            found = [run for run in (shipped(row, paper.datasets[-1], split) for row in paper.rows) if run]
            reference = shipped(paper.row(paper.reference), paper.datasets[-1], split)
            for run in found:
                if reference is not None and reference["recipe"]["steps"]:
                    rows[run["identity"]].setdefault("against", {})[reference["identity"]] = _paired(run, reference, None)
    _write(list(rows.values()))


def _write(rows: list[dict]) -> None:
    gallery.write(FILE, rows)
    runs.cache_clear()
