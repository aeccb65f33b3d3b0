"""What runs on the cluster's workers: a run, a training, a download, a preview. Called by Dask with plain dicts, answers with plain dicts.

An answer is `{"state": COMPLETE, "result": …, "predicted": bytes}`, or `{"state": FAILED, "error": class, "message":
sentence}` with all `names` behind it, or `{"state": CANCELLED}`: no exception crosses the border. Imports torch only through the engine.

Also a Dask preload module (`dask worker --preload core.jobs.tasks`): a worker warms up beside its first task.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from distributed import get_worker

from core import device
from core.errors import Cancelled, ParetoscopeError
from core.home import home
from core.jobs.turns import Grant, Turns
from core.store import CANCELLED, COMPLETE, FAILED, Store
from core.timing.book import LatencyBook

USUAL = ("resnet18", "fashion_mnist")  # what the page opens on
SECONDS_BETWEEN_REPORTS = 0.2
WANTED = ("executing", "long-running")  # Dask's states of a task that nobody cancelled


def engine():
    """The module that computes: `core.engine`, or, in tests, what PARETOSCOPE_ENGINE names."""
    return importlib.import_module(os.environ.get("PARETOSCOPE_ENGINE") or "core.engine")


@functools.cache
def turns() -> Turns:
    return Turns()


def log_file() -> str:
    return str(home() / "cluster.log")


def perform(kind: str, identity: str, request: dict, topic: str) -> dict:
    """One job, from beginning to end, with its progress logged as events of `topic`."""
    job = Job(identity, topic)
    job.send({"started": True})
    return _answered(lambda: _KINDS[kind](request, job))


def preview(request: dict, seconds: float) -> dict:
    """`engine.preview` before everybody else who waits for a core, on the free cores but one, which the browser draws with meanwhile."""
    check = still_wanted()

    def look() -> dict:
        module = engine()
        work = module.Work.from_json(request)
        with turns().urgent(check) as grant:
            return {"state": COMPLETE, "result": module.preview(work, seconds, turn=functools.partial(_batch_of_preview, grant, check))}

    return _answered(look)


@contextlib.contextmanager
def _batch_of_preview(grant: Grant, check: Callable[[], None]):
    check()
    _use_threads(max(1, grant.grow() - 1))
    yield


def _answered(act: Callable[[], dict]) -> dict:
    try:
        return act()
    except Cancelled:
        return {"state": CANCELLED}
    except ParetoscopeError as error:
        return {"state": FAILED, "error": type(error).__name__, "message": str(error)} | ({"names": list(error.names)} if error.names else {})
    except Exception as error:
        traceback.print_exc()  # standard error is the cluster's log
        where = f"{type(error).__module__}.{type(error).__name__}".removeprefix("builtins.")
        return {"state": FAILED, "error": "ParetoscopeError", "message": f"Something went wrong inside the engine ({where}); the log is at {log_file()}."}


def still_wanted() -> Callable[[], None]:
    """A check that raises `Cancelled` once the task that it was made in is no longer wanted; a dictionary look-up."""
    worker = get_worker()
    key, tasks = worker.get_current_task(), worker.state.tasks

    def check() -> None:
        task = tasks.get(key)
        if task is None or task.state not in WANTED:
            raise Cancelled("The work was cancelled.")

    return check


class Job:
    """How one task meets the machine and the office: turns that notice a cancellation, progress, measured latencies."""

    def __init__(self, identity: str, topic: str):
        self.identity, self.topic = identity, topic
        self.worker = get_worker()
        self.key = self.worker.get_current_task()
        self.check = still_wanted()
        self._sent_at, self._stage, self._unsent = 0.0, None, {}

    @contextlib.contextmanager
    def turn(self):
        self.check()
        with turns().compute(self.check):
            yield

    @contextlib.contextmanager
    def exclusive(self):
        self.check()
        with turns().exclusive(self.check) as pause:
            yield pause

    def report(self, event: dict) -> None:
        """Pass on the engine's progress, at most five times a second; new metrics, latencies, notes, a new stage and whole epochs at once."""
        self.check()
        event = dict(event)
        if "loss" in event:  # a bare training, whose events are points of its curve
            event = {"fraction": event["fraction"], "stage": "train", "curve": event}
        self._unsent |= event
        point = event.get("curve", {})
        news = any(name in event for name in ("metrics", "latencies", "notes")) or "top1" in point or event.get("stage", self._stage) != self._stage
        if news or time.monotonic() - self._sent_at >= SECONDS_BETWEEN_REPORTS:
            self._sent_at, self._stage = time.monotonic(), event.get("stage", self._stage)
            self.send(self._unsent)
            self._unsent = {}

    def send(self, event: dict) -> None:
        self.worker.log_event(self.topic, json.dumps({"identity": self.identity, "key": self.key, "event": event}))


@functools.cache
def _store() -> Store:
    return Store()


def _run(request: dict, job: Job) -> dict:
    module, work, hooks = _engaged(request, job)
    if request.get("first_look"):
        hooks["first_look"] = True
    with device.using(work.device_of(job.identity) or device.chosen()):
        result = module.run(work, **hooks)
    return {"state": COMPLETE, "result": result.to_json(), "predicted": result.predicted}


def _timing(request: dict, job: Job) -> dict:
    module, work, hooks = _engaged(request, job)
    return {"state": COMPLETE, "result": {"identity": work.identity(), "metrics": module.timed(work, **hooks)}}


