"""Where a run of the command line is computed: nowhere when it is known, by the cluster where one runs, else here.

A command that would start a cluster of its own for one run leaves processes behind; so it computes by itself, in turns
with everything else on the machine, and keeps what it measured in the same store. Imports no torch until it computes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from core import device
from core.commands import terminal
from core.errors import Cancelled, ClusterError, StoreError
from core.home import folder
from core.jobs.connection import LOCK, running_office
from core.jobs.locks import FileLock
from core.machine import machine
from core.store import CANCELLED, COMPLETE, RESULT_FIELDS, Store
from core.work import THREADS, Work

if TYPE_CHECKING:
    from core.cluster import Cluster


def measured(work: Work, artifact: Path | None, progress) -> dict:
    """The result of a run as `engine.Result.to_json()` has it; the packed model is written to `artifact` when that is given."""
    with device.using(device.chosen()):  # from its identity to its figures
        return _measured(work, artifact, progress)


def _measured(work: Work, artifact: Path | None, progress) -> dict:
    store = Store()
    try:
        result = known(store, work)
        if result is None and running_office() is not None:
            result = _by_the_cluster(store, work, progress)
        if result is None:
            return _here(store, work, artifact, progress)
    finally:
        store.close()
    if artifact is not None:
        _pack(work, artifact, progress)
    return result


def known(store: Store, work: Work) -> dict | None:
    """A run that was measured on this machine, with its latency where that is wanted."""
    row = store.find(work.identity())
    if row is None or row["state"] != COMPLETE or row["origin"] != "here" or (row["machine"] or {}).get("id") != machine()["id"]:
        return None
    if work.latency and not (row["metrics"]["latencies"] and row["baseline"]["latencies"]):
        return None
    return {name: row[name] for name in (*RESULT_FIELDS, "identity")}


def _by_the_cluster(store: Store, work: Work, progress) -> dict | None:
    """Ask the cluster, and follow; None when it knows the run from another machine, or without its latency."""
    from core.cluster import connect, error_of

    if (store.find(work.identity()) or {}).get("state") == COMPLETE:
        return None
    cluster = connect(start=False, store=store)
    try:
        identity = cluster.submit(work)["identity"]
        try:
            for row in cluster.follow(identity):
                points = {"curve": row["curve"][-1]} if row.get("curve") else {}
                points |= {"notes": (row.get("preview") or {}).get("notes", ())}
                progress({"fraction": row["fraction"], "stage": row["stage"] or "waiting", "seconds_left": row["seconds_left"]} | points)
        except KeyboardInterrupt:
            cluster.cancel(identity)
            for _row in cluster.follow(identity):
                pass  # until it says so
            raise
    finally:
        cluster.close()
    if row["state"] == CANCELLED:
        raise Cancelled("The run was cancelled.")
    if row["state"] != COMPLETE:
        raise error_of(row["stage"], row["message"] or "The run failed.")
    return known(store, work)


def _here(store: Store, work: Work, artifact: Path | None, progress) -> dict:
    """`engine.run` in this process, taking turns with every other process on the machine."""
    from core.commands.threads import use_threads
    from core.jobs.turns import Turns
    from core.timing.book import LatencyBook

    use_threads(THREADS)
    from core import engine

    turns, latencies = Turns(), []
    book = LatencyBook(store, lambda event: latencies.append(event["latency"]), machine()["id"])
    result = engine.run(work, turn=turns.compute, exclusive=turns.exclusive, report=progress, artifact=artifact, book=book)
    _keep(store, result, latencies)
    return result.to_json()


def _keep(store: Store, result, latencies: list[dict]) -> None:
    def here() -> None:
        store.complete(result.identity, result.to_json(), result.predicted, origin="here")
        store.add_latencies(latencies)

    _written("run", store, here, lambda cluster: cluster.keep(result.to_json(), result.predicted, latencies))


def keep_latencies(store: Store, latencies: list[dict]) -> None:
    """Keep what a command timed: rows of `Store.add_latencies`."""
    _written("latency", store, lambda: store.add_latencies(latencies), lambda cluster: cluster.keep_latencies(latencies))


def _written(what: str, store: Store, here: Callable[[], None], there: Callable[[Cluster], None]) -> None:
    """Write to the store, or have it written by the cluster process where one lives: it is the only writer then."""
    from core.cluster import connect

    lock = FileLock(folder() / LOCK)
    try:
        if lock.take():
            here()
        else:
            cluster = connect(start=False, store=store)
            there(cluster)
            cluster.close()
    except (StoreError, ClusterError) as error:
        terminal.say(f"The {what} is measured but not kept: {error}")
    finally:
        lock.give()


def _pack(work: Work, path: Path, progress) -> None:
    """Write the packed model of a run that is known: the same steps give the same bytes."""
    from core.commands.threads import use_threads
    from core.jobs.turns import Turns

    use_threads(THREADS)
    from core import engine

    engine.pack(work, path, turn=Turns().compute, report=progress)
