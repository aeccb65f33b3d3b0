"""The left column: preset, the three main sliders with their switches, the recipe as chips, and the sweep."""

from __future__ import annotations

import functools

import streamlit as st

from core import zoo
from core.lessons import answers
from core.recipe import Recipe
from core.studies import gallery
from core.studies.points import value_words
from pages.ui import acts, chips, edits, floor, follow, services, state, sweep, words
from pages.ui.link import View
from pages.ui.slider import RELEASE, slider

KINDS = {edits.WEIGHTS: "weights", edits.CHANNELS: "channels"}
BITS = (2, 3, 4, 5, 6, 7, 8, 16, edits.BITS_OFF)


def controls() -> None:
    view = state.view()
    with st.container(key="controls", gap=None):
        _presets(view)
        _sparsity(view)
        _bits(view)
        _temperature(view)
        _repair(view)
        chips.chips(view)
        sweep.sweep(view)
        refused = state.session().get("refused")
        if refused:
            st.error(refused)


def _presets(view: View) -> None:
    presets = gallery.shipped_presets()
    found = next((number for number, preset in enumerate(presets) if Recipe.from_json(preset["recipe"]).key() == view.recipe.key()), None)
    key = state.mirror("preset", found)
    st.selectbox(
        "Start from", range(len(presets)), index=None, key=key, format_func=lambda number: presets[number]["title"], placeholder="your own recipe",
        help="Recipes that were measured on this project's models:  \n" + "  \n".join(f"**{preset['title']}**: {preset['help']}" for preset in presets),
        on_change=state.told(key, lambda number: _start_from(presets, number)),
    )  # fmt: skip


def _start_from(presets: list[dict], number: int | None) -> None:
    if number is not None:
        acts.edit(lambda _: Recipe.from_json(presets[number]["recipe"]))


def _pruning(recipe: Recipe) -> str:
    """The kind of pruning in the recipe, or the one that was chosen last."""
    at = edits.find(recipe, *KINDS)
    return recipe.steps[at].name if at is not None else state.session().get("pruning", edits.WEIGHTS)


def _sparsity(view: View) -> None:
    name = _pruning(view.recipe)
    spec = edits.field(name, "sparsity")
    slider(
        "Sparsity", edits.sparsity(view.recipe), key="sparsity", low=spec.low, high=spec.high, step=spec.step, percent=True, help=spec.help,
        on_move=lambda value, phase: acts.edit(functools.partial(edits.set_sparsity, value=value, name=_pruning(state.view().recipe)), phase),
    )  # fmt: skip
    key = state.mirror("pruning", name)
    with _beside("sparsity"):
        st.radio(
            "What is pruned", list(KINDS), key=key, format_func=KINDS.get, horizontal=True, label_visibility="collapsed",
            on_change=state.told(key, _change_pruning),
        )  # fmt: skip
        floor.button(view, floor.SPARSITY, name)


def _beside(slider: str, alignment: str = "distribute"):
    """The row below a slider: its switch, and its floor at the right."""
    return st.container(key=f"beside-{slider}", horizontal=True, horizontal_alignment=alignment, vertical_alignment="center", wrap=False)


def _change_pruning(name: str) -> None:
    state.session()["pruning"] = name
    acts.edit(lambda recipe: edits.set_sparsity(recipe, edits.sparsity(recipe), name))


def _bits(view: View) -> None:
    spec = edits.field("quantize", "weight_bits")
    slider(
        "Bits", edits.bits(view.recipe), key="bits", stops=BITS, texts=[*(value_words(spec, bits) for bits in BITS[:-1]), "off (32)"],
        help=f"{spec.help} A weight takes 32 bits to begin with.", on_move=lambda value, phase: acts.edit(lambda recipe: edits.set_bits(recipe, value), phase),
    )  # fmt: skip
    key = state.mirror("int8", edits.int8(view.recipe))
    with _beside("bits"):
        st.checkbox(
            "int8 activations", key=key, help=edits.field("quantize", "activation_bits").help,
            on_change=state.told(key, lambda on: acts.edit(lambda recipe: edits.set_int8(recipe, on))),
        )  # fmt: skip
        floor.button(view, floor.BITS, _pruning(view.recipe))


def temperature(recipe: Recipe) -> float:
    """Of the recipe's distillation, or the one that the slider was left at."""
    at = edits.find(recipe, "distill")
    return recipe.steps[at].temperature if at is not None else state.session().get("temperature", edits.field("distill", "temperature").default)


def _temperature(view: View) -> None:
    spec = edits.field("distill", "temperature")
    distills = edits.find(view.recipe, "distill") is not None
    slider(
        "Temperature", temperature(view.recipe), key="temperature", low=spec.low, high=spec.high, step=spec.step, on_move=_move_temperature,
        help=spec.help, answers=answers.find(zoo.checkpoint(view.model, view.dataset)),
    )  # fmt: skip
    if distills:
        with _beside("temperature", "right"):
            floor.button(view, floor.TEMPERATURE)
    else:
        wanted = edits.add(view.recipe, "distill", temperature=temperature(view.recipe))
        known = services.shelf().known(view.model, view.dataset)
        seconds = follow.estimate_recipe(wanted, known)
        st.button(
            f"Distill, {words.duration(seconds)}", key="distill", width="stretch", icon=":material/school:", on_click=_distill,
            help="Train what the recipe makes to answer like the uncompressed model, softened by this temperature.",
        )  # fmt: skip


def _move_temperature(value: float, phase: str) -> None:
    """Moves the distillation that is there; without one, lights up the measured runs that were distilled nearest to it."""
    state.session()["temperature"] = value
    state.session()["lit_temperature"] = value if phase != RELEASE else None
    acts.edit(lambda recipe: edits.set_temperature(recipe, value), phase)


def _distill() -> None:
    at = temperature(state.view().recipe)
    acts.edit(lambda recipe: edits.add(recipe, "distill", temperature=at))


def _repair(view: View) -> None:
    if not zoo.models()[view.model].get("batch_norm", True):
        if not edits.repaired(view.recipe):  # else its warning says so below the chips
            st.caption(f"{view.model} has no batch norm to repair.")
        return
    key = state.mirror("repair", edits.repaired(view.recipe))
    st.checkbox(
        "Repair batch norm", key=key, on_change=state.told(key, lambda on: acts.edit(lambda recipe: edits.set_repair(recipe, on))),
        help="Re-estimates the averages that batch norm keeps, after the weights changed. Trains nothing, and is often the way back from a cliff.",
    )  # fmt: skip