def _engaged(request: dict, job: Job) -> tuple[Any, Any, dict]:
    """The engine, the work that is asked for, and how the engine meets this job; torch is left one thread."""
    module = engine()
    hooks = {"turn": job.turn, "exclusive": job.exclusive, "report": job.report, "book": LatencyBook(_store(), job.send, module.machine()["id"])}
    work = module.Work.from_json(request["work"])
    with job.turn():
        _use_threads(1)
    return module, work, hooks


def _training(request: dict, job: Job) -> dict:
    from core.models import checkpoints

    _use_threads(1)
    made = checkpoints.train(request["model"], request["dataset"], **request["settings"], turn=job.turn, report=job.report)
    return {"state": COMPLETE, "result": {"metrics": made.card["validation"], "date": made.card["date"]}}


def _teacher_answers(request: dict, job: Job) -> dict:
    from core import zoo
    from core.lessons import answers

    with job.turn():
        _use_threads(1)
    made = answers.make(zoo.checkpoint(request["model"], request["dataset"]), request["dataset"], job.turn)
    return {"state": COMPLETE, "result": {"metrics": made}}


def _fetch(request: dict, job: Job) -> dict:
    """Download a dataset in a process of its own, which can be ended when nobody wants it any more."""
    command = [sys.executable, "-m", "core", "datasets", "--fetch", request["dataset"]]
    with (
        tempfile.TemporaryFile("w+") as words,  # not a pipe, which a progress bar that nobody reads would fill
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words) as download,
    ):
        try:
            job.report({"stage": "download", "fraction": 0.0})
            while download.poll() is None:
                job.check()
                time.sleep(0.05)
        except BaseException:
            download.kill()
            raise
        words.seek(0)
        said = words.read().strip().splitlines()
    if download.returncode:
        raise ParetoscopeError(said[-1] if said else f"{request['dataset']} could not be downloaded; try again while online.")
    return {"state": COMPLETE, "result": {}}


def _import(request: dict, job: Job) -> dict:
    from core.models import importing

    asked = importing.Import.from_json(request)
    with job.turn():
        _use_threads(1)
    card = importing.bring(asked, turn=job.turn, report=job.report)
    importing.forget_uploads(asked)
    return {"state": COMPLETE, "result": {"metrics": card, "date": card["date"]}}


def _examination(module: str, kind: str, request: dict, job: Job) -> dict:
    """What a module of `_KINDS` measures: layers, sizes, graphs; the result is the file that keeps it, written by the office."""
    examiner = importlib.import_module(module)
    asked = getattr(examiner, kind).from_json(request)
    with job.turn():
        _use_threads(1)
    result = examiner.measure(asked, turn=job.turn, report=job.report)
    return {"state": COMPLETE, "result": {}, "kept": ("layers", f"{job.identity}.json", json.dumps(result, separators=(",", ":")).encode())}


def _export(request: dict, job: Job) -> dict:
    """A file in a format, made and measured; the office keeps it."""
    from core.exports import Export, chosen, make

    asked = Export.from_json(request)
    with job.turn():
        _use_threads(1)
    made = make(asked, turn=job.turn, report=job.report, predicted=chosen.labels(asked.work, _store()))
    return {"state": COMPLETE, "result": {}, "kept": (asked.shelf, asked.kept_as(), made.kept())}


def _timings(request: dict, job: Job) -> dict:
    """What `core.timing.timings` measures; its rows also go to the book, for every run with the same graph."""
    from core.machine import machine
    from core.timing import timings

    asked = timings.Timings.from_json(request)
    with job.turn():
        _use_threads(1)
    book = LatencyBook(_store(), job.send, machine()["id"])
    try:
        result = timings.measure(asked, turn=job.turn, exclusive=job.exclusive, report=job.report, book=book)
    finally:
        _use_threads(1)
    return {"state": COMPLETE, "result": {}, "kept": ("layers", f"{job.identity}.json", json.dumps(result, separators=(",", ":")).encode())}


_KINDS: dict[str, Callable[[dict, Job], dict]] = {
    "run": _run, "latency": _timing, "training": _training, "fetch": _fetch, "import": _import,
    "sensitivity": functools.partial(_examination, "core.layers.sensitivity", "Sensitivity"),
    "layers": functools.partial(_examination, "core.layers.facts", "Layers"), "size": functools.partial(_examination, "core.packed.size_parts", "SizeParts"),
    "graph": functools.partial(_examination, "core.targets.graphs", "Operators"), "answers": _teacher_answers, "export": _export, "timings": _timings,
}  # fmt: skip


def _use_threads(count: int) -> None:
    """Let torch compute with so many threads, where the engine uses torch at all."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != count:
        torch.set_num_threads(count)


def dask_setup(worker: Any) -> None:
    """Dask's hook: import the engine and, where previews are made, look at the usual checkpoint once, in the background."""
    previews = "preview" in worker.state.total_resources
    threading.Thread(target=_warm_up, args=(previews,), name="warm-up", daemon=True).start()


def _warm_up(previews: bool) -> None:
    try:
        module = engine()
        if module.__name__ == "core.engine":
            import torch
            import torchvision  # noqa: F401

            torch.set_num_threads(1)
        if previews:
            module.preview(module.Work(*USUAL), 0.01, turn=turns().compute)
    except ParetoscopeError:
        return  # nothing usual is here, which whoever asks for it is told
    except Exception:
        traceback.print_exc()
