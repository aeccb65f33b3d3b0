"""What a person's action does: change the view, and remember whether something is being dragged.

These run as widget callbacks, before the fragment runs that the widget is in. A widget of the live part that changes more than
that asks for the whole explorer; asking costs a run that is thrown away, so nobody asks who need not.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st
from streamlit.errors import StreamlitAPIException

from core.errors import ParetoscopeError
from core.recipe import Recipe
from pages.ui import state
from pages.ui.slider import DRAG, RELEASE

EXPLORER, LIVE, DRAWERS = "explorer", "live", "drawers"  # fragments; the live one is part of the explorer's


def edit(change: Callable[[Recipe], Recipe], phase: str = RELEASE) -> None:
    """Change the recipe; one that cannot be leaves everything as it was. For widgets of the controls, and for what the chart hears of them."""
    session = state.session()
    try:
        recipe = change(state.view().recipe)
    except ParetoscopeError as error:
        session["refused"] = str(error)
        if phase == DRAG:
            again(EXPLORER)
        return
    session["refused"] = ""
    state.change(recipe=recipe)
    session["phase"] = "drag" if phase == DRAG else "rest"
    if phase != DRAG:
        state.drop_messages()


def show(**changes) -> None:
    """Change what the chart shows; the recipe stays. For widgets above the chart."""
    state.change(**changes)
    state.session()["phase"] = "rest"
    again(LIVE)


def go(identity: str) -> None:
    """Start a long training that waits for a word. For a button of the live part."""
    state.session()["go"] = identity
    state.session()["phase"] = "rest"


def pick(id: str, rows: Callable[[str], dict | None]) -> None:
    """Take a point's recipe back, and its model if that is another."""
    try:
        row = rows(id)
    except ParetoscopeError as error:
        state.session()["refused"] = str(error)
        again(EXPLORER)
        return
    if row is None:
        return
    state.session()["phase"] = "rest"
    other = row["model"] != state.view().model
    state.change(recipe=Recipe.from_json(row["recipe"]), model=row["model"])
    again("app" if other else EXPLORER)


def pin(id: str) -> None:
    """Pin a run to compare it, or take its pin away; the oldest of more than four gives way."""
    pins = state.view().pins
    pins = tuple(other for other in pins if other != id) if id in pins else (*pins, id)[-4:]
    state.change(pins=pins)
    again([LIVE, DRAWERS])


def again(what: str | list[str]) -> None:
    """Run fragments anew, or the "app". Where the person has gone to another page meanwhile there is nothing to run: what was changed stays changed."""
    try:
        st.rerun(what)
    except StreamlitAPIException as error:
        if error.error_id != "rerun-unknown-fragment-key":
            raise
