"""Sweep a slider: submit a run for each of its positions, and watch the points arrive."""

from __future__ import annotations

import streamlit as st

from core.errors import ParetoscopeError
from core.recipe import Recipe
from core.work import Work
from pages.ui import edits, follow, refusals, services, state, words
from pages.ui.link import View

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
CHANNELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
BITS = (2, 3, 4, 5, 6, 7, 8)
TEMPERATURES = (1, 2, 4, 8, 16)


def variations(recipe: Recipe, what: str) -> list[Recipe]:
    """The recipe with one slider at each of its sweep positions."""
    if what == "Sparsity":
        at = edits.find(recipe, edits.WEIGHTS, edits.CHANNELS)
        name = recipe.steps[at].name if at is not None else state.session().get("pruning", edits.WEIGHTS)
        return [edits.set_sparsity(recipe, value, name) for value in (SPARSITIES if name == edits.WEIGHTS else CHANNELS)]
    if what == "Bits":
        return [edits.set_bits(recipe, bits) for bits in BITS]
    return [edits.set_temperature(recipe, value) for value in TEMPERATURES]


def sweep(view: View) -> None:
    opened = st.popover("Sweep a slider", key="sweep", icon=":material/stacked_line_chart:", width="stretch", on_change="rerun")
    if not opened.open:
        return
    with opened:
        choices = ["Sparsity", "Bits", *(["Temperature"] if edits.find(view.recipe, "distill") is not None else [])]
        what = st.radio("Measure the recipe at every position of", choices, key="sweep-what", horizontal=True)
        known = services.shelf().known(view.model, view.dataset)
        have = {row["key"] for row in known.rows}
        try:
            wanted = [recipe for recipe in variations(view.recipe, what) if recipe.key() not in have]
        except ParetoscopeError as error:
            st.error(str(error))
            return
        if not wanted:
            st.caption("Every position of this slider is measured already.")
            return
        seconds = sum(follow.estimate_recipe(recipe, known) + 4 for recipe in wanted)
        st.caption(f"The rest of the recipe stays as it is. {len(wanted)} runs that were not measured yet, {words.duration(seconds)} on this machine.")
        st.button(f"Start {len(wanted)} runs", key="sweep-start", type="primary", on_click=_start, args=(view, wanted))


def _start(view: View, wanted: list[Recipe]) -> None:
    state.set_widget("sweep", False)
    with refusals.kept():
        services.cluster().submit_all(Work(view.model, view.dataset, recipe) for recipe in wanted)
    state.session()["phase"] = "rest"
