"""The gallery: shipped runs over the shipped checkpoints, so that the first chart is full. Imports no torch until built.

`python -m core gallery --build` makes assets/gallery/MODEL.json; every row carries its machine and date. Accuracy and
bytes are taken from it; its latencies belong to the machine that measured them.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import NotHere
from core.home import ASSETS, write_whole
from core.recipe import GRID, TRAIN, Recipe
from core.work import Work

if TYPE_CHECKING:
    from core.engine import Result

FOLDER = ASSETS / "gallery"
DATASET = "fashion_mnist"
MODELS = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5")
TEMPERATURES = (1, 2, 4, 8, 16)
FINETUNE = {"epochs": 3, "images": 6000, "learning_rate": 0.02}  # short trainings, which the explorer's own controls ask for too
DISTILL = {"epochs": 1, "images": 6000, "learning_rate": 0.01}
TEACHING = ("lenet_300_100", "lenet_5")  # on the full set too: the papers' recipe trains on all of it
FULL = "fashion_mnist_full"
_REPAIR = {"step": "calibrate_batchnorm"}


def recipes() -> list[Recipe]:
    """Weights pruned, channels pruned, bits, int8, and distilled at five temperatures; the baseline first."""
    found: list[list[dict]] = [[]]
    found += [[_prune(sparsity), _REPAIR] for sparsity in (0.5, 0.7, 0.8, 0.9)]
    found += [_channels(share) for share in (0.2, 0.35, 0.5)]
    found += [[_bits(bits), _REPAIR] for bits in (8, 6, 5, 4, 3)]
    found += [[_int8()], [*_channels(0.35), _int8()], [*_channels(0.5), _int8()]]
    found += [[_prune(sparsity), _bits(4), _REPAIR] for sparsity in (0.8, 0.9, 0.93)]
    found += [[_prune(0.9), _distill(temperature), _bits(4), _REPAIR] for temperature in TEMPERATURES]
    found += [[_prune(0.95), _distill(4), _bits(4), _REPAIR]]
    return [Recipe.from_json({"steps": steps}) for steps in found]


def teaching_recipes() -> list[Recipe]:
    """What the two LeNets show: weights pruned, bits, and int8; the baseline first."""
    found: list[list[dict]] = [[]]
    found += [[_prune(sparsity)] for sparsity in (0.5, 0.8, 0.9, 0.95)]
    found += [[_bits(bits)] for bits in (8, 4, 3, 2)]
    found += [[_int8()], [_prune(0.8), _bits(4)], [_prune(0.9), _bits(4)]]
    return [Recipe.from_json({"steps": steps}) for steps in found]


def preset(name: str) -> Recipe:
    """A recipe of assets/presets.json."""
    return Recipe.from_json(next(found["recipe"] for found in shipped_presets() if found["name"] == name))


def presets(model: str) -> list[Recipe]:
    """The recipes of assets/presets.json that are measured on this model beyond the others: what takes training is not run on every one."""
    return [Recipe.from_json(preset["recipe"]) for preset in shipped_presets() if model in preset.get("models", ())]


@functools.cache
def shipped_presets() -> list[dict]:
    """assets/presets.json: `name`, `title`, `help`, `recipe` (JSON), and the `models` that it is measured on. Shared: do not change it."""
    return read(ASSETS / "presets.json")


def works(model: str) -> list[Work]:
    if model in TEACHING:
        return [Work(model, dataset, recipe) for dataset in (DATASET, FULL) for recipe in (*teaching_recipes(), *presets(model))]
    return [Work(model, DATASET, recipe) for recipe in (*recipes(), *presets(model))]


def build(model: str, *, latency: bool = True, report: Callable[[int, int, str], None] = lambda done, total, name: None, **hooks) -> list[dict]:
    """Run what the model's part of the gallery lacks, one at a time, and write after each; returns the rows.

    Without `latency` rows stay without it until a later call, which also times again what other load disturbed.
    `report(done, total, recipe)` is called before each run; `hooks` go to `engine.run`.
    """
    return measured(FOLDER / f"{model}.json", works(model), latency, report, hooks)


def measured(path: Path, wanted: list[Work], latency: bool, report: Callable[[int, int, str], None], hooks: dict, curves: bool = False) -> list[dict]:
    """The rows of a shipped file, one for each work that is `wanted`: those that are there already, the rest measured now.

    A row that is measured again, since a step of it has another edition, keeps its latencies where its graph stayed, since they belong to that.
    With `curves`, a row that trained carries its learning curve after each epoch: dicts with `epoch`, `loss` and `top1`.
    """
    from core import engine

    stored = read(path) if path.exists() else []
    old, earlier = {row["identity"]: row for row in stored}, {_asked(row): row for row in stored}  # of today; of any edition
    rows: dict[str, dict] = {work.identity(): old[work.identity()] for work in wanted if work.identity() in old}
    for number, work in enumerate(wanted):
        identity = work.identity()
        if identity not in rows:
            report(number, len(wanted), work.recipe.canonical())
            seen: list[dict] = []
            result = engine.run(dataclasses.replace(work, latency=False), **hooks, report=seen.append)
            row = rows[identity] = as_stored(result)
            _keep_latencies(row, earlier.get(_asked(row)))
            if curves:
                row["curve"] = _curve(seen)
        elif not latency or _is_timed(rows[identity]):
            continue
        if latency and not _is_timed(rows[identity]):
            report(number, len(wanted), work.recipe.canonical())
            _time(rows[identity], work, hooks)
        write(path, [row for each in wanted if (row := rows.get(each.identity()) or earlier.get(_asked(each.to_json())))])
    return list(rows.values())


def _asked(row: dict) -> tuple:
    """What a row's work is, whatever editions its steps had."""
    return row["model"], row["dataset"], row["split"], Recipe.from_json(row["recipe"]).key()


