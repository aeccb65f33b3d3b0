"""How sensitive each layer is to one step: the accuracy when the step is applied to that layer alone, at several settings of its main field.

    asked = Sensitivity("resnet18", "fashion_mnist", MagnitudePrune())
    found = measure(asked)              # found["cells"][layer][setting]["difference"]["top1"], in points

The changed layer is what the step makes of it in a run of its own (`engine.compress`), so a cell is what that run would measure; what
lies before the layer is computed once for all of them (`core.layers.suffixes`). Called by the cluster, the command line and notebooks; the Layers page
draws it. Imports torch only to measure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from core import engine, zoo
from core.datasets import load
from core.errors import BadField, BadInput, BadRecipe
from core.floor import Vary
from core.machine import machine
from core.recipe import STEPS, STRUCTURE, TRAIN, Param, Recipe, Step, digest, params, step_from_json
from core.silent import INSTEAD
from core.studies.points import is_share
from core.work import Work

if TYPE_CHECKING:
    from core.layers.suffixes import Change, Suffixes

VERSION = 1  # of the form of what is kept
IMAGES = 250  # pictures, unless somebody asks for more
SETTINGS = 5
PIECES_BYTES = 512 * 2**20  # changed layers that are held in memory at a time
MOST_PIECES = 60  # and so many of them, so that the first cells are seen soon; each group costs one more run of the whole
SECONDS_BETWEEN_LOOKS = 0.5  # of results so far
COMPRESS_SHARE = 0.1  # of the progress

# The settings that a table of sensitivities is usually made at; any other field has evenly spaced ones.
USUAL = {
    "weight_bits": (6, 5, 4, 3, 2), "clusters": (64, 32, 16, 8, 4), "average_bits": (6.0, 5.0, 4.0, 3.0, 2.0), "energy": (0.99, 0.95, 0.9, 0.8, 0.6),
}  # fmt: skip
USUAL_SHARES = (0.5, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Sensitivity:
    """What is asked: a step, whose `layers` do not count, and the values of its main field; none given are the usual ones.

    Raises `BadInput` when the step takes no layers, or a value is not among those of the field.
    """

    kind: ClassVar[str] = "sensitivity"

    model: str
    dataset: str
    step: Step
    values: tuple = ()
    images: int | None = IMAGES
    split: str = "validation"

    def __post_init__(self):
        spec = main_field(type(self.step))
        values = tuple(self.values) or usual_values(self.step)
        if len(values) > 20:
            raise BadField("values", f"{len(values)} of them", "at most 20")
        parsed = tuple(dict.fromkeys(spec.parse(value, f"{self.step.name}.{spec.name}") for value in values))
        object.__setattr__(self, "values", parsed)
        instead = {INSTEAD[spec.name]: None} if hasattr(self.step, INSTEAD.get(spec.name, "")) else {}
        step = dataclasses.replace(self.step, layers="all", **instead)
        object.__setattr__(self, "step", dataclasses.replace(step, **{spec.name: parsed[0]}))
        for value in parsed:  # a field may depend on another
            dataclasses.replace(self.step, **{spec.name: value})
        self.baseline()

    @property
    def field(self) -> Param:
        return main_field(type(self.step))

    @property
    def layers(self) -> list[str]:
        """The paths of the layers, in the model's order."""
        return layers_of(self.model)

    def baseline(self) -> Work:
        """The uncompressed model on the same pictures; raises what `Work` raises of names and figures."""
        return Work(self.model, self.dataset, Recipe(), self.split, self.images, latency=False)

    def work(self, layer: str, value: Any) -> Work:
        """The run that a cell stands for."""
        step = dataclasses.replace(self.step, layers=layer, **{self.field.name: value})
        return Work(self.model, self.dataset, Recipe((step,)), self.split, self.images, latency=False)

    def check(self) -> None:
        """Raises `NotHere` when the dataset or the checkpoint is missing, before any long work."""
        self.baseline().check()

    def identity(self) -> str:
        """16 hexadecimal digits over everything that decides the figures."""
        facts = self.to_json() | {"step": Recipe((self.step,)).canonical()} | ({"edition": self.step.edition} if self.step.edition else {})
        return digest(json.dumps(["sensitivity", VERSION, self.baseline().identity(), facts], sort_keys=True))

    @property
    def trains(self) -> bool:
        return False

    def to_json(self) -> dict:
        return {
            "model": self.model, "dataset": self.dataset, "step": self.step.to_json(), "values": list(self.values), "images": self.images, "split": self.split,
        }  # fmt: skip

    @staticmethod
    def from_json(value: dict) -> Sensitivity:
        return Sensitivity(**(value | {"step": step_from_json(value["step"]), "values": tuple(value["values"])}))


