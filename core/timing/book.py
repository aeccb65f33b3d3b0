"""The book of measured latencies: a graph's speed is measured once a machine. Read by the engine, written by the store's one writer."""

from __future__ import annotations

import time
from collections.abc import Callable

from core.store import Store

_MEASURED: dict[tuple, dict] = {}  # by this process, or read from the store before


class LatencyBook:
    """The measured latencies, as the engine looks them up and adds to them. `send` gets what was added, for whoever writes the store.

    `machine_id` is `core.machine.machine()["id"]`: milliseconds belong to the machine that took them.
    """

    def __init__(self, store: Store, send: Callable[[dict], None], machine_id: str):
        self._store, self._send, self._machine_id = store, send, machine_id

    def find(self, signature: str, baseline_signature: str, runtime: str, threads: int = 1, batch: int = 1) -> dict | None:
        """The row of a graph beside its baseline's, or None when it must be measured."""
        key = (signature, baseline_signature, self._machine_id, runtime, threads, batch)
        if key not in _MEASURED:
            row = self._store.latency(*key)
            if row is None:
                return None
            _MEASURED[key] = row
        return _MEASURED[key]

    def add(self, signature: str, baseline_signature: str, row: dict) -> None:
        """Keep a measured row, which names its `runtime`, `threads` and `batch`."""
        key = (signature, baseline_signature, self._machine_id, row["runtime"], row["threads"], row["batch"])
        _MEASURED[key] = row
        names = ("signature", "baseline_signature", "machine_id", "runtime", "threads", "batch")
        self._send({"latency": dict(zip(names, key)) | {"row": row, "measured_at": time.time()}})