def _keep_latencies(row: dict, earlier: dict | None) -> None:
    """Take the latencies and the file that runs from an earlier row, where graphs and machine are the same."""
    parts = ("metrics", "baseline")
    if earlier and earlier["machine"] == row["machine"] and all(earlier[part].get("graph") == row[part]["graph"] for part in parts):
        for part in parts:
            row[part] |= {figure: earlier[part][figure] for figure in ("latencies", "deployed_bytes")}


def _curve(events: list[dict]) -> list[dict]:
    """The points after whole epochs, which alone were evaluated, of what a run reported."""
    points = [event["curve"] for event in events if "top1" in event.get("curve", {})]
    return [{"epoch": point["epoch"], "loss": round(point["loss"], 4), "top1": point["top1"]} for point in points]


def _is_timed(row: dict) -> bool:
    """Whether a row has latencies that nothing else on the machine disturbed."""
    found = row["metrics"]["latencies"]
    return bool(found) and not any(each.get("disturbed") for each in found)


def _time(row: dict, work: Work, hooks: dict) -> None:
    """Fill in the latencies and the file that runs, of the row and of its baseline."""
    from core import engine

    row["metrics"] |= engine.timed(work, **hooks)
    row["baseline"] |= engine.timed(work.baseline(), **hooks)


def add_graphs(report: Callable[[str], None] = lambda said: None, *, turn=contextlib.nullcontext) -> None:
    """Have every shipped row say its graph and peak activation memory, and ship the graphs: what was measured stays as it is, and so do identities."""
    from core.targets import graphs

    found: dict[str, graphs.Graph] = {}
    for path in sorted(FOLDER.rglob("*.json")):
        report(str(path))
        rows = read(path)
        for row in rows:
            work = Work(row["model"], row["dataset"], Recipe.from_json(row["recipe"]), row["split"])
            for metrics, each in ((row["metrics"], work), (row["baseline"], work.baseline())):
                graph = graphs.find(metrics.get("graph")) or graphs.Graph.from_json(graphs.measure(graphs.Operators(each), turn=turn))
                found[graph.key] = graph
                metrics |= {"graph": graph.key, "activation_bytes": graph.activation_bytes}
                metrics["provenance"]["activation_bytes"] = "measured"
        write(path, rows)
    graphs.ship(found.values())


