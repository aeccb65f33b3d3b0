"""What the Latency page measures at, and its form in the address bar. Knows nothing of Streamlit. What is as usual is left out of the address."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.jobs.turns import core_count
from core.runtimes.timed import RUNTIMES, USUAL
from core.timing.timings import BATCHES


@dataclass(frozen=True)
class TimedAt:
    """Pictures in one pass; threads: 1, or 0 for as many as the machine has cores, so that a link means the same elsewhere; whether LiteRT is measured too."""

    batch: int = 1
    threads: int = 1
    litert: bool = False

    @property
    def thread_count(self) -> int:
        return self.threads or core_count()

    @property
    def runtimes(self) -> tuple[str, ...]:
        return tuple(RUNTIMES) if self.litert else USUAL

    def replace(self, **changes) -> TimedAt:
        return dataclasses.replace(self, **changes)


def everywhere(litert: bool = False) -> list[TimedAt]:
    """Every batch size with one thread, then with all."""
    return [TimedAt(batch, threads, litert) for threads in ((1, 0) if core_count() > 1 else (1,)) for batch in BATCHES]


def encode(at: TimedAt) -> dict[str, list[str]]:
    said = {}
    if at.batch != TimedAt.batch:
        said["batch"] = [str(at.batch)]
    if at.threads != TimedAt.threads:
        said["threads"] = ["all"]
    if at.litert:
        said["litert"] = ["yes"]
    return said


def decode(query: Mapping[str, Sequence[str]], said: list[str]) -> TimedAt:
    """What a link asks for, and in `said` a sentence for what had to be replaced."""
    found = TimedAt()
    for name, choices in (("batch", {str(batch): batch for batch in BATCHES}), ("threads", {"1": 1, "all": 0}), ("litert", {"no": False, "yes": True})):
        if query.get(name):
            given = query[name][-1][:40]
            if given in choices:
                found = found.replace(**{name: choices[given]})
            else:
                said.append(f"Latency cannot be shown for {name} {given!r}; it takes one of {', '.join(choices)}.")
    return found
