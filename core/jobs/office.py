"""The cluster process: a Dask scheduler, workers and the scribe, in a process of its own that outlives a page server.

Started by `python -m core cluster`, and by whoever needs it (`core.jobs.connection`); one a home, kept so by a file lock. Its
address stands in `cluster.json` in the home folder, its log in `cluster.log`. Workers: one a core for runs and trainings,
one for sliders' runs, which must not wait behind a training, and one for previews; `core.jobs.turns` decides which of them
computes. With PARETOSCOPE_SCHEDULER=tcp://… the workers are somebody else's and only the scribe is here.
Listens on 127.0.0.1 alone. Imports no torch itself.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from core import device
from core.errors import ParetoscopeError
from core.home import folder, write_whole
from core.jobs.locks import FileLock
from core.jobs.turns import core_count

IDLE_MINUTES = 20.0
HOST = "127.0.0.1"
CHECK_SECONDS = 90
LOCK, ADDRESS = "office.lock", "cluster.json"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# Dask's own settings. A task may lose two workers. No worker puts results on disk, and the processes look at themselves
# seldom: at 50 times a second each, as is usual, they would take a tenth of a core away from what is being measured.
# Workers keep the memory of one tensor for the next: given back at once, as Dask would have it, every tensor is fresh pages
# to touch, which takes as long as the arithmetic (55,000 of them in a preview of resnet18).
DASK = {
    "distributed.scheduler.allowed-failures": 2,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.work-stealing-interval": "500ms",
    "distributed.worker.memory.monitor-interval": "1s",
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.limit": "60s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.system-monitor.disk": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    "distributed.comm.timeouts.connect": "60s",
    "logging": {"distributed": "warning"},
}
logger = logging.getLogger("paretoscope")


@dataclass(frozen=True)
class Options:
    idle_minutes: float = IDLE_MINUTES
    dashboard: bool = False


def main(arguments: list[str] | None = None) -> int:
    """`python -m core.jobs.office`: serve until idle, or until told to stop. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m core.jobs.office", description="Serves Paretoscope's runs on this machine.")
    parser.add_argument("--idle-timeout", type=float, default=IDLE_MINUTES, metavar="MINUTES", help="stop after so long without runs and without clients")
    parser.add_argument("--dashboard", action="store_true", help="open Dask's own dashboard as well (its address is in cluster.json)")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    if os.name != "nt":
        faulthandler.register(signal.SIGUSR1, all_threads=True)  # where every thread stands, into the log
    try:
        return serve(Options(given.idle_timeout, given.dashboard))
    except ParetoscopeError as error:
        logger.error("%s", error)
        return error.exit_status
    except Exception:
        logger.exception("the cluster process ended")
        return 1


