"""Which operators a graph spends its time in, by ONNX Runtime's own profiler.

    operators([session], feed)[0]     # [{"operator": "Conv", "calls": 20, "ms": 1.71, "share": 0.92}, …], the longest first

The profiler slows a graph down a little, so shares are what to read; `core.metrics.latency` measures how long a graph takes. Called by `core.timing.timings`.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

WARM_UPS, RUNS = 5, 25
BLOCK = 15  # runs of a session before it is another one's turn: after each single one, its weights would have left the cache
KERNEL = "_kernel_time"  # how the profiler ends the name of a node's own time


def operators(sessions: Sequence, feed: dict, runs: int = RUNS) -> list[list[dict]]:
    """Runs sessions that were opened with their profilers on, in turns, so that what else the machine does falls on all of them; and reads what each wrote.

    The files are removed. `ms` is the median over the runs of the milliseconds that all nodes of an operator took together, `calls` how many nodes
    there are, `share` its part of the sum.
    """
    left = WARM_UPS + runs
    while left > 0:
        for session in sessions:
            for _ in range(min(BLOCK, left)):
                session.run(None, feed)
        left -= BLOCK
    return [_written(Path(session.end_profiling()), runs) for session in sessions]


def _written(path: Path, runs: int) -> list[dict]:
    try:
        return read(json.loads(path.read_text(encoding="utf-8")), runs)
    finally:
        path.unlink(missing_ok=True)


def read(events: list[dict], runs: int) -> list[dict]:
    """What the last `runs` runs in a profile say of each operator."""
    times: dict[str, list[list[float]]] = {}  # operator → node → its times in microseconds, in the order of the runs
    nodes: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            nodes[event["name"]].append(event["dur"])
            kinds[event["name"]] = event["args"]["op_name"]
    for name, durations in nodes.items():
        times.setdefault(kinds[name], []).append(durations[-runs:])
    found = [
        {"operator": operator, "calls": len(of), "ms": statistics.median(sum(run) for run in zip(*of)) / 1000} for operator, of in times.items()
    ]  # fmt: skip
    total = sum(each["ms"] for each in found) or 1.0
    return sorted((each | {"share": each["ms"] / total} for each in found), key=lambda each: -each["ms"])
