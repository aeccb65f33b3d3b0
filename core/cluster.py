"""The work: submit, follow, cancel, preview. What pages and the command line ask the cluster with.

    cluster = connect()                          # finds the cluster process of this home, or starts it
    row = cluster.submit(work, lane=session)     # a row of the store: COMPLETE at once when the run is known
    look = cluster.preview(session, work)        # look.done(), look.result(timeout); the newest of a lane wins
    cluster.cancel(row["identity"])              # CANCELLED within a second

A lane is one person's sliders. Runs are followed by reading the store. Imports no torch.
"""

from __future__ import annotations

import base64
import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from core import errors
from core.errors import Cancelled, ClusterError, ParetoscopeError
from core.jobs.connection import START_SECONDS, Connection, is_answer
from core.keeping import kept
from core.recipe import TRAIN, digest
from core.store import CANCELLED, COMPLETE, FAILED, OPEN, RUNNING, WAITING, Store, blank_row

SLIDER, SWEEP, BACKGROUND = 10, 0, -10  # priorities
PREVIEW_PRIORITY = 100
PREVIEW_SECONDS = 0.25


def connect(start: bool = True, wait: float = START_SECONDS, store: Store | None = None) -> Cluster:
    """The cluster of this home, once it answers; raises `ClusterError` when it does not within `wait` seconds.

    With `wait=0` at once: what is asked before the cluster answers is delivered when it does.
    """
    cluster = Cluster(store or Store(), start)
    if wait:
        try:
            cluster.wait(wait)
        except ClusterError:
            cluster.close()
            raise
    return cluster


class Preview:
    """One look at a slider position, asked for by `Cluster.preview`."""

    def __init__(self, lane: str, work: Any, seconds: float):
        self.lane, self.work, self.seconds = lane, work, seconds
        self.cancelled = False
        self.future = None
        self._answer: dict | None = None
        self._ended = threading.Event()

    def done(self) -> bool:
        """Whether there is a result, or an error, or a newer position has taken its place."""
        return self._ended.is_set()

    def wait(self, seconds: float) -> bool:
        """`done()`, after at most so many seconds."""
        return self._ended.wait(seconds)

    def result(self, timeout: float | None = None) -> dict:
        """What `engine.preview` returned. Raises its `ParetoscopeError`, `Cancelled` when superseded, `TimeoutError` when late."""
        if not self._ended.wait(timeout):
            raise TimeoutError(f"no preview within {timeout:g} seconds")
        if self.cancelled or self._answer["state"] == CANCELLED:
            raise Cancelled("A newer slider position replaced this one.")
        if self._answer["state"] == FAILED:
            raise error_of(self._answer["error"], self._answer["message"])
        return self._answer["result"]

    def _end(self, answer: dict | None) -> None:
        self._answer = answer
        self.future = None
        self._ended.set()


