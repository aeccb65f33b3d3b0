"""A study: every measured run of one model on one dataset, as flat rows; what a report is made from. Imports no torch.

    found = of("resnet18", "fashion_mnist", Store())
    found.rows, found.front(), found.choose(["1f0c…"])

Runs of this machine go before shipped ones of the same identity. Of either only those count that are of the checkpoint, the data and the engine that
are here now, over the whole split; latencies of another machine are marked, unless their graph was timed on this one.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from core import gallery, pareto, reproduced, students, zoo
from core.errors import BadInput, NotHere, UnknownName
from core.machine import machine
from core.points import latency, point
from core.recipe import Recipe
from core.store import COMPLETE, Store
from core.work import Work

SIZE = {"top1": pareto.MAX, "artifact_bytes": pareto.MIN}
MOST_CHOSEN = 12


@dataclass(frozen=True)
class Study:
    """`rows` are points (`core.points.point`) of the validation split without the baseline, `test` the same runs on the test split by recipe key.

    `apart` are shipped students, which are found by their keys and stand in no chart: many of them differ in the seed alone.
    """

    model: str
    dataset: str
    baseline: dict
    rows: tuple[dict, ...]
    apart: tuple[dict, ...]
    test: Mapping[str, dict]

    def front(self) -> list[dict]:
        """The runs that no other equals or betters in accuracy and bytes to download while bettering one, smallest first."""
        found = [row for row, on in zip(self.rows, pareto.front(self.rows, SIZE)) if on]
        return sorted(found, key=lambda row: row["artifact_bytes"])

    def choose(self, keys: Sequence[str]) -> list[dict]:
        """The runs of these recipe keys, in their order, none twice; raises `UnknownName`, or `BadInput` for more than `MOST_CHOSEN`."""
        known = {row["key"]: row for row in (*self.apart, *self.rows)}
        wanted = list(dict.fromkeys(key.removeprefix(f"{self.model}/") for key in keys))
        for key in wanted:
            if key not in known:
                raise UnknownName(f"measured run of {self.model} on {self.dataset}", key, sorted(row["key"] for row in self.rows))
        if len(wanted) > MOST_CHOSEN:
            raise BadInput(f"{len(wanted)} runs are chosen; a report takes at most {MOST_CHOSEN}.")
        return [known[key] for key in wanted]


def of(model: str, dataset: str, store: Store) -> Study:
    """What is known of a pair; raises `NotHere` when its checkpoint is missing, or nothing was measured of it."""
    checkpoint = zoo.checkpoint(model, dataset)
    shipped = [*reproduced.runs(), *gallery.runs(), *students.runs()]
    own = store.rows(model, dataset, states=[COMPLETE])
    results = {each["identity"]: each for each in (*shipped, *own) if (each["model"], each["dataset"]) == (model, dataset)}
    timings, here = store.latencies(machine()["id"]), machine()["id"]
    apart = {each["identity"] for each in students.runs()}
    drawn, aside, test, baseline = [], [], {}, None
    for result in _current(results.values(), checkpoint):
        row = _row(result, timings, here)
        if row["split"] == "test":
            test[row["key"]] = row
        elif row["family"] == "Baseline":
            baseline = row
        else:
            (aside if result["identity"] in apart else drawn).append(row)
    if baseline is None:
        what, action = f"A measured run of {model} on {dataset}", f"`python -m core run --model {model} --dataset {dataset} --recipe FILE` measures one."
        raise NotHere(what, "nothing was measured of the uncompressed model yet", action)
    return Study(model, dataset, baseline, tuple(drawn), tuple(aside), test)


def shell_command(model: str, dataset: str, recipe: Recipe, split: str = "validation") -> str:
    """One line for a shell that measures the same run, figure for figure."""
    text = json.dumps(recipe.to_json(), separators=(",", ":"))
    on = "" if split == "validation" else f" --split {split}"
    return f"echo {shlex.quote(text)} | python -m core run --model {model} --dataset {dataset} --recipe -{on} --json"


def _current(results: Iterable[Mapping], checkpoint: zoo.Checkpoint) -> Iterable[Mapping]:
    for result in results:
        try:
            work = Work(result["model"], result["dataset"], Recipe.from_json(result["recipe"]), result["split"])
            if result["metrics"].get("artifact_bytes") and work.identity_of(checkpoint) == result["identity"]:
                yield result
        except (BadInput, NotHere):  # refused by now, or another model's checkpoint taught it, which has gone
            continue


def _row(result: Mapping, timings: Mapping, here: str) -> dict:
    """The run as a flat row, with the latency that its graph has on this machine where that was measured."""
    if (result.get("machine") or {}).get("id") == here:
        return point(result)
    entry, base = latency(result["metrics"]), latency(result.get("baseline") or {})
    own = timings.get((entry.get("signature"), base.get("signature"), entry["runtime"])) if entry and base else None
    return point(result | {"metrics": result["metrics"] | {"latencies": [own]}}) if own else point(result, elsewhere=True)
