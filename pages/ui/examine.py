"""Follows what the Layers page has measured: answers from what is kept, from the job under way, or by starting one.

What is quick starts by itself, as in the explorer; anything else waits for a word.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import ParetoscopeError
from core.layers import Layers
from core.sensitivity import Sensitivity
from core.store import CANCELLED, COMPLETE, FAILED, OPEN, SUPERSEDED
from pages.ui import services, state


@dataclass(frozen=True)
class Look:
    """`result` is what is known: all of it, or what is measured so far while `running`. `asks` says that it waits for a word."""

    result: dict | None = None
    row: dict | None = None
    problem: str = ""
    asks: bool = False

    @property
    def running(self) -> bool:
        return self.row is not None and self.row["state"] in OPEN


def look(asked: Sensitivity | Layers, quick: bool) -> Look:
    """What can be shown now; a `quick` job is started when nobody has."""
    identity = asked.identity()
    result = services.examined(identity)
    if result is not None:
        return Look(result)
    row, mine = services.cluster().find(identity), state.session().setdefault("examined", set())
    if row is not None and row["state"] == COMPLETE and identity in mine:  # it came in just now, or its file is gone
        result = services.examined(identity)
        return Look(result) if result is not None else Look(problem="What was measured is not kept any more.", asks=True)
    if row is not None and row["state"] in OPEN:
        return Look((row.get("preview") or {}).get("metrics"), row)
    if row is not None and row["state"] in (CANCELLED, FAILED) and row["stage"] != SUPERSEDED:
        return Look(problem=row["message"] or "It failed.", asks=True)
    if not quick:
        return Look(asks=True)
    return Look(row=start(asked))


def start(asked: Sensitivity | Layers) -> dict:
    """Have it measured; what this session had measured of the same kind before is dropped if it is not done."""
    session = state.session()
    session.setdefault("examined", set()).add(asked.identity())
    return services.cluster().examine(asked, lane=f"{session['lane']}-{asked.kind}")


def started(asked: Sensitivity | Layers) -> None:
    """`start` for a button; a refusal becomes a sentence on the page."""
    try:
        start(asked)
    except ParetoscopeError as error:
        state.session()["refused"] = str(error)


def stop(row: dict) -> None:
    services.cluster().cancel(row["identity"])
