"""Latency of a graph, beside its baseline's: interleaved, with its spread, and with the interval of the ratio.

A latency belongs to a graph signature (operators, shapes, types, runtime, threads, batch), not to the values of weights:
runs that share a graph share its figure on a machine. `latencies` is what the engine calls.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

import numpy as np

from core.errors import BadInput
from core.recipe import digest

if TYPE_CHECKING:
    from core.runtimes.timed import Timed
    from core.weights import Compressed

FLOAT32, INT8, EAGER = "onnxruntime-float32", "onnxruntime-int8", "pytorch-float32"
LITERT, LITERT_INT8 = "litert-float32", "litert-int8"
WARM_UP_SECONDS = 0.1
BLOCKS = 15  # of each side, taking turns
BLOCK_SECONDS = 0.03
RESAMPLES = 2_000
LEAST_BLOCKS = 6  # of a slow model
SECONDS = 4.0  # for one measurement of a slow model
UNEVEN = 1.5  # a side whose slowest block takes so many times its median block was disturbed
OTHERS = 0.5  # and so was a measurement beside which other processes kept more than so many cores busy
TRIES = 3
RECENT_SECONDS = 20.0  # what was disturbed so shortly ago would be disturbed again
ASIDE = ("blocks", "measured_at")  # of a row in the book, and not of a run's metrics
Call = Callable[[], object]


class Book(Protocol):
    """What was measured before; the store's, or `Memory`."""

    def find(self, signature: str, baseline_signature: str, runtime: str, threads: int = 1, batch: int = 1) -> dict | None: ...

    def add(self, signature: str, baseline_signature: str, row: dict) -> None: ...


class Memory:
    """A book that lasts as long as the process."""

    def __init__(self):
        self._rows: dict[tuple, dict] = {}

    def find(self, signature: str, baseline_signature: str, runtime: str, threads: int = 1, batch: int = 1) -> dict | None:
        return self._rows.get((signature, baseline_signature, runtime, threads, batch))

    def add(self, signature: str, baseline_signature: str, row: dict) -> None:
        self._rows[signature, baseline_signature, row["runtime"], row["threads"], row["batch"]] = row


def signature(subject: Compressed, runtime: str, threads: int = 1, batch: int = 1) -> str:
    """16 hexadecimal digits over what decides how long a graph takes; not over values, scattered zeros or codebooks."""
    from core.runtimes.timed import RUNTIMES

    entry = RUNTIMES.get(runtime)
    facts: list = [subject.architecture.to_json(), runtime, version(entry.package), threads, batch]
    if entry.on_grids:
        facts += [sorted(name for name, weight in subject.weights.items() if weight.grid is not None), sorted(subject.activations)]
    return digest(json.dumps(facts, sort_keys=True))


def latencies(
    subject: Compressed, base: Compressed, book: Book | None = None, exclusive=contextlib.nullcontext, turn=contextlib.nullcontext
) -> tuple[list[dict], int | None, list[str]]:
    """The latency rows of a subject beside its baseline; its `deployed_bytes`, the .onnx file that would run; and a note for each runtime that refused it.

    ONNX Runtime in float32 and eager PyTorch always; ONNX Runtime in int8 where the recipe's grids allow it. What the
    book lacks is exported inside `turn()` and measured inside `exclusive()`. A graph that is the baseline's own has its baseline's row, ratio 1.
    """
    from core.runtimes.onnx import int8_possible
    from core.runtimes.timed import RUNTIMES

    book, rows, notes = book or _MEMORY, {}, []
    for kind in [FLOAT32, *([INT8] if int8_possible(subject) is None else []), EAGER]:
        try:
            rows[kind] = of_a_run(row(kind, subject, base, book, exclusive, turn))
        except BadInput as error:
            notes.append(f"Not timed in {RUNTIMES.get(kind).title}: {error}")
    runs_as = rows.get(INT8) or rows.get(FLOAT32)
    return list(rows.values()), runs_as and runs_as["file_bytes"], notes


