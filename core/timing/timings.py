"""One run's latency in every runtime, at one batch size and number of threads, beside the uncompressed model's; and which operators take the time.

    asked = Timings(Work("resnet18", "fashion_mnist", recipe), threads=1, batch=8)
    found = measure(asked, exclusive=Turns().exclusive)["cells"]     # a row of `core.metrics.latency.row` a runtime, or its refusal

The model is not evaluated and not trained, unless training decides its shapes. What was measured of a graph before is taken from the book. Called by the
cluster, the command line and notebooks; the Latency page draws it. Imports torch only to measure.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from core import engine
from core.asked import Asked
from core.engine import COMPRESS_SHARE
from core.errors import BadField, BadInput, NotHere
from core.jobs.turns import core_count
from core.machine import machine
from core.metrics.latency import RECENT_SECONDS, Memory, row, signature, verdict
from core.recipe import GRID, PRUNE, STRUCTURE, TRAIN, Recipe
from core.runtimes.timed import RUNTIMES, USUAL, profiled_session
from core.work import Work

VERSION = 3  # of what is kept; LiteRT was refused beyond one picture a pass once
BATCHES = (1, 8, 32)
SMALL_PICTURE = 64  # pixels a side: one such picture leaves an operator little to compute
ROUNDING = ("QuantizeLinear", "DequantizeLinear")
LARGEST_BATCH = 256


@dataclass(frozen=True)
class Timings(Asked):
    """What is asked: a model on a dataset and a recipe, in the named `runtimes` (all but LiteRT by default); raises `BadField` or `UnknownName`.

    With `again`, what was disturbed is measured anew however short ago that was; the answer is kept under the same identity.
    """

    kind: ClassVar[str] = "timings"
    version: ClassVar[int] = VERSION

    threads: int = 1
    batch: int = 1
    runtimes: tuple[str, ...] = ()
    again: bool = False

    def __post_init__(self):
        for name, high in (("threads", core_count()), ("batch", LARGEST_BATCH)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
                raise BadField(name, value, f"a whole number from 1 to {high}" + (", the cores of this machine" if name == "threads" else ""))
        for name in self.runtimes:
            RUNTIMES.get(name)
        object.__setattr__(self, "runtimes", tuple(self.runtimes) or USUAL)
        super().__post_init__()

    def _also(self) -> tuple:
        """Milliseconds belong to a machine, so its name is among it; a runtime that is not installed yet is asked again once it is."""
        runtimes = (f"no {name}" if RUNTIMES.get(name).missing() else name for name in self.runtimes)
        return machine()["id"], self.threads, self.batch, *runtimes

    @property
    def trains(self) -> bool:
        """Whether something is trained to know the shapes: what trains before the last structural step."""
        steps = self.work.recipe.steps
        shaped = max((number for number, step in enumerate(steps) if step.kind == STRUCTURE), default=-1)
        return any(step.kind == TRAIN for step in steps[: shaped + 1])

    def to_json(self) -> dict:
        return {"work": self.work.to_json(), "threads": self.threads, "batch": self.batch, "runtimes": list(self.runtimes), "again": self.again}

    @staticmethod
    def from_json(value: dict) -> Timings:
        return Timings(Work.from_json(value["work"]), value["threads"], value["batch"], tuple(value["runtimes"]), value.get("again", False))


def measure(
    asked: Timings, *, turn=contextlib.nullcontext, exclusive=contextlib.nullcontext, report: Callable[[dict], None] = lambda event: None, book=None
) -> dict:
    """Runtime → its row as JSON in `cells`, with `refused` (a sentence) in place of figures where the runtime cannot run this model.

    `operators` has the profile of the last of the runtimes that has a profiler and runs this model (int8 before float32), `base_operators` that of the
    uncompressed model in turns with it; of one and the same graph they are one. `report` receives what is measured so far as `metrics`.
    """
    hooks, book = engine.Hooks(turn, exclusive, report, book), book or Memory()
    base = engine.loaded(asked.model, asked.dataset, asked.work.checkpoint.hash)
    subject = engine.shaped(asked.work, hooks)
    recent = 0.0 if asked.again else RECENT_SECONDS
    found = {
        "model": asked.model, "dataset": asked.dataset, "recipe": asked.work.recipe.to_json(), "threads": asked.threads, "batch": asked.batch,
        "machine": machine(), "cells": {}, "operators": {}, "base_operators": {}, "input_size": subject.architecture.input_size,
        "macs": _macs(subject), "base_macs": _macs(base),
    }  # fmt: skip
    for number, name in enumerate(asked.runtimes):
        try:
            found["cells"][name] = row(name, subject, base, book, exclusive, turn, asked.threads, asked.batch, needs_blocks=True, recent=recent)
        except (BadInput, NotHere) as error:
            found["cells"][name] = {"runtime": name, "threads": asked.threads, "batch": asked.batch, "refused": str(error)}
        fraction = COMPRESS_SHARE + (1 - COMPRESS_SHARE) * (number + 1) / len(asked.runtimes)
        report({"stage": "latency", "fraction": fraction, "metrics": found | {"cells": dict(found["cells"])}})
    profiled = [name for name, cell in found["cells"].items() if RUNTIMES.get(name).profiled and "refused" not in cell]
    for name in profiled[-1:]:
        found["operators"][name], found["base_operators"][name] = _profiles(name, subject, base, asked, turn, exclusive)
    return found


def shared(found: Sequence[Mapping | None], book: Iterable[Mapping] = ()) -> list[Mapping | None]:
    """The same answers, in which every graph has its newest measurement among them and the rows of the book: what was disturbed once may be calm later."""
    newest: dict[tuple, Mapping] = {}
    for cell in [*book, *(cell for each in found for cell in (each or {"cells": {}})["cells"].values())]:
        graph = (cell["runtime"], cell.get("signature"))
        if "blocks" in cell and "signature" in cell and cell.get("measured_at", 0.0) >= newest.get(graph, {}).get("measured_at", 0.0):
            newest[graph] = cell
    return [each and {**each, "cells": {name: newest.get((name, cell.get("signature")), cell) for name, cell in each["cells"].items()}} for each in found]


def is_own_graph(cell: Mapping) -> bool:
    """Whether the graph is the uncompressed model's, which is timed once: then both sides of every block are one."""
    return cell["ratio"] == cell["ratio_low"] == cell["ratio_high"] == 1.0