def layers_of(model: str) -> list[str]:
    """The paths of the layers with a weight, in the model's order: each is a pattern of `layers` that means it alone."""
    return [name.rpartition(".")[0] for name in zoo.check_model(model)["weights"]]


def measurable() -> list[str]:
    """The steps that can be applied to one layer alone: those that take `layers` and do not train."""
    return [name for name, kind in STEPS.items() if kind.kind != TRAIN and "layers" in {spec.name for spec in params(kind)}]


def main_field(step_type: type[Step]) -> Param:
    """The field that says how much a step compresses, else its first choice; raises `BadRecipe` for a step that takes no layers."""
    if step_type.name not in measurable():
        raise BadRecipe(f"{step_type.name} cannot be measured layer by layer, because it takes no layers; {', '.join(measurable())} can.")
    specs = params(step_type)
    amounts = [spec for spec in specs if spec.harder and not spec.optional]
    return (amounts or [spec for spec in specs if spec.choices])[0]


def usual_values(step: Step) -> tuple:
    """Up to five settings of the step's main field, from mild to hard."""
    spec = main_field(type(step))
    if not spec.harder:
        return spec.choices[:SETTINGS]
    positions = Vary(Recipe((step,)), 0, spec.name).positions
    usual = USUAL.get(spec.name, USUAL_SHARES if is_share(spec) and spec.harder == "up" else ())
    usual = [value for value in usual if value in positions] or positions
    if len(usual) <= SETTINGS:
        return tuple(usual)
    return tuple(usual[round(at * (len(usual) - 1) / SETTINGS)] for at in range(1, SETTINGS + 1))


