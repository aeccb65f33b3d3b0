"""What a person's action does: change the view, remember whether something is being dragged, and redraw only what shows it.

These run as widget callbacks, before the page runs again.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from core.errors import ParetoscopeError
from core.recipe import Recipe
from pages.ui import state
from pages.ui.slider import DRAG, RELEASE

CONTROLS, LIVE, DRAWERS = "controls", "live", "drawers"  # the fragments of the explorer


def edit(change: Callable[[Recipe], Recipe], phase: str = RELEASE) -> None:
    """Change the recipe. While dragging only the chart is drawn anew; a recipe that cannot be leaves everything as it was."""
    session = state.session()
    try:
        recipe = change(state.view().recipe)
    except ParetoscopeError as error:
        session["refused"] = str(error)
        st.rerun([LIVE, CONTROLS])
    session["refused"] = ""
    state.change(recipe=recipe)
    rest(phase)


def rest(phase: str = RELEASE) -> None:
    """Redraw after something was let go. While it is dragged the live part runs anyway, since it heard the slider."""
    state.session()["phase"] = "drag" if phase == DRAG else "rest"
    if phase != DRAG:
        state.drop_messages()
        st.rerun([LIVE, CONTROLS])


def show(**changes) -> None:
    """Change what the chart shows; the recipe stays."""
    state.change(**changes)
    state.session()["phase"] = "rest"
    st.rerun(LIVE)


def go(identity: str) -> None:
    """Start a long training that waits for a word."""
    state.session()["go"] = identity
    state.session()["phase"] = "rest"
    st.rerun(LIVE)


def pick(id: str, rows: Callable[[str], dict | None]) -> None:
    """Take a point's recipe back, and its model if that is another."""
    try:
        row = rows(id)
    except ParetoscopeError as error:
        state.session()["refused"] = str(error)
        st.rerun([LIVE, CONTROLS])
    if row is None:
        return
    state.session()["phase"] = "rest"
    other = row["model"] != state.view().model
    state.change(recipe=Recipe.from_json(row["recipe"]), model=row["model"])
    st.rerun("app" if other else [CONTROLS, LIVE])


def pin(id: str) -> None:
    """Pin a run to compare it, or take its pin away; the oldest of more than four gives way."""
    pins = state.view().pins
    pins = tuple(other for other in pins if other != id) if id in pins else (*pins, id)[-4:]
    state.change(pins=pins)
    st.rerun([LIVE, DRAWERS])