def remake_sizes(model: str | None = None, report: Callable[[str], None] = lambda said: None, *, turn=contextlib.nullcontext) -> None:
    """Have every shipped row whose weights lie on a grid, of one `model` or of all, say what its packed file takes in today's format.

    The models are made again, by training where a recipe trains, and nothing else is measured anew, so identities stay. A row is left as it is, and
    `report` told, where its pictures are missing, or where this machine makes another model of it: one that takes other bytes on paper, or that
    a training here has taught to answer otherwise.
    """
    from core import engine
    from core.datasets import load
    from core.metrics import size

    for path in sorted(FOLDER.rglob("*.json")):
        rows = read(path)
        for row in rows:
            work = Work(row["model"], row["dataset"], Recipe.from_json(row["recipe"]), row["split"])
            if model not in (None, work.model) or all(step.kind != GRID for step in work.recipe.steps):
                continue
            report(f"{path.name} {work.model} on {work.dataset}: {work.recipe.canonical()}")
            try:
                work.check()
            except NotHere as missing:
                report(f"Left as it is: {missing}")
                continue
            hooks = engine.Hooks(turn)
            subject = engine.compress(work, hooks)
            with turn():
                packed, paper = engine.packed(subject, work).size, size.paper_bytes(subject)
            if paper != row["metrics"]["paper_bytes"]:
                report(f"Left as it is: this machine makes another model of it, of {paper:,} bytes on paper in place of {row['metrics']['paper_bytes']:,}.")
                continue
            if any(step.kind == TRAIN for step in work.recipe.steps):
                predicted = engine.predict(subject, load(work.dataset), work, hooks).predicted.astype("<u2").tobytes()
                if predicted != with_labels(row)["predicted"]:
                    report("Left as it is: this machine's training makes another model of it, which answers otherwise.")
                    continue
            row["metrics"]["artifact_bytes"] = packed
            write(path, rows)


def write(path: Path, rows: Iterable[dict]) -> None:
    """A shipped file, a row a line."""
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    write_whole(path, f"[\n{lines}\n]\n".encode())


@functools.cache
def runs() -> list[dict]:
    """The shipped runs as `Result.to_json()` rows, with `predicted` as bytes (little-endian uint16); empty before the first build."""
    return [with_labels(row) for model in (*sorted(MODELS), *TEACHING) if (path := FOLDER / f"{model}.json").exists() for row in read(path)]


def read(path: Path) -> list[dict]:
    """The rows of a shipped file as they are stored."""
    return json.loads(path.read_text(encoding="utf-8"))


def as_stored(result: Result) -> dict:
    """A row of what `engine.run` returned."""
    return result.to_json() | {"predicted": base64.b64encode(zlib.compress(result.predicted, 9)).decode()}


def with_labels(row: dict) -> dict:
    """A stored row with `predicted` as bytes."""
    return row | {"predicted": zlib.decompress(base64.b64decode(row["predicted"]))}


def _prune(sparsity: float) -> dict:
    return {"step": "magnitude_prune", "sparsity": sparsity}


def _channels(share: float) -> list[dict]:
    """Removed, trained back, and the averages of slow batch norms brought up to what the short training made."""
    return [{"step": "channel_prune", "sparsity": share}, {"step": "finetune"} | FINETUNE, _REPAIR]


def _bits(bits: int) -> dict:
    return {"step": "quantize", "weight_bits": bits, "clipping": "mse"}


def _int8() -> dict:
    return {"step": "quantize", "weight_bits": 8, "activation_bits": 8}


def _distill(temperature: float) -> dict:
    return {"step": "distill", "temperature": temperature} | DISTILL
