"""Finds the cluster process of this home, starts it where it is missing, and keeps a Dask client connected to it.

One background thread a connection, so that a page never waits for the cluster to come up: requests are put in an outbox
and delivered as soon as there is somebody to take them, again where the cluster died before it answered. Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from core.errors import ClusterError, ParetoscopeError
from core.home import folder, home
from core.jobs.locks import FileLock
from core.store import COMPLETE, OPEN, Store

ROOT = Path(__file__).resolve().parents[2]
LOCK, ADDRESS, LOG = "office.lock", "cluster.json", "cluster.log"
START_SECONDS = 120.0
LOOK_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
RESEND_SECONDS, CONNECT_SECONDS = 3.0, 5
LARGEST_LOG_BYTES = 5_000_000
STACKS_SECONDS, KILLED_SECONDS = 1.0, 10.0  # to write where it stands, and to be gone, of a cluster process that does not end by itself


def running_office() -> dict | None:
    """The facts in `cluster.json` (`address`, `pid`, …) when the process that wrote them lives, else None."""
    if FileLock(folder() / LOCK).is_free():
        return None
    try:
        return json.loads((home() / ADDRESS).read_text())
    except (OSError, ValueError):
        return None  # it is still starting


def start_office(*options: str) -> subprocess.Popen:
    """Start the cluster process, detached from this one's terminal, pipes and fate."""
    log = folder() / LOG
    if log.exists() and log.stat().st_size > LARGEST_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PARETOSCOPE_HOME": str(home().resolve())}
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "core.jobs.office", *options], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip


def find_office(start: bool, options: tuple[str, ...] = (), given_up: Callable[[], bool] = lambda: False) -> dict:
    """The running cluster process's facts, having started it if need be; raises `ClusterError` when there is none."""
    found, process, end = running_office(), None, time.monotonic() + START_SECONDS
    while found is None:
        if process is None and FileLock(folder() / LOCK).is_free():
            if not start:
                raise ClusterError("No cluster is running; start one with `python -m core cluster`.")
            process = start_office(*options)
        ended = process is not None and process.poll() is not None
        if ended and FileLock(folder() / LOCK).is_free():
            raise ClusterError(f"The cluster could not be started: {_last_words()} The log is at {home() / LOG}.")
        if time.monotonic() > end or given_up():
            raise ClusterError(f"The cluster did not come up within {START_SECONDS:g} seconds; the log is at {home() / LOG}.")
        time.sleep(0.05)
        found = running_office()
    return found


def stop_office(seconds: float = 60.0) -> bool:
    """Ask the cluster process of this home to end, and wait for that; False when there was none.

    One that has not ended by then writes where it stands into its log and is killed; its work is taken up by the next one.
    """
    found = running_office()
    if found is None:
        return False
    os.kill(found["pid"], signal.SIGTERM)
    if not _ends(seconds):
        with contextlib.suppress(ProcessLookupError, AttributeError):  # Windows has neither, and ends at once
            os.kill(found["pid"], signal.SIGUSR1)
            time.sleep(STACKS_SECONDS)
            os.kill(found["pid"], signal.SIGKILL)
        if not _ends(KILLED_SECONDS):
            raise ClusterError(f"The cluster process {found['pid']} does not end; its log is at {home() / LOG}.")
    return True


def _ends(seconds: float) -> bool:
    """Whether the cluster process is gone within so long."""
    end, lock = time.monotonic() + seconds, FileLock(folder() / LOCK)
    while not lock.is_free():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def is_answer(row: dict, asked: float) -> bool:
    """Whether a row is younger than a request for it; an old failure is not, nor a training done before that is wanted again."""
    return row["updated"] >= asked or row["state"] in OPEN or (row["state"] == COMPLETE and row["kind"] == "run")


def _last_words() -> str:
    lines = (home() / LOG).read_text(errors="replace").strip().splitlines()
    return lines[-1].split("paretoscope: ")[-1].rstrip(".") + "." if lines else "it did not say why."


