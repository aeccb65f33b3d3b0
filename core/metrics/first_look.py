"""The first look at a run's latency, for whoever waits: as soon as the run's shapes are known, long before its accuracy is.

It is interleaved with the baseline like the measurement that follows when the run is evaluated (`core.metrics.latency`), a quarter as long, tried
once, and kept in no book. Its row is marked `brief`; its interval is as wide as so few blocks make it. `core.engine` calls it between two steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.errors import BadInput
from core.metrics.latency import FLOAT32, Memory, measure, of_a_run, signature

if TYPE_CHECKING:
    from core.engine import Hooks
    from core.weights import Compressed

BRIEF = {"blocks": 10, "block_seconds": 0.012, "seconds": 0.6, "warm_up": 0.03, "tries": 1}


@dataclass
class FirstLook:
    """Called with a run's model whose shapes are final: reports its `latencies`, one row of ONNX Runtime in float32, which `rows` keeps.

    The row of `core.metrics.latency.row` as a run has it: the book's where the graph was timed before, else a brief one.
    """

    base: Compressed
    hooks: Hooks
    wanted: bool = True
    rows: list[dict] = field(default_factory=list)

    def __call__(self, subject: Compressed) -> None:
        if not self.wanted:
            return
        mine, theirs = signature(subject, FLOAT32), signature(self.base, FLOAT32)
        try:
            found = (self.hooks.book or Memory()).find(mine, theirs, FLOAT32) or self._measured(subject, mine, theirs)
        except BadInput:  # the run goes on, and the measurement at its end notes why
            return
        self.rows = [of_a_run(found)]
        self.hooks.report({"latencies": self.rows})

    def _measured(self, subject: Compressed, mine: str, theirs: str) -> dict:
        from core.runtimes.timed import RUNTIMES

        ready = RUNTIMES.get(FLOAT32).ready
        with self.hooks.turn():
            candidate, file_bytes = ready(subject, 1, 1)
        with self.hooks.turn():
            baseline = candidate if mine == theirs else ready(self.base, 1, 1)[0]
        with self.hooks.exclusive() as pause:
            measured = measure(candidate, baseline, same=mine == theirs, pause=pause or (lambda: False), **BRIEF)
        return {"runtime": FLOAT32, "threads": 1, "batch": 1, "signature": mine, "file_bytes": file_bytes, "brief": True} | measured