class Cluster:
    """Everything here may be called from any thread, and nothing but `wait`, `follow` and `Preview.result` waits."""

    def __init__(self, store: Store, start: bool = True):
        self.store = store
        self._asked: dict[str, Preview] = {}  # lane → its preview that has no answer yet
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._connection = Connection(store, start, self._ask_again)

    def wait(self, seconds: float = 60.0) -> None:
        """Return once the cluster answers; raises `ClusterError`."""
        self._connection.wait(seconds)

    def close(self) -> None:
        """Let go of the cluster, which goes on working."""
        self._connection.close()

    def submit(self, work: Any, lane: str | None = None, priority: int | None = None) -> dict:
        """The run's row. A COMPLETE or already asked-for one as it is; else WAITING, and a worker will take it, again if it failed.

        A new run in a `lane` takes the place of the lane's former one, which is dropped if it is not done, does not
        train, and nobody else asked for it. Raises what `work.check()` raises.
        """
        return self.submit_all([work], lane, priority)[0]

    def submit_all(self, works: Iterable[Any], lane: str | None = None, priority: int | None = None) -> list[dict]:
        """`submit` for many runs at the price of one."""
        if priority is None:
            priority = SWEEP if lane is None else SLIDER
        works = list(works)
        for work in works:
            work.check()
        identities = [work.identity() for work in works]
        known, rows, requests = self.store.find_all(identities), [], []
        for work, identity in zip(works, identities):
            row = known.get(identity)
            if row is None or row["state"] != COMPLETE:
                given = {"work": work.to_json()} | ({} if lane is None else {"first_look": True})  # somebody is watching
                request = _request("run", identity, given, work, lane=lane, priority=priority)
                requests.append(request)
                if row is None or row["state"] not in OPEN:
                    row = known[identity] = _waiting(request)
            elif lane is not None:
                requests.append({"op": "lane", "lane": lane, "identity": identity})
            rows.append(row)
        if requests:
            self._connection.send(*requests)
        return rows

    def measure(self, work: Any, priority: int = BACKGROUND) -> dict:
        """Time a known run's graph on this machine, which is quick: nothing is evaluated, or trained that does not decide the shapes.

        Returns the row of that job (kind "latency"), which is not the run's. What was timed is in `Store.latencies` when
        it is COMPLETE, and in the run's own row if that was measured here.
        """
        work.check()
        identity = digest(f"latency {work.identity()}")
        return self._submit_job(_request("latency", identity, {"work": work.to_json()}, work, priority=priority))

    def train(self, model: str, dataset: str, **settings: Any) -> dict:
        """Make a checkpoint: `core.models.checkpoints.train` as a job (kind "training"), with its settings (`epochs`, `seed`, …)."""
        from core import zoo
        from core.datasets import DATASETS

        zoo.check_model(model)
        absent = DATASETS.get(dataset).missing()
        if absent:
            raise absent
        identity = digest(f"training {model} {dataset} {sorted(settings.items())}")
        given = {"model": model, "dataset": dataset, "settings": settings}
        columns = {"model": model, "dataset": dataset}
        return self._submit_job({"op": "submit", "kind": "training", "identity": identity, "request": given, "trains": True} | columns)

    def fetch(self, dataset: str) -> dict:
        """Download a dataset as a job (kind "fetch")."""
        from core.datasets import DATASETS

        DATASETS.get(dataset)
        identity = digest(f"fetch {dataset}")
        return self._submit_job({"op": "submit", "kind": "fetch", "identity": identity, "dataset": dataset, "request": {"dataset": dataset}})

    def bring(self, asked: Any) -> dict:
        """Import a person's own checkpoint and pictures (`core.models.importing.Import`) as a job (kind "import"); the row's `metrics` is then its card."""
        asked.check()
        columns = {"model": asked.model, "dataset": asked.name}
        given = {"kind": "import", "identity": asked.identity(), "request": asked.to_json(), "trains": True, "priority": SLIDER}
        return self._submit_job({"op": "submit"} | given | columns)

    def examine(self, asked: Any, lane: str | None = None) -> dict:
        """Measure what a `core.layers.sensitivity.Sensitivity` or a `core.asked.Asked` (layers, sizes, timings) asks for.

        `examined` gives the result. Returns the job's row, COMPLETE at once while the result is kept. A newer one in a lane takes the place of the former.
        """
        asked.check()
        identity, columns = asked.identity(), {"model": asked.model, "dataset": asked.dataset}
        if kept.path_of("layers", f"{identity}.json").exists():
            if lane is not None:
                self._connection.send({"op": "lane", "lane": lane, "identity": identity})
            return blank_row(identity, asked.kind, **columns, state=COMPLETE, fraction=1.0)
        request = {"op": "submit", "kind": asked.kind, "identity": identity, "request": asked.to_json(), "trains": asked.trains, "priority": SLIDER}
        row = self.store.find(identity)
        self._connection.send(request | columns | {"lane": lane})  # also when it is under way: this lane wants it too
        return row if row is not None and row["state"] in OPEN else _waiting(request | columns)

    def examined(self, identity: str) -> dict | None:
        """What an examination gave, while it is kept."""
        return kept.get_json("layers", f"{identity}.json")

    def export(self, asked: Any) -> dict:
        """Have a `core.exports.Export` made and measured (kind "export"); `asked.found()` is then the file. COMPLETE at once while that is kept."""
        asked.check()
        columns = {"model": asked.model, "dataset": asked.dataset}
        if kept.path_of(asked.shelf, asked.kept_as()).exists():
            return blank_row(asked.identity(), asked.kind, **columns, state=COMPLETE, fraction=1.0)
        request = {"op": "submit", "kind": asked.kind, "identity": asked.identity(), "request": asked.to_json(), "trains": asked.trains, "priority": SLIDER}
        return self._submit_job(request | columns)

    def ask(self, model: str, dataset: str) -> dict:
        """Have a checkpoint answer a few pictures (kind "answers"); `metrics` of the row is then what `core.lessons.answers.make` returns."""
        from core import zoo
        from core.lessons import answers

        identity = answers.identity(zoo.checkpoint(model, dataset), dataset)
        given = {"model": model, "dataset": dataset}
        return self._submit_job({"op": "submit", "kind": "answers", "identity": identity, "request": given} | given)

    def keep(self, result: dict, predicted: bytes, latencies: list[dict]) -> None:
        """Have the store's writer keep a run that was computed elsewhere on this machine, with what was timed for it."""
        self._connection.send({"op": "keep", "result": result, "predicted": base64.b64encode(predicted).decode(), "latencies": latencies})

    def keep_latencies(self, latencies: list[dict]) -> None:
        """Have the store's writer keep what was timed elsewhere on this machine: rows of `Store.add_latencies`."""
        self._connection.send({"op": "keep", "latencies": latencies})

    def cancel(self, identity: str) -> None:
        """Stop a WAITING or RUNNING job; its row says CANCELLED within a second."""
        self._connection.send({"op": "cancel", "identity": identity})

    def find(self, identity: str) -> dict | None:
        """The row as the store has it, or WAITING when it was asked for since: what failed and is tried again shows no old failure."""
        asked, row = self._connection.unanswered(identity), self.store.find(identity)
        return _waiting(asked[0]) if asked and (row is None or not is_answer(row, asked[1])) else row

    def follow(self, identity: str, seconds: float = 0.1) -> Iterator[dict]:
        """Yield the row whenever it changed, until the job is done one way or another. Raises `ClusterError` when nobody can do it."""
        seen = None
        while True:
            row = self.find(identity)
            if row is not None and row["changed"] != seen:
                seen = row["changed"]
                yield row
                if row["state"] not in OPEN:
                    return
            elif self._connection.error is not None:
                raise self._connection.error
            time.sleep(seconds)

    def preview(self, lane: str, work: Any, seconds: float = PREVIEW_SECONDS) -> Preview:
        """Look at a slider position now. A former look of the lane is dropped: unbegun at no cost, else between two batches."""
        look = Preview(lane, work, seconds)
        with self._lock:
            before = self._asked.get(lane)
            if before is not None:
                self._drop(before)
            self._asked[lane] = look
            self._ask(look)
        return look

    def leave(self, lane: str) -> None:
        """A person has gone: drop what only they waited for."""
        with self._lock:
            look = self._asked.pop(lane, None)
            if look is not None:
                self._drop(look)
        self._connection.send({"op": "lane", "lane": lane, "identity": ""})

    def state(self) -> dict:
        """`connected`, `workers` (that are up), `waiting`, `running`, and `trouble`: a sentence, or None. About a millisecond."""
        counts, connection = self.store.counts(), self._connection
        connected = connection.client is not None
        return {
            "connected": connected, "workers": connection.office.get("workers", 0) if connected else 0,
            "waiting": counts.get(WAITING, 0), "running": counts.get(RUNNING, 0),
            "trouble": str(connection.error) if connection.error else connection.office.get("trouble") if connected else None,
        }  # fmt: skip

    def busy(self) -> bool:
        """Whether anything is WAITING, RUNNING or being looked at."""
        state = self.store.counts()
        return any(state.get(name) for name in OPEN) or bool(self._asked)

    def _submit_job(self, request: dict) -> dict:
        row = self.store.find(request["identity"])
        if row is not None and row["state"] in OPEN:
            return row
        self._connection.send(request)
        return _waiting(request)

    def _ask(self, look: Preview) -> None:
        """Give a preview to the cluster, or leave it for `_ask_again` when there is none yet."""
        client = self._connection.client
        if client is None or client.status != "running":
            self._connection.need()
            return
        from core.jobs import tasks

        offered = self._connection.office.get("offers", {}).get("preview")
        future = client.submit(
            tasks.preview, look.work.to_json(), look.seconds, key=f"preview-{client.id}-{next(self._numbers)}", pure=False,
            priority=PREVIEW_PRIORITY, resources={"preview": 1} if offered else None,
        )  # fmt: skip
        look.future = future
        future.add_done_callback(lambda future: self._answered(look, future))

    def _ask_again(self) -> None:
        """After connecting: whatever was asked of nobody, or of a cluster that died."""
        with self._lock:
            for look in self._asked.values():
                self._ask(look)

    def _drop(self, look: Preview) -> None:
        look.cancelled = True
        future, client = look.future, self._connection.client
        look._end(None)
        if future is not None and client is not None and future.client is client:
            client.loop.add_callback(client.cancel, [future], asynchronous=True, force=True)

    def _answered(self, look: Preview, future: Any) -> None:
        """In Dask's callback thread, when a preview's future has ended."""
        if look.cancelled or look.future is not future:
            return
        if future.status == "finished":
            answer = future.result(timeout=10)
        elif future.status == "error":
            answer = {"state": FAILED, "error": "ClusterError", "message": f"The preview could not be made ({type(future.exception()).__name__})."}
        else:
            return  # the cluster has gone; it is asked again after connecting
        with self._lock:
            if self._asked.get(look.lane) is look:
                del self._asked[look.lane]
                look._end(answer)


def _request(kind: str, identity: str, given: dict, work: Any, **facts: Any) -> dict:
    trains = any(step.kind == TRAIN for step in work.recipe.steps)
    columns = {"model": work.model, "dataset": work.dataset, "split": work.split, "recipe": work.recipe.to_json(), "key": work.recipe.key()}
    return {"op": "submit", "kind": kind, "identity": identity, "request": given, "trains": trains} | columns | facts


def _waiting(request: dict) -> dict:
    """The row that the scribe is about to write."""
    columns = {name: request[name] for name in ("model", "dataset", "split", "recipe", "key", "priority") if name in request}
    return blank_row(request["identity"], request["kind"], **columns)


def error_of(name: str | None, sentence: str) -> ParetoscopeError:
    """An error of that class with that sentence, as it was raised on a worker."""
    kind = getattr(errors, name or "", ParetoscopeError)
    error = kind.__new__(kind)
    Exception.__init__(error, sentence)
    return error
