"""An engine that computes nothing and takes its time: what the cluster's tests are run with, by PARETOSCOPE_ENGINE.

What stands for a recipe says how the work behaves: how long it takes, that it fails or crashes, or that it kills its
worker, once (`killed_once` names a file that remembers it) or whenever it is tried (a name that ends in a star).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import BadInput
from core.recipe import digest

BATCH_SECONDS = 0.02


@dataclass(frozen=True)
class Act:
    """What stands for a recipe."""

    sleep: float = 0.0
    fail: str = ""
    crash: bool = False
    killed_once: str = ""
    trains: bool = False
    number: int = 0
    names: list = field(default_factory=lambda: ["a list", ["in a list"]])

    @property
    def steps(self):
        return [type("Train", (), {"kind": "train"})] if self.trains else []

    def to_json(self) -> dict:
        return self.__dict__

    def key(self) -> str:
        return digest(json.dumps(self.__dict__))


@dataclass(frozen=True)
class Work:
    model: str = "resnet18"
    dataset: str = "digits"
    recipe: Act = field(default_factory=Act)
    split: str = "validation"
    images: int | None = None
    latency: bool = False

    def check(self) -> None:
        if self.model == "missing":
            raise BadInput("There is no such model.")

    def device_of(self, identity: str) -> None:
        """What computes nothing does so nowhere."""

    def identity(self) -> str:
        return digest(self.model + self.dataset + self.recipe.key())

    def to_json(self) -> dict:
        return self.__dict__ | {"recipe": self.recipe.to_json()}

    @staticmethod
    def from_json(value: dict) -> Work:
        assert value == json.loads(json.dumps(value)), "the request has changed on its way"
        return Work(**(value | {"recipe": Act(**value["recipe"])}))


@dataclass(frozen=True)
class Result:
    work: Work
    metrics: dict
    predicted: bytes = b"\x01\x00"

    def to_json(self) -> dict:
        work = self.work
        return {
            "model": work.model, "dataset": work.dataset, "recipe": work.recipe.to_json(), "key": work.recipe.key(), "identity": work.identity(),
            "split": work.split, "machine": machine(), "baseline": {"top1": 91.0}, "metrics": self.metrics, "difference": {"top1": -1.0},
            "seconds": {"total": work.recipe.sleep}, "date": "2026-01-01",
        }  # fmt: skip


def machine() -> dict:
    return {"id": "test-machine"}


def run(
    work: Work, *, turn=contextlib.nullcontext, exclusive=contextlib.nullcontext, report=lambda event: None, artifact=None, book=None, first_look=False
) -> Result:
    act, begun = work.recipe, time.time()
    _behave(act)
    batches = max(1, round(act.sleep / BATCH_SECONDS))
    for number in range(batches):
        with turn():
            time.sleep(min(act.sleep, BATCH_SECONDS))
        point = {"epoch": number, "loss": 1.0, "seconds_left": 1}
        report({"fraction": (number + 1) / batches, "stage": "evaluate", "metrics": {"top1": 80.0 + number}, "curve": point})
    rows = timed(work, exclusive=exclusive, book=book)["latencies"] if work.latency else []
    return Result(work, {"top1": 90.0, "begun": begun, "latencies": rows})


def timed(work: Work, *, turn=contextlib.nullcontext, exclusive=contextlib.nullcontext, report=lambda event: None, book=None) -> dict:
    if book.find("graph", "base", "test-runtime") is None:
        with exclusive():
            book.add("graph", "base", {"runtime": "test-runtime", "threads": 1, "batch": 1, "ratio": 1.0, "worker": os.getpid()})
    return {"latencies": [book.find("graph", "base", "test-runtime")], "deployed_bytes": 1}


def preview(work: Work, seconds: float = 0.25, *, turn=contextlib.nullcontext) -> dict:
    _behave(work.recipe)
    started, batches = time.monotonic(), 0
    while batches == 0 or time.monotonic() - started < work.recipe.sleep:
        with turn():
            time.sleep(min(work.recipe.sleep, BATCH_SECONDS))
        batches += 1
    return {"metrics": {"top1": 50.0 + work.recipe.number}, "images": batches}


def _behave(act: Act) -> None:
    if act.killed_once and not Path(act.killed_once).exists():
        if not act.killed_once.endswith("*"):
            Path(act.killed_once).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if act.fail:
        raise BadInput(act.fail)
    if act.crash:
        raise ZeroDivisionError("a division that nobody thought of")
