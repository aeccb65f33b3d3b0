"""The one that writes: takes requests from Dask events, has them done by workers, and keeps what comes of it in the store.

Runs in the cluster process (`core.jobs.office`), in one thread, from one inbox, so that nothing here needs a lock. Requests and
progress are JSON (Dask's own encoding of events makes tuples of lists): a list of requests, or one progress. A request is

    {"op": "submit", "identity", "kind", "model", "dataset", …columns…, "request": what the task is given, "lane", "trains"}
    {"op": "cancel", "identity"}    {"op": "lane", "lane", "identity"}

A lane is one person's sliders: its newest run stands, and an older one that nobody else wants is dropped, unless it
trains. Only as many tasks are given to Dask as there are workers; the rest wait here, so order and cancellation are
decided in one place. Imports no torch.
"""

from __future__ import annotations

import base64
import json
import logging
import queue
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from core.errors import StoreError
from core.jobs import tasks
from core.keeping import kept
from core.recipe import digest
from core.store import CANCELLED, COMPLETE, FAILED, OPEN, RUNNING, SUPERSEDED, Store, blank_row

LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS = 30.0, 5.0, 1.0
MOST_CURVE_POINTS = 400
MOST_RESTARTS, MOST_ATTEMPTS = 3, 10
QUICK, COMPUTE, PREVIEW = "quick", "compute", "preview"  # the resources that workers offer
OTHER_RUN = "The worker computed another run than the one asked for, because its checkpoint, pictures or version are others than those of this machine."
logger = logging.getLogger("paretoscope")


def topics(store: Store) -> dict[str, str]:
    """The names under which requests and progress of this store travel; several stores may share a scheduler."""
    place = digest(store.url.set(username=None, password=None).render_as_string())
    return {name: f"paretoscope-{name}-{place}" for name in ("requests", "progress", "office")}


@dataclass
class Job:
    """Work that is not done yet."""

    identity: str
    kind: str
    request: dict
    priority: int = 0
    created: float = 0.0
    attempts: int = 0
    trains: bool = False
    lanes: set[str] = field(default_factory=set)
    pinned: bool = False  # asked for outside any lane
    restarts: int = 0
    key: str = ""
    pool: str = ""
    future: object = None
    curve: list[dict] = field(default_factory=list)
    so_far: dict = field(default_factory=dict)  # the notes and the first latencies, before there are metrics

    @property
    def is_quick(self) -> bool:
        """A slider's run, or the layers, bytes or latencies of one: what must not wait behind trainings."""
        return self.kind in ("run", "layers", "size", "timings") and bool(self.lanes) and not self.trains