_MEMORY = Memory()


def of_a_run(row: dict) -> dict:
    """A row of the book as a run's metrics hold it."""
    return {name: value for name, value in row.items() if name not in ASIDE}


def row(
    runtime: str, subject: Compressed, base: Compressed, book: Book, exclusive=contextlib.nullcontext, turn=contextlib.nullcontext, threads: int = 1,
    batch: int = 1, needs_blocks: bool = False, recent: float = RECENT_SECONDS,
) -> dict:  # fmt: skip
    """The row of a subject in one of `core.runtimes.timed`, beside the baseline in the runtime that this is compared with: from the book, or measured.

    What `measure` gives, with `runtime`, `threads`, `batch`, `signature` and `file_bytes`; in a runtime that no run comes with, also `beside`, the two
    signatures under which runs know the graph and its baseline's. With `needs_blocks`, a row that was kept without them, or
    was disturbed longer ago than `recent` seconds, is measured anew. Raises `BadInput` where the runtime cannot run the subject, `NotHere` where it
    is not installed.
    """
    from core.runtimes.timed import RUNTIMES

    entry = RUNTIMES.get(runtime)
    entry.check(subject, batch)
    mine, theirs = signature(subject, runtime, threads, batch), signature(base, entry.reference, threads, batch)
    known, beside = book.find(mine, theirs, runtime, threads, batch), _beside(entry, subject, base)
    if known is None or (needs_blocks and ("blocks" not in known or _worth_another_try(known, recent))):
        for one, where in [(subject, entry), (base, RUNTIMES.get(entry.reference))][: 1 if mine == theirs else 2]:
            if where.prepare is not None:
                where.prepare(one, batch, turn)
        with turn():
            candidate, file_bytes = entry.ready(subject, threads, batch)
        with turn():
            baseline = candidate if mine == theirs else RUNTIMES.get(entry.reference).ready(base, threads, batch)[0]
        with exclusive() as pause:
            measured = measure(candidate, baseline, same=mine == theirs, pause=pause or _no_pause)
        known = {"runtime": runtime, "threads": threads, "batch": batch, "signature": mine, "file_bytes": file_bytes, "measured_at": time.time()} | measured
    elif known.get("beside") == beside.get("beside"):
        return known
    # measured, or known by the graph of another version of the runtime that runs come with
    known = known | beside
    book.add(mine, theirs, known)
    return known


def _beside(entry: Timed, subject: Compressed, base: Compressed) -> dict:
    """Of a runtime that no run comes with: under which signatures runs know the graph and its baseline's."""
    if entry.beside is None:
        return {}
    from core.runtimes.timed import RUNTIMES

    return {"beside": [signature(subject, entry.beside), signature(base, RUNTIMES.get(entry.beside).reference)]}


def _worth_another_try(row: dict, recent: float) -> bool:
    return bool(row.get("disturbed")) and time.time() - row.get("measured_at", 0.0) > recent


def _others() -> Callable[[], float]:
    """Watch the machine from now on: the function returned tells how many cores other processes kept busy on average."""
    import psutil

    process = psutil.Process()

    def used() -> tuple[float, float]:
        machine, own = psutil.cpu_times(), process.cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        return sum(machine) - getattr(machine, "guest", 0.0) - getattr(machine, "guest_nice", 0.0) - idle, own.user + own.system

    started, (busy, own) = time.monotonic(), used()

    def cores() -> float:
        busy_now, own_now = used()
        return max(0.0, (busy_now - busy) - (own_now - own)) / max(0.05, time.monotonic() - started)

    return cores


def _no_pause() -> bool:
    return False


