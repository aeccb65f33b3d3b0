"""run(): baseline → steps → metrics. Reads top to bottom; every figure that Paretoscope shows comes through here.

Called by workers, the command line and notebooks. Imports torch inside functions, so that `Work` is light to import.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.datasets import load
from core.foretold import Foretelling
from core.keeping import kept
from core.machine import machine
from core.recipe import GRID, TRAIN
from core.targets import graphs
from core.work import Work

if TYPE_CHECKING:
    from core.artifact import Packed
    from core.metrics.accuracy import Predictions
    from core.weights import Compressed

COMPRESS_SHARE, EVALUATE_SHARE = 0.5, 0.4  # of a run's progress; measuring latency is the rest
PREVIEW_CALIBRATION = 100  # pictures a step may read while a preview is made
SMALLEST_BATCH, LARGEST_BATCH = 64, 250
BATCH_MACS = 5_000_000_000  # about 0.15 s of one thread: how long a waiting preview may have to wait


@dataclass(frozen=True)
class Hooks:
    """How the engine meets the machine it works on: turns, progress, and the book of measured latencies."""

    turn: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    exclusive: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    report: Callable[[dict], None] = lambda event: None
    book: object | None = None
    foretells: bool = False  # whether it reports what steps behind long ones will note


@dataclass(frozen=True)
class Result:
    """What a run measured. `predicted` holds the labels as little-endian uint16, in the split's order."""

    work: Work
    identity: str
    baseline: dict
    metrics: dict
    difference: dict
    seconds: dict
    predicted: bytes = field(repr=False, default=b"")

    def to_json(self) -> dict:
        return {
            "model": self.work.model, "dataset": self.work.dataset, "recipe": self.work.recipe.to_json(), "key": self.work.recipe.key(),
            "identity": self.identity, "split": self.work.split, "machine": machine(), "baseline": self.baseline, "metrics": self.metrics,
            "difference": self.difference, "seconds": self.seconds, "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }  # fmt: skip


def run(
    work: Work, *, turn=contextlib.nullcontext, exclusive=contextlib.nullcontext, report=lambda event: None, artifact: Path | None = None, book=None,
    first_look: bool = False,
) -> Result:  # fmt: skip
    """Apply the recipe to the checkpoint and measure what came out, as the baseline was measured.

    `turn` is entered around every piece of computing, `exclusive` around latency measurements; either may wait or raise `Cancelled`. `report` receives
    progress, and `notes` as soon as a step has some, or is known to. The packed model is written to `artifact` when that is given.
    With `first_look`, `report` receives `latencies` as soon as the shapes are known: a short measurement for whoever waits, before the long one at the end.
    """
    from core.methods.apply import check_fits
    from core.metrics.first_look import FirstLook

    hooks = Hooks(turn, exclusive, report, book, foretells=True)
    started = time.monotonic()
    dataset = load(work.dataset)
    with hooks.turn():
        check_fits(work.recipe.steps, loaded(work.model, work.dataset, work.checkpoint.hash))
    runs_as_float32 = not any(getattr(step, "int8", False) for step in work.recipe.steps)
    look = FirstLook(loaded(work.model, work.dataset, work.checkpoint.hash), hooks, first_look and work.latency and runs_as_float32)
    compress_started = time.monotonic()
    subject = compress(work, hooks, look)
    compressed = time.monotonic()
    base, base_predictions, base_metrics = measured_baseline(work, hooks)
    with hooks.turn():
        sizes = _sizes(subject, work, artifact)
    evaluate_started = time.monotonic()
    predictions = predict(subject, dataset, work, hooks)
    evaluated = time.monotonic()

    metrics = metrics_of(subject, predictions, sizes) | {"latencies": look.rows}
    hooks.report({"stage": "latency" if work.latency else "done", "fraction": COMPRESS_SHARE + EVALUATE_SHARE, "metrics": metrics})
    if work.latency:
        _add_latencies(metrics, subject, base, hooks)
        _add_latencies(base_metrics, base, base, hooks)
    return Result(
        work=work, identity=work.identity(), baseline=base_metrics, metrics=metrics, difference=_difference(predictions, base_predictions),
        seconds={"compress": compressed - compress_started, "evaluate": evaluated - evaluate_started, "total": time.monotonic() - started},
        predicted=predictions.predicted.astype("<u2").tobytes(),
    )  # fmt: skip


def timed(work: Work, *, turn=contextlib.nullcontext, exclusive=contextlib.nullcontext, report=lambda event: None, book=None) -> dict:
    """`latencies` and `deployed_bytes` of a run that is not evaluated, and not trained either: a graph's speed is not in the values of its weights.

    Only where the shapes depend on what training made before them, and that is not kept, it is trained again.
    """
    hooks = Hooks(turn, exclusive, report, book)
    found: dict = {"notes": []}
    _add_latencies(found, shaped(work, hooks), loaded(work.model, work.dataset, work.checkpoint.hash), hooks)
    del found["notes"]  # the run that was evaluated has them
    return found


def pack(work: Work, path: Path, *, turn=contextlib.nullcontext, report=lambda event: None) -> None:
    """Write the packed model of a recipe, without measuring it again."""
    subject = compress(work, Hooks(turn, report=report))
    with turn():
        _sizes(subject, work, path)


def preview(work: Work, seconds: float = 0.25, *, turn=contextlib.nullcontext) -> dict:
    """The metrics so far: as many pictures as fit in `seconds` beside the compressing, at least 64, training steps skipped, sizes estimated.

    `before_recovery` says that a training step was skipped whose result is not kept from before. Of pictures so large that 64 would take longer
    than a preview may, nothing is measured: the answer is `{"estimate": seconds}`, what the run will take (`core.timing.pace`).
    """
    from core import artifact
    from core.metrics import accuracy, cost, size
    from core.timing import pace
    from core.weights import nonzeros

    hooks = Hooks(turn)
    started = time.monotonic()
    dataset = load(work.dataset)
    estimate = pace.instead(work, loaded(work.model, work.dataset, work.checkpoint.hash), dataset, turn)
    if estimate is not None:
        return {"estimate": estimate, "seconds": {"total": time.monotonic() - started}}
    subject, skipped = _untrained(work, hooks, PREVIEW_CALIBRATION)
    compressed = time.monotonic()
    module = measurable(subject)
    predictions = accuracy.evaluate(
        module, dataset, subject.architecture.input_size, work.split, work.images, batch_size=SMALLEST_BATCH,
        seconds=max(0.0, seconds - (compressed - started)), turn=turn,
    )  # fmt: skip
    evaluated = time.monotonic()
    with turn():  # and if a newer position came meanwhile, this is where it takes over
        base = _baseline_predictions(work, len(predictions), hooks)
    counts = {name: nonzeros(parameter) for name, parameter in subject.stored()}
    metrics = accuracy.summary(predictions) | {
        "parameters": cost.parameters(subject.module), "nonzero": cost.nonzero(subject.module, counts),
        "macs": cost.macs(subject.module, subject.architecture.input_size), "paper_bytes": size.paper_bytes(subject, counts),
        "artifact_bytes": artifact.packed_size(subject), "deployed_bytes": None, "latencies": [], "notes": subject.notes,
        "provenance": _provenance(subject) | {"artifact_bytes": "estimated"},
    }  # fmt: skip
    return {
        "metrics": metrics, "difference": _difference(predictions, base), "before_recovery": skipped, "images": len(predictions),
        "seconds": {"compress": compressed - started, "evaluate": evaluated - compressed, "total": time.monotonic() - started},
    }  # fmt: skip


def compress(work: Work, hooks: Hooks = Hooks(), on_shapes: Callable[[Compressed], None] = lambda subject: None) -> Compressed:
    """The model after every step of the recipe, from the longest prefix that was kept; `on_shapes` gets it once no step changes a shape any more."""
    from core.keeping import prefixes

    dataset = load(work.dataset)
    steps, (subject, first) = work.recipe.steps, _start(work)
    settled = max(first, work.recipe.shaping())
    ahead = Foretelling(work, first, dataset, hooks.turn)
    for number in range(first, len(steps)):
        if number == settled:
            on_shapes(subject)
        if hooks.foretells and (expected := ahead.before(number, subject)):
            hooks.report({"notes": expected})
        hooks.report({"stage": _stage(steps[number]), "fraction": COMPRESS_SHARE * number / len(steps)})
        told = len(subject.notes)
        _apply(work, number, subject, dataset, hooks)
        if subject.notes[told:]:  # said at once, since a training may follow
            hooks.report({"fraction": COMPRESS_SHARE * (number + 1) / len(steps), "notes": subject.notes[told:]})
        if steps[number].kind == TRAIN:
            prefixes.keep(work.prefix_key(number + 1), subject)
    if settled >= len(steps):
        on_shapes(subject)
    return subject


def _untrained(work: Work, hooks: Hooks, images_at_most: int | None = None) -> tuple[Compressed, bool]:
    """The model after every step, from the longest prefix that was kept, and whether training was left out."""
    dataset = load(work.dataset)
    subject, first = _start(work)
    trains = [step.kind == TRAIN for step in work.recipe.steps]
    for number in range(first, len(trains)):
        if not trains[number]:
            _apply(work, number, subject, dataset, hooks, images_at_most)
    return subject, any(trains[first:])


def shaped(work: Work, hooks: Hooks) -> Compressed:
    """A model of the shapes and grids that the recipe ends with, the values of its weights aside: what decides how long it takes.

    Behind the last structural step that is the grids alone, found as quickly as for a preview.
    """
    steps = work.recipe.steps
    shaped = work.recipe.shaping()
    subject, first = _start(work)
    if first < shaped:
        subject, first = compress(Work(work.model, work.dataset, work.recipe.prefix(shaped)), hooks), shaped
    for number in range(first, len(steps)):
        if steps[number].kind == GRID:
            _apply(work, number, subject, load(work.dataset), hooks, PREVIEW_CALIBRATION)
    return subject


def measured_baseline(work: Work, hooks: Hooks = Hooks()) -> tuple[Compressed, Predictions, dict]:
    """The uncompressed checkpoint, its predictions on the work's pictures, and its metrics without latencies."""
    base = loaded(work.model, work.dataset, work.checkpoint.hash)
    predictions = _baseline_predictions(work, work.images, hooks)
    return base, predictions, metrics_of(base, predictions, _baseline_sizes(work.model, work.dataset, work.checkpoint.hash))


@functools.lru_cache(maxsize=3)
def loaded(model: str, dataset: str, _checkpoint_hash: str) -> Compressed:
    """The checkpoint as a fresh state. Shared within a process: copy before you change it."""
    from core import zoo
    from core.models.architecture import Architecture
    from core.weights import Compressed

    checkpoint = zoo.checkpoint(model, dataset)
    return Compressed.of(checkpoint.load(), Architecture(model, checkpoint.classes, checkpoint.input_size))


def _start(work: Work) -> tuple[Compressed, int]:
    """A state to change, and the number of the first step that it has not been through."""
    from core.keeping import prefixes
    from core.weights import Compressed

    steps = work.recipe.steps
    for length in range(len(steps), 0, -1):
        if steps[length - 1].kind == TRAIN:
            subject = prefixes.recall(work.prefix_key(length))
            if subject is not None:
                return subject, length
    base = loaded(work.model, work.dataset, work.checkpoint.hash)
    return Compressed.of(base.module, base.architecture), 0


def _apply(work: Work, number: int, subject: Compressed, dataset, hooks: Hooks, images_at_most: int | None = None) -> None:
    """One step, seeded by the key of the steps before it. Its own progress becomes its share of the run's."""
    from core.methods.apply import Context, apply

    steps = work.recipe.steps

    def report(event: dict) -> None:
        fraction = COMPRESS_SHARE * (number + event["fraction"]) / len(steps)
        hooks.report(event | {"stage": _stage(steps[number]), "fraction": fraction})

    apply(steps[number], subject, Context.of(work, number, dataset, images_at_most, hooks.turn, report))


def _stage(step) -> str:
    return "train" if step.kind == TRAIN else "compress"


def measurable(subject: Compressed):
    """The module to run: plain weights, and rounded activations where the recipe has grids for them."""
    if not subject.activations:
        return subject.module
    from core.arithmetic.activations import measured

    return measured(subject)


def predict(subject: Compressed, dataset, work: Work, hooks: Hooks) -> Predictions:
    """What the subject says about the work's pictures."""
    from core.metrics.accuracy import evaluate

    def progress(fraction: float) -> None:
        hooks.report({"stage": "evaluate", "fraction": COMPRESS_SHARE + EVALUATE_SHARE * fraction})

    return evaluate(
        measurable(subject), dataset, subject.architecture.input_size, work.split, work.images,
        batch_size=batch_size(subject), turn=hooks.turn, report=progress,
    )  # fmt: skip


def batch_size(subject: Compressed) -> int:
    """Pictures at a time; of large pictures `Dataset.batches` gives fewer."""
    from core.metrics import cost

    fitting = BATCH_MACS // max(1, cost.macs(subject.module, subject.architecture.input_size))
    return int(min(LARGEST_BATCH, max(SMALLEST_BATCH, fitting)))


def _baseline_predictions(work: Work, count: int | None, hooks: Hooks) -> Predictions:
    """The baseline's answers to the first `count` pictures, from memory, from disk, or by running it."""
    from core.metrics.accuracy import Predictions

    dataset = load(work.dataset)
    labels = dataset.split(work.split).labels
    count = len(labels) if count is None else min(count, len(labels))
    key = f"{Work(work.model, work.dataset, split=work.split).identity()}.json"
    known = _known_predictions(key, labels)
    if known is None or len(known) < count:
        base = loaded(work.model, work.dataset, work.checkpoint.hash)
        known = predict(base, dataset, Work(work.model, work.dataset, split=work.split, images=count), hooks)
        coded = {"predicted": known.predicted.astype("<u2").tobytes(), "in_top5": np.packbits(known.in_top5).tobytes()}
        stored = {name: base64.b64encode(data).decode() for name, data in coded.items()}
        kept.put("baselines", key, json.dumps(stored).encode())
        _PREDICTIONS[key] = known
    return known.first(count) if isinstance(known, Predictions) else known


_PREDICTIONS: dict[str, Predictions] = {}


def _known_predictions(key: str, labels: np.ndarray) -> Predictions | None:
    from core.metrics.accuracy import Predictions

    if key not in _PREDICTIONS:
        path = kept.get("baselines", key)
        if path is None:
            return None
        try:
            stored = json.loads(path.read_text())
        except ValueError:
            kept.drop(path)
            return None
        predicted = np.frombuffer(base64.b64decode(stored["predicted"]), "<u2")
        in_top5 = np.unpackbits(np.frombuffer(base64.b64decode(stored["in_top5"]), np.uint8), count=len(predicted)).astype(bool)
        _PREDICTIONS[key] = Predictions(predicted, labels[: len(predicted)], in_top5)
    return _PREDICTIONS[key]


def _sizes(subject: Compressed, work: Work, path: Path | None) -> dict:
    from core.metrics import size

    packed_file = packed(subject, work, path)
    return {"paper_bytes": size.paper_bytes(subject), "artifact_bytes": packed_file.size, "deployed_bytes": None} | graphs.figures(subject)


def packed(subject: Compressed, work: Work, path: Path | None = None) -> Packed:
    """The packed file of a run as it is downloaded, which tells its recipe, dataset and classes; written to `path` if that is given."""
    from core import artifact

    return artifact.write(subject, path, work.recipe, about(work))


def about(work: Work) -> dict:
    """What a packed file says of itself."""
    return {"dataset": work.dataset, "classes": list(load(work.dataset).source.classes)}


@functools.lru_cache(maxsize=8)
def _baseline_sizes(model: str, dataset: str, checkpoint_hash: str) -> dict:
    return _sizes(loaded(model, dataset, checkpoint_hash), Work(model, dataset), None)


def metrics_of(subject: Compressed, predictions: Predictions, sizes: dict) -> dict:
    """Everything that is counted or computed of a subject; latencies are added later."""
    from core.metrics import accuracy, cost

    return accuracy.summary(predictions) | {
        "parameters": cost.parameters(subject.module), "nonzero": cost.nonzero(subject.module),
        "macs": cost.macs(subject.module, subject.architecture.input_size), **sizes,
        "provenance": _provenance(subject), "latencies": [], "notes": list(subject.notes),
    }  # fmt: skip


def _provenance(subject: Compressed) -> dict[str, str]:
    """Accuracy on grids that no common kernel runs is simulated; everything else here is counted or measured."""
    from core.runtimes.onnx import int8_possible

    bits = {weight.grid.bits for weight in subject.weights.values() if weight.grid is not None}
    runs_as_int8 = bool(subject.activations) and int8_possible(subject) is None
    simulated = bool(subject.activations) and not runs_as_int8 or bool(bits - {8, 16})
    counted = ("parameters", "nonzero", "macs", "activation_bytes", "paper_bytes", "artifact_bytes", "deployed_bytes", "latencies")
    return dict.fromkeys(("top1", "top5"), "simulated" if simulated else "measured") | dict.fromkeys(counted, "measured")


def _add_latencies(metrics: dict, subject: Compressed, base: Compressed, hooks: Hooks) -> None:
    from core.metrics.latency import latencies

    metrics["latencies"], metrics["deployed_bytes"], notes = latencies(subject, base, hooks.book, hooks.exclusive, hooks.turn)
    metrics["notes"] = metrics["notes"] + notes


def _difference(predictions: Predictions, base: Predictions) -> dict:
    from core.metrics.accuracy import paired_difference

    return paired_difference(predictions.right, base.right[: len(predictions)])