class Connection:
    """`client` is a connected Dask client, or None. `on_connect` is called in the background thread after each connecting."""

    def __init__(self, store: Store, start: bool = True, on_connect: Callable[[], None] = lambda: None):
        self.store, self._start, self._on_connect = store, start, on_connect
        self.client = None
        self.office: dict = {}  # what the scribe says of itself: `offers`, `workers`, `trouble`
        self.error: ClusterError | None = None
        self._topics: dict[str, str] = {}
        self._outbox: list[dict] = []
        self._unanswered: dict[str, tuple[dict, float]] = {}  # identity → submit request and when it was asked
        self._lock = threading.Lock()
        self._wanted, self._pause, self._sent = True, LOOK_SECONDS, 0.0
        self._wake, self._connected, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, name="paretoscope-connection", daemon=True)
        self._thread.start()

    def send(self, *requests: dict) -> None:
        """Deliver requests to the scribe, in order, as soon as that is possible. Never waits."""
        with self._lock:
            self._outbox += requests
            for request in requests:
                if request["op"] == "submit":
                    self._unanswered[request["identity"]] = (request, time.time())
                elif request["op"] == "cancel":
                    self._unanswered.pop(request["identity"], None)
        self.need()

    def need(self) -> None:
        """Somebody wants to be connected; start the cluster process again if it was stopped."""
        self._wanted = True
        self._wake.set()

    def unanswered(self, identity: str) -> tuple[dict, float] | None:
        """A submit request that the scribe may not have answered yet, and when it was asked."""
        with self._lock:
            return self._unanswered.get(identity)

    def wait(self, seconds: float) -> None:
        """Return once connected; raises `ClusterError` when that fails or takes longer."""
        end = time.monotonic() + seconds
        while not self._connected.wait(0.05):
            if self.error is not None:
                raise self.error
            if time.monotonic() > end:
                raise ClusterError(f"The cluster did not answer within {seconds:g} seconds; its log is at {home() / LOG}.")

    def close(self) -> None:
        self._closed.set()
        self._wake.set()
        self._thread.join(10)

    def _serve(self) -> None:
        looked = 0.0
        while not self._closed.is_set():
            try:
                if self.client is None and self._wanted:
                    self._connect()
                if self.client is not None:
                    self._deliver()
                    if time.monotonic() - looked >= LOOK_SECONDS:
                        looked = time.monotonic()
                        self._look()
            except ParetoscopeError as error:
                self.error = error if isinstance(error, ClusterError) else ClusterError(str(error))
                self._disconnect()
                self._closed.wait(self._pause)
                self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            except Exception as error:  # Dask raises whatever it likes when a scheduler dies under a call
                logging.getLogger("paretoscope").info("the cluster was lost: %r", error)
                self._disconnect()
                # one that was stopped on purpose took its address with it, and is started again when it is needed
                with contextlib.suppress(Exception):  # a store that cannot be read now says so at the next look
                    self._still_unanswered()
                self._wanted = bool(self._outbox or self._unanswered) or (home() / ADDRESS).exists()
                continue
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
        if self.client is not None:
            try:
                self._deliver()  # what was asked last
            except Exception as error:  # Dask's, of whatever kind
                logging.getLogger("paretoscope").warning("the last requests did not reach the cluster: %r", error)
        self._disconnect()

    def _connect(self) -> None:
        found = find_office(self._start, given_up=self._closed.is_set)
        import dask

        # read when distributed is imported: a page's terminal is no place for its words, and a dead scheduler is given up soon
        dask.config.set({"logging": {"distributed": "error"}, "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s"})
        from distributed import Client

        from core.jobs.scribe import topics

        client = Client(found["address"], timeout=CONNECT_SECONDS, set_as_default=False, name="paretoscope")
        self._topics = topics(self.store)
        self.office = client.get_metadata([self._topics["office"]], {})
        self.client, self.error, self._pause = client, None, LOOK_SECONDS
        with self._lock:
            waiting = {request.get("identity") for request in self._outbox if request["op"] == "submit"}
            self._outbox[:0] = [request for identity, (request, _) in self._unanswered.items() if identity not in waiting]
        self._connected.set()
        self._on_connect()

    def _disconnect(self) -> None:
        client, self.client = self.client, None
        self._connected.clear()
        if client is not None:
            with contextlib.suppress(OSError, TimeoutError, RuntimeError):  # it may be connected to a process that is dead
                client.close(timeout=2)

    def _deliver(self) -> None:
        with self._lock:
            requests, self._outbox = self._outbox, []
        if not requests:
            return
        try:
            self.client.log_event(self._topics["requests"], json.dumps(requests))
            self._sent = time.monotonic()
        except Exception:
            with self._lock:
                self._outbox[:0] = requests
            raise

    def _look(self) -> None:
        """Whether the cluster process still lives, what it says of itself, and which requests it has answered."""
        if self.client.status != "running" or FileLock(folder() / LOCK).is_free():
            raise ConnectionError("the cluster process has ended")
        self.office = self.client.get_metadata([self._topics["office"]], {})
        if not self._still_unanswered():
            return
        with self._lock:
            late = time.monotonic() - self._sent > RESEND_SECONDS and not self.office.get("trouble")
            if late and not self._outbox:  # an event that came before the scribe's subscription is lost; asking twice does no harm
                self._outbox = [request for request, _ in self._unanswered.values()]

    def _still_unanswered(self) -> bool:
        """Whether any request is, once those are let go of that the store has answers to."""
        with self._lock:
            unanswered = dict(self._unanswered)
        if not unanswered:
            return False
        rows = self.store.find_all(unanswered)
        answered = [identity for identity, (_, asked) in unanswered.items() if identity in rows and is_answer(rows[identity], asked)]
        with self._lock:
            for identity in answered:
                if self._unanswered.get(identity) == unanswered[identity]:
                    del self._unanswered[identity]
            return bool(self._unanswered)
