"""Follows what the pages ask about a recipe (`core.asked`) or a step: answers from what is kept, from the job under way, or by starting one.

What is quick starts by itself, as in the explorer; anything else waits for a word. Called by the pages Layers, Size, Latency and Devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from core.asked import Asked
from core.errors import ParetoscopeError
from core.layers.sensitivity import Sensitivity
from core.store import CANCELLED, COMPLETE, FAILED, OPEN, RUNNING, SUPERSEDED
from pages.ui import follow, refusals, services, state, words
from pages.ui.link import View


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

    @property
    def fraction(self) -> float | None:
        """How far what is under way has come."""
        return self.row["fraction"] if self.row is not None else None

    def doing(self, said: str) -> str:
        """What the status line says: `said` while a worker is at it, "" when nothing is under way."""
        if not self.running:
            return ""
        return said if self.row["state"] == RUNNING else "waiting"


def look(asked: Sensitivity | Asked, quick: bool) -> Look:
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


def recipe(view: View, kind: type[Asked]) -> Look:
    """`look` at the recipe at hand, which starts by itself where it trains only shortly; a recipe that cannot be is a problem in words."""
    try:
        return look(kind(view.work()), seconds(view) <= follow.SHORT_TRAINING)
    except ParetoscopeError as error:
        return Look(problem=str(error))


def seconds(view: View) -> float:
    """What the recipe at hand trains before it can be looked at, at a careful guess."""
    return follow.estimate_recipe(view.recipe, services.shelf().known(view.model, view.dataset))


def start(asked: Sensitivity | Asked) -> dict:
    """Have it measured; what this session had measured of the same kind before is dropped if it is not done."""
    session = state.session()
    session.setdefault("examined", set()).add(asked.identity())
    return services.cluster().examine(asked, lane=f"{session['lane']}-{asked.kind}")


def started(asked: Sensitivity | Asked) -> None:
    """`start` for a button; a refusal becomes a sentence on the page."""
    with refusals.kept():
        start(asked)


def forget(asked: Sensitivity | Asked) -> None:
    """Drop what was measured, so that the next look has it measured again."""
    services.forget(asked.identity())
    state.session().get("examined", set()).discard(asked.identity())


def stop(row: dict) -> None:
    services.cluster().cancel(row["identity"])


def under_way(look: Look, name: str, doing: str) -> None:
    """How far it is, and a way to stop it."""
    st.progress(min(1.0, look.fraction), text=doing)
    st.button("Cancel", key=f"cancel-{name}", icon=":material/stop_circle:", on_click=stop, args=(look.row,))


def ask(view: View, kind: type[Asked], name: str, why: str) -> None:
    """The button for a recipe at hand that waits for a word; `why` it does."""
    takes = seconds(view)
    label = f"Train, {words.duration(takes)}" if takes > follow.SHORT_TRAINING else "Look again"
    st.button(label, key=f"measure-{name}", type="primary", on_click=started, args=(kind(view.work()),), help=why)