class Scribe:
    """`offers()` says how many workers offer each resource, `alive()` how many there are just now; `owner` names this
    process in the rows it sees to."""

    def __init__(self, store: Store, client, owner: str, offers: Callable[[], dict[str, int]], alive: Callable[[], int]):
        self.store, self.client, self.owner, self.offers, self.alive = store, client, owner, offers, alive
        self.topics = topics(store)
        self.inbox: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        self.jobs: dict[str, Job] = {}
        self.lanes: dict[str, str] = {}
        self.trouble: str | None = None
        self._changes: dict[str, dict] = {}
        self._results: dict[str, tuple] = {}
        self._latencies: list[dict] = []
        self._deferred: list[tuple] = []
        self._renewed, self._retry_at = time.monotonic(), 0.0
        self._said: dict = {}

    def listen(self) -> None:
        """Subscribe, then take up what a former process left."""
        for name in ("requests", "progress"):
            self.client.subscribe_topic(self.topics[name], lambda event, name=name: self.inbox.put((name, event[1])))
        self.store.forget_superseded()
        self.take_up()

    @property
    def is_idle(self) -> bool:
        return not (self.jobs or self._results or self._deferred)

    def step(self, seconds: float = 0.25) -> None:
        """Wait for a message, do what all messages so far ask, write it down, and start what there is room for."""
        try:
            messages = [self.inbox.get(timeout=seconds)]
        except queue.Empty:
            messages = []
        while not self.inbox.empty():
            messages.append(self.inbox.get())
        is_time = time.monotonic() >= self._retry_at
        if is_time:
            messages, self._deferred = self._deferred + messages, []
        for message in messages:
            self._handle(*message)
        if is_time:
            self._write()
        self._start_waiting()
        self._renew()
        self._say()

    def take_up(self) -> None:
        """Go on with the runs of a former process of this home, and with those whose process left them."""
        for row in self.store.unfinished(self.owner):
            if row["identity"] in self.jobs or row["identity"] in self._changes or row["identity"] in self._results:
                continue
            request = row["request"]
            if not request or row["attempts"] >= MOST_ATTEMPTS:
                message = f"The work was begun {row['attempts']} times and never ended; the log is at {tasks.log_file()}."
                self._end(row["identity"], {"state": FAILED, "message": message})
                continue
            logger.info("taking up %s", row["identity"])
            self._handle("request", request | {"op": "submit", "attempts": row["attempts"]})

    def _handle(self, name: str, *content) -> None:
        try:
            getattr(self, f"_on_{name}")(*content)
        except StoreError as error:
            self._troubled(error)
            self._deferred.append((name, *content))
        except Exception:  # a message that makes no sense must not end the process that everybody's work hangs on
            logger.exception("a %s message could not be handled: %.2000r", name, content)

    def _on_requests(self, text: str) -> None:
        for request in json.loads(text):
            self._handle("request", request)

    def _on_request(self, request: dict) -> None:
        match request["op"]:
            case "submit":
                self._submit(request)
            case "cancel":
                self._cancel(request["identity"], {"state": CANCELLED, "message": "Cancelled.", "stage": None})
            case "lane":
                self._leave(request["lane"], request["identity"])
            case "keep":  # what a command computed by itself
                if "result" in request:
                    values = {"owner": self.owner, "origin": "here"}
                    self._results[request["result"]["identity"]] = (request["result"], base64.b64decode(request["predicted"]), values)
                self._latencies += request["latencies"]
            case other:
                raise ValueError(f"unknown request {other!r}")

    def _submit(self, request: dict) -> None:
        identity, lane = request["identity"], request.get("lane")
        job = self.jobs.get(identity)
        if job is None:
            job = Job(identity, request["kind"], request["request"], created=time.time())
            job.priority, job.attempts, job.trains = request.get("priority", 0), request.get("attempts", 0), request.get("trains", False)
            columns = {name: request[name] for name in ("model", "dataset", "split", "recipe", "key") if name in request}
            row = blank_row(
                identity, request["kind"], **columns, request=request, priority=job.priority, attempts=job.attempts,
                owner=self.owner, lease_until=time.time() + LEASE_SECONDS,
            )  # fmt: skip
            if not self.store.claim(row):
                return
            self._changes.pop(identity, None)
            self.jobs[identity] = job
        job.priority = max(job.priority, request.get("priority", 0))
        if lane is None:
            job.pinned = True
        else:
            job.lanes.add(lane)
            self._leave(lane, identity)

    def _leave(self, lane: str, identity: str) -> None:
        """The lane's sliders stand on `identity` now."""
        before = self.lanes.get(lane)
        if identity in self.jobs:
            self.lanes[lane] = identity
        else:
            self.lanes.pop(lane, None)
        if before is None or before == identity or before not in self.jobs:
            return
        job = self.jobs[before]
        job.lanes.discard(lane)
        if not (job.lanes or job.pinned or job.trains):
            self._cancel(before, {"state": CANCELLED, "message": "A newer slider position replaced it.", "stage": SUPERSEDED})

    def _cancel(self, identity: str, values: dict) -> None:
        job = self.jobs.get(identity)
        if job is None:
            row = self.store.find(identity)
            if row is None or row["state"] not in OPEN or (row["owner"] != self.owner and (row["lease_until"] or 0) > time.time()):
                return
        elif job.future is not None:
            self.client.cancel([job.future], force=True)
        self._end(identity, values)

    def _on_progress(self, text: str) -> None:
        message = json.loads(text)
        job = self.jobs.get(message["identity"])
        event = message["event"]
        if "latency" in event:
            self._latencies.append(event["latency"])
        elif job is None or job.key != message["key"]:
            return
        elif "started" in event:
            job.curve, job.so_far = [], {}
            self._change(job.identity, state=RUNNING, fraction=0.0, stage=None, preview=None, curve=None, seconds_left=None, attempts=job.attempts)
        else:
            self._progress(job, event)

    def _progress(self, job: Job, event: dict) -> None:
        values = {name: event[name] for name in ("fraction", "stage", "seconds_left") if name in event}
        if "metrics" in event:
            values["preview"] = {name: event[name] for name in ("metrics", "difference", "before_recovery") if name in event}
        elif "notes" in event or "latencies" in event:  # what a step could not do, and a first look; the metrics will say so again
            for name in ("notes", "latencies"):
                known = job.so_far.get(name, [])
                job.so_far[name] = known + [each for each in event.get(name, []) if each not in known]
            values["preview"] = dict(job.so_far)
        if "curve" in event:
            point = event["curve"]
            job.curve.append({name: point[name] for name in ("epoch", "loss", "top1") if name in point})
            if len(job.curve) > MOST_CURVE_POINTS:
                job.curve = [point for number, point in enumerate(job.curve) if number % 2 or "top1" in point]
            values |= {"curve": list(job.curve), "seconds_left": point.get("seconds_left")}
        self._change(job.identity, **values)

    def _on_done(self, identity: str, key: str) -> None:
        job = self.jobs.get(identity)
        if job is None or job.key != key:
            return
        status = job.future.status
        if status == "finished":
            try:
                self._answered(job, job.future.result(timeout=5))
            except TimeoutError:  # the worker died before its answer was fetched, so it is being computed again
                self._deferred.append(("done", identity, key))
        elif status == "error":
            error = job.future.exception()
            logger.error("%s failed in Dask: %r", identity, error)
            killed = type(error).__name__ == "KilledWorker"
            reason = "its worker was killed again and again, most likely for lack of memory" if killed else f"{type(error).__name__}: {error}"
            self._end(identity, {"state": FAILED, "message": f"The work could not be done: {reason}; the log is at {tasks.log_file()}."})
        elif status in ("cancelled", "lost"):
            self._again(job)

    def _again(self, job: Job) -> None:
        """Dask lost the task without our asking."""
        job.restarts += 1
        job.future, job.key = None, ""
        if job.restarts > MOST_RESTARTS:
            self._end(job.identity, {"state": FAILED, "message": f"The cluster lost this work {job.restarts} times; the log is at {tasks.log_file()}."})

    def _answered(self, job: Job, answer: dict) -> None:
        if answer["state"] == FAILED:
            listed = {"metrics": {"names": answer["names"]}} if "names" in answer else {}
            self._end(job.identity, {"state": FAILED, "message": answer["message"], "stage": answer.get("error"), **listed})
        elif answer["state"] == CANCELLED:
            self._again(job)  # what we cancel is not among the jobs any more
        elif job.kind == "run":
            values = {"owner": self.owner, "attempts": job.attempts, "origin": "here", "curve": job.curve or None}
            self._results[answer["result"]["identity"]] = (answer["result"], answer["predicted"], values)
            if answer["result"]["identity"] != job.identity:
                self._end(job.identity, {"state": FAILED, "message": OTHER_RUN})
                return
            self._forget(job.identity)
            self._changes.pop(job.identity, None)
        elif job.kind == "latency":
            timed = self.store.find(answer["result"]["identity"])
            if timed is not None and timed["state"] == COMPLETE and timed["origin"] == "here":
                self._change(timed["identity"], metrics=timed["metrics"] | answer["result"]["metrics"])
            self._end(job.identity, {"state": COMPLETE, "fraction": 1.0, "message": None, "stage": None})
        else:
            if "kept" in answer:
                kept.put(*answer["kept"])
            facts = {name: answer["result"].get(name) for name in ("metrics", "date")}
            self._end(job.identity, {"state": COMPLETE, "fraction": 1.0, "message": None, "stage": None, **facts})

    def _end(self, identity: str, values: dict) -> None:
        self._change(identity, **{"lease_until": None, "seconds_left": None, "preview": None} | values)
        self._forget(identity)

    def _forget(self, identity: str) -> None:
        job = self.jobs.pop(identity, None)
        if job is not None:
            job.future = None
            for lane in job.lanes:
                if self.lanes.get(lane) == identity:
                    del self.lanes[lane]

    def _change(self, identity: str, **values) -> None:
        self._changes.setdefault(identity, {}).update(values)

    def _write(self) -> None:
        """Everything since the last step in few transactions. What cannot be written is kept and tried again."""
        try:
            for identity in list(self._results):
                result, predicted, values = self._results[identity]
                self.store.complete(identity, result, predicted, **values)
                del self._results[identity]
            if self._latencies:  # before the rows that say they are there
                self.store.add_latencies(self._latencies)
                self._latencies = []
            self.store.write(self._changes)
            self._changes = {}
            if not self._deferred:
                self.trouble = None
        except StoreError as error:
            self._troubled(error)

    def _troubled(self, error: StoreError) -> None:
        if self.trouble is None:
            logger.error("%s", error)
        self.trouble, self._retry_at = str(error), time.monotonic() + RETRY_SECONDS

    def _start_waiting(self) -> None:
        waiting = [job for job in self.jobs.values() if job.future is None]
        if not waiting:
            return
        room = self.offers()
        busy = Counter(job.pool for job in self.jobs.values() if job.future is not None)
        for job in sorted(waiting, key=lambda job: (-job.priority, job.created)):
            # workers of a foreign scheduler may offer nothing by name, which is called ""
            for pool in (QUICK, COMPUTE, "") if job.is_quick else (COMPUTE, ""):
                if busy[pool] < room.get(pool, 0):
                    busy[pool] += 1
                    self._start(job, pool)
                    break

    def _start(self, job: Job, pool: str) -> None:
        job.attempts += 1
        job.pool = pool
        # a key of its own: under a former one, what was cancelled but has not noticed yet would go on
        job.key = key = f"{job.kind}-{job.identity}-{uuid.uuid4().hex[:8]}"
        identity = job.identity
        job.future = self.client.submit(
            tasks.perform, job.kind, identity, job.request, self.topics["progress"],
            key=key, pure=False, priority=job.priority, resources={pool: 1} if pool else None,
        )  # fmt: skip
        job.future.add_done_callback(lambda _future: self.inbox.put(("done", identity, key)))

    def _renew(self) -> None:
        if time.monotonic() - self._renewed < RENEW_SECONDS:
            return
        self._renewed = time.monotonic()
        try:
            self.store.renew(self.jobs, time.time() + LEASE_SECONDS)
            self.take_up()
        except StoreError as error:
            self._troubled(error)

    def _say(self) -> None:
        """Publish what clients should know of this process: what its workers offer, and what troubles it."""
        saying = {"offers": self.offers(), "workers": self.alive(), "trouble": self.trouble}
        if saying != self._said:
            self.client.set_metadata([self.topics["office"]], saying)
            self._said = saying