def _profiles(name: str, subject, base, asked: Timings, turn, exclusive) -> tuple[list[dict], list[dict]]:
    """The operators of the subject's graph and, beside it, of the graph that its latency is compared with."""
    from core.timing.operators import operators

    reference, sessions = RUNTIMES.get(name).reference, []
    same = signature(subject, name, asked.threads, asked.batch) == signature(base, reference, asked.threads, asked.batch)
    with tempfile.TemporaryDirectory() as folder:
        for model, runtime in [(subject, name), (base, reference)][: 1 if same else 2]:
            with turn():
                running, feed = profiled_session(model, runtime, asked.threads, asked.batch, str(Path(folder) / str(len(sessions))))
                sessions.append(running)
        with exclusive():
            profiles = operators(sessions, feed)
    return profiles[0], profiles[-1]


def _macs(subject) -> int:
    from core.metrics import cost

    return cost.macs(subject.module, subject.architecture.input_size)


def reason(found: Mapping, runtime: str) -> str:
    """Why the latency in that runtime is what it is, in a sentence or two; for a faster run, what made it so. A cause is named only where it was seen."""
    cell, kinds = found["cells"][runtime], {step.kind for step in Recipe.from_json(found["recipe"]).steps}
    if "refused" in cell:
        return cell["refused"]
    fewer = found["macs"] / found["base_macs"] if found["base_macs"] else 1.0
    share = f"{100 * fewer:.0f} % of the multiply-adds"
    said = verdict(cell)
    if RUNTIMES.get(runtime).on_grids:
        less = f", and {share} are left" if fewer < 0.99 else ""
        if said == "faster":
            return f"Real integer kernels: weights and activations are in 8 bits{less}."
        rounding = _share_of_rounding(found, runtime)
        took = f"; rounding between layers takes {100 * rounding:.0f} % of the time, by the profile of its operators" if rounding else ""
        return f"Integer kernels save no time here{less}{took}."
    if is_own_graph(cell):
        return _same_graph(kinds)
    if said == "faster":
        return f"The shapes are smaller: {share} are left." if fewer < 1 else f"It computes {share}."
    where = "; the profile of its operators tells where the time goes" if runtime in found.get("operators", ()) else ""
    if said == "slower":
        if fewer < 1 and _more_layers(found, runtime):
            return f"More layers in a row than before, each with a cost of its own, though {share} are left."
        return f"It computes {share}, and takes longer all the same{where}." if fewer <= 1 else f"It computes {share}."
    if fewer < 1 and found.get("batch") == 1 and found.get("input_size", SMALL_PICTURE + 1) <= SMALL_PICTURE:
        return f"It computes {share}, but with one small picture a pass much of the time goes to starting each operator and moving its weights."
    return f"It computes {share}, which makes no difference here that could be told from noise{where}."


def _share_of_rounding(found: Mapping, runtime: str) -> float:
    """The part of the profiled time that goes to rounding values to integers and back, 0 without a profile."""
    return sum(each["share"] for each in found.get("operators", {}).get(runtime, ()) if each["operator"] in ROUNDING)


def _more_layers(found: Mapping, runtime: str) -> bool:
    """Whether the graph has more operators than the uncompressed model's: by the profiles, else by a step that splits layers."""
    mine, theirs = (sum(each["calls"] for each in found.get(side, {}).get(runtime, ())) for side in ("operators", "base_operators"))
    return mine > theirs if mine and theirs else any(step["step"] == "factorize" for step in found["recipe"]["steps"])


def _same_graph(kinds: set) -> str:
    why = []
    if PRUNE in kinds:
        why.append("zeros scattered among the weights run on dense kernels")
    if GRID in kinds:
        why.append("what is stored in few bits is widened to float32 before it is multiplied")
    if TRAIN in kinds:
        why.append("training changes values only")
    return "The graph is the uncompressed model's, so its latency is too" + (f": {', '.join(why)}." if why else ".")
