"""The recipe as a row of chips: each opens its step's fields; steps can be added, removed and moved."""

from __future__ import annotations

import contextlib
import functools
from html import escape

import streamlit as st

from core.errors import BadInput
from core.recipe import GRID, MAX_STEPS, PRUNE, REPAIR, STEPS, STRUCTURE, TRAIN, Step, params
from core.studies.points import step_words, unmarked
from pages.ui import acts, edits, fields, floor, state
from pages.ui.link import View

KINDS = {PRUNE: "Set to zero", STRUCTURE: "Take away", GRID: "Fewer bits", REPAIR: "Repair", TRAIN: "Train"}
ONE_COLUMN = 6  # fields that stand below each other without scrolling at 1440×900


def chips(view: View) -> None:
    st.html('<div class="label">Recipe, in order</div>')
    with st.container(key="chips", horizontal=True, gap="xxsmall"):
        for at, step in enumerate(view.recipe.steps):
            opened = st.popover(unmarked(step_words(step)), key=f"chip-{at}", on_change="rerun")
            if opened.open:
                with opened:
                    _step(at, step, view)
        if len(view.recipe.steps) < MAX_STEPS:
            _add(view)
    _warn(view)


def _warn(view: View) -> None:
    """What the recipe does in vain. What it cannot do at all is said under the chart, where its figures would be."""
    with contextlib.suppress(BadInput):
        said = view.work().warnings()
        if said:
            whole = escape(" ".join(said))
            st.html(f'<div class="warnings" role="note" title="{whole}">{whole}</div>')


def _step(at: int, step: Step, view: View) -> None:
    """The fields of one step, and what can be done with it as a whole."""
    count = len(view.recipe.steps)
    st.html(f'<div class="step-title">{step.title}</div><div class="quiet step-help">{_first_sentence(step)}</div>')
    with st.container(key=f"{'wide-' if len(params(type(step))) > ONE_COLUMN else ''}fields-{at}"):
        fields.draw(step, f"step-{at}-{step.name}", functools.partial(_set, at), functools.partial(floor.beside, view, at))
    with st.container(key=f"step-order-{at}", horizontal=True, gap="xsmall"):
        st.button("Earlier", key=f"earlier-{at}", icon=":material/arrow_back:", disabled=at == 0, on_click=_move, args=(at, -1))
        st.button("Later", key=f"later-{at}", icon=":material/arrow_forward:", disabled=at == count - 1, on_click=_move, args=(at, 1))
        st.button("Remove", key=f"remove-{at}", icon=":material/delete:", on_click=lambda: acts.edit(lambda recipe: edits.remove(recipe, at)))


def _move(at: int, by: int) -> None:
    acts.edit(lambda recipe: edits.move(recipe, at, by))


def _set(at: int, name: str, value, phase: str) -> None:
    acts.edit(lambda recipe: edits.set_field(recipe, at, name, value), phase)


def _add(view: View) -> None:
    opened = st.popover("", icon=":material/add:", key="add-step", on_change="rerun", help="Add a step")
    if opened.open:
        with opened:
            for kind, title in KINDS.items():
                st.html(f'<div class="group">{title}</div>')
                with st.container(key=f"add-{kind}", horizontal=True, gap="xxsmall"):
                    for name, step_type in STEPS.items():
                        if step_type.kind == kind:
                            st.button(step_type.title, key=f"add-{name}", help=_first_sentence(step_type), on_click=functools.partial(_added, name))


def _added(name: str) -> None:
    state.set_widget("add-step", False)
    acts.edit(lambda recipe: edits.add(recipe, name))


def _first_sentence(step: Step | type[Step]) -> str:
    """What a step does, from its own docstring."""
    return " ".join((step.__doc__ or "").split()).partition(". ")[0].replace("`", "").rstrip(".") + "."