def measure(asked: Sensitivity, *, turn=contextlib.nullcontext, report: Callable[[dict], None] = lambda event: None) -> dict:
    """Everything that `asked` asks for, as JSON: `layers`, `values`, `baseline`, and `cells`, a row a layer, a cell a value.

    A cell has `top1` in percent and its `difference` to the uncompressed model in points, paired, with its 95 % interval (`core.metrics.accuracy`);
    or `refused`, the sentence of a step that cannot be applied to that layer. `whole` says why every cell took a whole evaluation,
    where it did. `turn` is entered around every piece of computing and may wait, or raise `Cancelled`; `report` receives progress, and
    results so far as `metrics`.
    """
    started = time.monotonic()
    table = _Table(asked, turn, report)
    pairs = [(layer, value) for layer in asked.layers for value in asked.values]
    for pieces in table.pieces(pairs):
        table.evaluate(pieces)
    return table.result() | {
        "seconds": time.monotonic() - started, "machine": machine(), "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


class _Table:
    """The cells while they fill."""

    def __init__(self, asked: Sensitivity, turn, report):
        self.asked, self.turn, self.report = asked, turn, report
        self.work = asked.baseline()
        self.dataset = load(asked.dataset)
        self.base = engine.loaded(asked.model, asked.dataset, self.work.checkpoint.hash)
        self.batch_size = engine.batch_size(self.base)
        split = self.dataset.split(asked.split)
        self.count = len(split) if asked.images is None else min(asked.images, len(split))
        self.labels = split.labels[: self.count]
        self.batches = -(-self.count // self.batch_size)
        self.right: dict[tuple | None, list[np.ndarray]] = {None: []}  # None is the uncompressed model
        self.refused: dict[tuple, str] = {}
        self.total = len(asked.layers) * len(asked.values)
        self.made, self.done, self.shown = 0, 0, time.monotonic()
        self.suffixes, self.why_whole = self._suffixes()
        self.rounded: Suffixes | None = None

    def _suffixes(self) -> tuple[Suffixes | None, str]:
        """The network as a graph, or why it has to run whole each time."""
        from core.layers.suffixes import Suffixes

        try:
            with self.turn():
                suffixes = Suffixes(self.base.module)
                x, _labels = next(self._pictures())
                self._check_same(suffixes, x[:8])
        except BadInput:
            return None, f"{self.asked.model} cannot be read as a graph, so every cell took a whole evaluation."
        return suffixes, ""

    def _check_same(self, suffixes, few) -> None:
        import torch

        with torch.inference_mode():
            if not torch.equal(suffixes.run(few), self.base.module(few)):
                raise BadInput("The graph of the network does not answer as the network does.")

    def _pictures(self) -> Iterator:
        return self.dataset.batches(self.asked.split, self.work.checkpoint.input_size, self.batch_size, self.count)

    def pieces(self, pairs: list[tuple]) -> Iterator[dict]:
        """(layer, value) → what has changed, for a group of pairs at a time."""
        group, size = {}, 0
        for pair in pairs:
            piece = self._piece(*pair)
            self.made += 1
            self._tell("compress")
            if piece is None:
                self.done += self.batches
                continue
            if group and (size + piece.bytes > PIECES_BYTES or len(group) == MOST_PIECES):
                yield group
                group, size = {}, 0
            group[pair] = piece
            size += piece.bytes
        if group:
            yield group

    def _piece(self, layer: str, value: Any):
        """What the step makes of one layer; None where it refuses that layer."""
        try:
            subject = engine.compress(self.asked.work(layer, value), engine.Hooks(self.turn))
        except BadInput as error:
            self.refused[layer, value] = str(error)
            return None
        if self.suffixes is None:
            return _Whole(engine.measurable(subject))
        names = None
        if self.asked.step.kind != STRUCTURE and not subject.activations:
            names = {name for name, weight in subject.weights.items() if weight.mask is not None or weight.grid is not None}
        suffixes = self._rounded(subject) if subject.activations else self.suffixes
        with self.turn():
            changed = engine.measurable(subject)
            change = suffixes.change(changed, names)
            if changed is not subject.module:
                changed.graph.owning_module = None  # nodes know their graph, and that the whole network; what a change takes is counted
            return _Behind(suffixes, change)

    def _rounded(self, subject) -> Suffixes:
        """Of a step that rounds values between layers too, applied to the last layer: up to a changed layer, each cell rounds what this rounds.

        Sums and means anywhere are among these values, and batch norms are folded where ranges are fixed. `subject` stands for it where the step
        refuses the last layer.
        """
        from core.layers.suffixes import Suffixes

        if self.rounded is None:
            with contextlib.suppress(BadInput):
                subject = engine.compress(self.asked.work(self.asked.layers[-1], self.asked.values[0]), engine.Hooks(self.turn))
            with self.turn():
                self.rounded = Suffixes(engine.measurable(subject))
        return self.rounded

    def evaluate(self, pieces: dict) -> None:
        """Every picture through every piece, batch by batch."""
        import torch

        first = not self.right[None]
        running = {piece.suffixes for piece in pieces.values()}.union([self.suffixes] if first else []) - {None}
        for suffixes in running:
            suffixes.keep_for([piece.change for piece in pieces.values() if piece.suffixes is suffixes])
        with torch.inference_mode():
            for x, labels in self._pictures():
                for suffixes in running:
                    with self.turn():
                        suffixes.run(x)
                if first:
                    with self.turn():
                        logits = self.suffixes.logits if self.suffixes is not None else self.base.module(x)
                    self._add(None, logits, labels)
                for pair, piece in pieces.items():
                    with self.turn():
                        logits = piece.logits(x)
                    self._add(pair, logits, labels)
                    self.done += 1
                    self._tell("evaluate")

    def _add(self, pair: tuple | None, logits, labels) -> None:
        self.right.setdefault(pair, []).append((logits.argmax(1) == labels).numpy())

    def _tell(self, stage: str) -> None:
        fraction = COMPRESS_SHARE * self.made / self.total + (1 - COMPRESS_SHARE) * self.done / (self.total * self.batches)
        event: dict = {"stage": stage, "fraction": fraction}
        if stage == "evaluate" and time.monotonic() - self.shown >= SECONDS_BETWEEN_LOOKS:
            self.shown = time.monotonic()
            event["metrics"] = self.result()
        self.report(event)

    def result(self) -> dict:
        """The cells so far; those that were not looked at yet are None."""
        asked, base = self.asked, self._together(None)
        return asked.to_json() | {
            "field": asked.field.name, "layers": asked.layers, "images": self.count, "whole": self.why_whole,
            "baseline": {"top1": _percent(base), "images": len(base)} if len(base) else None,
            "cells": [[self._cell((layer, value), base) for value in asked.values] for layer in asked.layers],
        }  # fmt: skip

    def _cell(self, pair: tuple, base: np.ndarray) -> dict | None:
        from core.metrics.accuracy import paired_difference

        if pair in self.refused:
            return {"refused": self.refused[pair]}
        right = self._together(pair)
        if not len(right):
            return None
        return {"top1": _percent(right), "images": len(right), "difference": paired_difference(right, base[: len(right)])}

    def _together(self, pair: tuple | None) -> np.ndarray:
        parts = self.right.get(pair)
        return np.concatenate(parts) if parts else np.zeros(0, bool)


def _percent(right: np.ndarray) -> float:
    return 100 * int(right.sum()) / len(right)


class _Behind:
    """A changed network that runs again from where it was changed."""

    def __init__(self, suffixes: Suffixes, change: Change):
        self.suffixes, self.change, self.bytes = suffixes, change, change.bytes

    def logits(self, x):
        """For the pictures that `suffixes` ran last, which `x` are."""
        return self.suffixes.run_changed(self.change)


class _Whole:
    """A changed network that has to run from its beginning."""

    suffixes = None

    def __init__(self, module):
        self.module = module
        self.bytes = sum(parameter.nbytes for parameter in module.parameters())

    def logits(self, x):
        return self.module(x)