def serve(options: Options) -> int:
    """Be the cluster of this home, unless another process is already."""
    lock = FileLock(folder() / LOCK)
    if not _within(2.0, lock.take):  # somebody who only looks holds it for a moment
        logger.info("another process serves %s already", folder())
        return 0
    address_file = folder() / ADDRESS
    address_file.unlink(missing_ok=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _check_device()
    os.environ["PARETOSCOPE_DEVICE"] = device.chosen()  # the workers', for as long as they live
    with contextlib.ExitStack() as closing:
        scribe, clients = _open(options, closing)
        facts = {"address": scribe.client.scheduler.address, "dashboard": scribe.client.dashboard_link if options.dashboard else None}
        write_whole(address_file, json.dumps(facts | {"pid": os.getpid(), "started": time.time()}).encode())
        closing.callback(address_file.unlink, missing_ok=True)
        logger.info("serving %s at %s", folder(), facts["address"])
        last_used = time.monotonic()
        while not stop.is_set():
            scribe.step()
            if not scribe.is_idle or clients():
                last_used = time.monotonic()
            elif time.monotonic() - last_used > options.idle_minutes * 60:
                logger.info("idle for %g minutes", options.idle_minutes)
                break
            if scribe.client.status not in ("running", "connecting"):
                raise ParetoscopeError(f"The scheduler at {facts['address']} has gone.")
        logger.info("stopping")
    lock.give()
    return 0


def _check_device() -> None:
    """Let a device that was found and not checked yet be checked, by a process of its own, before the first run is identified."""
    name = device.unchecked()
    if name is None:
        return
    try:
        told = subprocess.run([sys.executable, "-m", "core", "device"], capture_output=True, text=True, timeout=CHECK_SECONDS, check=False)
        reason = (told.stderr or "its process ended").strip().splitlines()[-1]
    except subprocess.TimeoutExpired:
        reason = f"the check took longer than {CHECK_SECONDS} seconds"
    if device.checked() is None:
        sentence = f"{device.WORDS[name]} cannot be used ({reason.rstrip('.')}), so the processor serves accuracy and training."
        device.keep({"device": device.CPU, "checked": name, "sentence": sentence})
    logger.info("%s", device.checked()["sentence"])


def _open(options: Options, closing: contextlib.ExitStack):
    """The scribe, listening, and a function that counts the clients besides it."""
    for variable in THREAD_VARIABLES:
        os.environ[variable] = "1"  # inherited by the workers, and read when torch is imported there
    # threads of a preview that wait for each other sleep; spinning, they take the cores from whom they wait for
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import dask

    from core.lessons import students
    from core.store import Store
    from core.studies import gallery

    method = "forkserver" if sys.platform == "linux" else "spawn"
    dask.config.set(DASK | {"distributed.worker.multiprocessing-method": method, "temporary-directory": str(folder("workers"))})
    from distributed import Client

    from core.jobs.scribe import Scribe

    store = Store()
    closing.callback(store.close)
    logger.info("%d shipped runs are new", store.import_gallery([*gallery.runs(), *students.runs()]))
    foreign = os.environ.get("PARETOSCOPE_SCHEDULER")
    cluster = None if foreign else closing.enter_context(_local_cluster(options))
    client = closing.enter_context(Client(foreign or cluster.scheduler_address, set_as_default=False, name="paretoscope-office", timeout=30))
    offers = _foreign_offers(client) if foreign else lambda: {"compute": core_count(), "quick": 1, "preview": 1}
    alive = (lambda: sum(offers().values())) if foreign else lambda: len(cluster.scheduler.workers)
    scribe = Scribe(store, client, f"{socket.gethostname()}:{folder().resolve()}", offers, alive)
    scribe.listen()

    def clients() -> int:
        if cluster is None:
            return 0
        return sum(name not in (client.id, "fire-and-forget") for name in list(cluster.scheduler.clients))

    return scribe, clients


@contextlib.contextmanager
def _local_cluster(options: Options) -> Iterator:
    """A scheduler in this process, and each worker in a process that a nanny replaces when it dies."""
    from distributed import Nanny, Scheduler, SpecCluster
    from distributed.system import MEMORY_LIMIT

    _preload_for_workers()
    common = {
        "nthreads": 1, "host": HOST, "dashboard": False, "dashboard_address": f"{HOST}:0", "preload": ["core.jobs.tasks"],
        "memory_limit": int(0.8 * MEMORY_LIMIT), "silence_logs": logging.WARNING,
    }  # fmt: skip
    offers = {f"compute-{number}": "compute" for number in range(core_count())} | {"quick": "quick", "preview": "preview"}
    workers = {name: {"cls": Nanny, "options": common | {"resources": {offer: 1}}} for name, offer in offers.items()}
    scheduler = {
        "cls": Scheduler,
        "options": {"host": HOST, "port": 0, "dashboard": options.dashboard, "dashboard_address": f"{HOST}:0"},
    }
    with SpecCluster(workers={}, scheduler=scheduler, silence_logs=logging.WARNING, name="paretoscope") as cluster:
        cluster.worker_spec.update(workers)
        cluster.scale(len(workers))  # in the background: requests can be taken before the workers have imported what they need
        yield cluster


def _preload_for_workers() -> None:
    """Where workers are forked from a server process, let that process import what takes seconds, once for all of them."""
    if sys.platform != "linux":
        return
    import multiprocessing

    from core.jobs import tasks

    engine = os.environ.get("PARETOSCOPE_ENGINE") or "core.engine"
    heavy = ["torch", "torchvision", "core.training", "core.methods"] if engine == "core.engine" else []
    from distributed.utils import get_mp_context

    get_mp_context()  # sets a list of its own when it is first asked
    multiprocessing.get_context("forkserver").set_forkserver_preload(["distributed", tasks.__name__, engine, *heavy])


def _foreign_offers(client) -> Callable[[], dict[str, int]]:
    """How many of somebody else's workers offer each resource, asked every two seconds; "" counts those that offer none of ours."""
    known: dict = {"at": 0.0, "room": {}}

    def offers() -> dict[str, int]:
        if time.monotonic() - known["at"] > 2:
            room: Counter[str] = Counter()
            for worker in client.scheduler_info()["workers"].values():
                ours = [offer for offer in ("compute", "quick", "preview") if worker["resources"].get(offer)]
                for offer in ours or [""]:
                    room[offer] += 1 if ours else worker["nthreads"]
            known.update(at=time.monotonic(), room=dict(room))
        return known["room"]

    return offers


def _within(seconds: float, act: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not act():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


if __name__ == "__main__":
    sys.exit(main())