def measure(
    candidate: Call, baseline: Call, *, same: bool = False, blocks: int = BLOCKS, block_seconds: float = BLOCK_SECONDS, seconds: float = SECONDS,
    warm_up: float | None = None, tries: int | None = None, clock=time.perf_counter, others: Callable[[], Callable[[], float]] = _others,
    pause: Callable[[], bool] = _no_pause,
) -> dict:  # fmt: skip
    """Time two calls in blocks that take turns (A B A B): `ms_p10`, `ms_p50`, `ms_p90` of the candidate, `ratio`, `ratio_low`, `ratio_high`.

    `blocks` holds the median of each block in ms, the candidate's and the baseline's, pair by pair; with `same`, the one side's twice.

    The ratio is the median of paired block-median ratios, candidate over baseline, with its 95 % bootstrap interval.
    Slow calls get fewer blocks, so that one measurement takes about `seconds` at most. What something else disturbed is
    measured again, `tries` times in all; the calmest is kept, and the row says `disturbed` if even that was not calm. With
    `same`, the candidate is the baseline's own graph: one side is timed, the ratio is 1. `others()` starts watching the
    machine and returns a function that tells how many cores other processes kept busy meanwhile. `pause()` is called
    between blocks, lets a waiting preview in, and says whether it did; the calls are warmed up again after it.
    """
    calls = [candidate] if same else [candidate, baseline]
    warm_up = WARM_UP_SECONDS if warm_up is None else warm_up
    counts, durations = zip(*(_calls_a_block(call, block_seconds, clock, warm_up) for call in calls))
    blocks = max(LEAST_BLOCKS, min(blocks, int(seconds / max(1e-9, sum(durations)))))
    calmest, started = None, clock()
    for attempt in range(TRIES if tries is None else tries):
        if attempt and clock() - started > 2 * seconds:  # so crowded that trying again would take minutes
            break
        busy, times, begun = others(), [], clock()
        while len(times) < blocks and (len(times) < LEAST_BLOCKS or clock() - begun < seconds):
            if pause():
                for call in calls:
                    _calls_a_block(call, block_seconds, clock, warm_up)
                busy = others()
            times.append([_block(call, count, clock) for call, count in zip(calls, counts)])
        medians = np.array([[np.median(block) for block in pair] for pair in times])  # (blocks, sides)
        unrest = max(float((medians.max(0) / np.median(medians, 0)).max()) / UNEVEN, busy() / OTHERS)  # above 1 is too much
        if calmest is None or unrest < calmest[0]:
            calmest = (unrest, times, medians)
        if unrest <= 1:
            break
    unrest, times, medians = calmest
    mine = np.concatenate([pair[0] for pair in times]) * 1000
    p10, p50, p90 = np.percentile(mine, [10, 50, 90])
    ratio, low, high = (1.0, 1.0, 1.0) if same else bootstrap(medians[:, 0] / medians[:, 1])
    blocks = [[float(f"{1000 * side:.4g}") for side in (pair[0], pair[-1])] for pair in medians]
    row = {"ms_p10": float(p10), "ms_p50": float(p50), "ms_p90": float(p90), "ratio": ratio, "ratio_low": low, "ratio_high": high, "blocks": blocks}
    return row | ({"disturbed": True} if unrest > 1 else {})


def bootstrap(ratios: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Median of ratios (n,) with the 95 % percentile interval of its bootstrap distribution (Efron 1979)."""
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(ratios, (RESAMPLES, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def verdict(row: dict) -> str:
    """ "faster", "slower" or "not distinguishable" than the baseline."""
    if row["ratio_high"] < 1:
        return "faster"
    return "slower" if row["ratio_low"] > 1 else "not distinguishable"


def _calls_a_block(call: Call, seconds: float, clock, warm_up: float) -> tuple[int, float]:
    """Warm up, and find how many calls fill a block of `seconds`, at least one, and how long that block takes."""
    started, calls = clock(), 0
    while calls < 2 or clock() - started < warm_up:
        call()
        calls += 1
    each = max(1e-9, (clock() - started) / calls)
    count = max(1, round(seconds / each))
    return count, count * each


def _block(call: Call, count: int, clock) -> np.ndarray:
    times = np.empty(count)
    for number in range(count):
        started = clock()
        call()
        times[number] = clock() - started
    return times
