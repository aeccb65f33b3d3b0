"""The parts of the Layers page, in one fragment: the heat map and the table at the left, the layer at hand at the right."""

from __future__ import annotations

import dataclasses

import streamlit as st

from core import zoo
from core.layers import charts as layer_charts
from core.layers.facts import Layers
from core.layers.sensitivity import Sensitivity, layers_of, measurable
from core.recipe import STEPS, Step
from core.studies.known import seconds_a_picture
from pages.ui import edits, examine, layer, refusals, services, state, use_layers, words
from pages.ui.chart import THEME, chart
from pages.ui.examine import Look
from pages.ui.frame import guard
from pages.ui.link import View
from pages.ui.looked_at import PICTURES
from pages.ui.pulse import pulse

FRAGMENT = "layers"
BACKWARD = 3  # a picture takes so many times as long to train on as to look at
SUFFIX = 0.55  # of a network runs again for the average layer
ROUNDED = 2.7  # times as long as without, a picture takes whose values between layers are rounded; no part of it is spared
RANGED, RANGES = 1.2, 0.01  # setting the ranges of these values: for each picture so many times the looking, and seconds for each layer of the model
AGAIN = 1.0  # seconds between two looks at what is under way
SHORT = 90.0  # seconds of a heat map that starts by itself: it fills while one looks, and gives way to everything
USUAL_METHOD = "magnitude_prune"


@st.fragment(key=FRAGMENT)
def layers() -> None:
    with guard():
        view = state.view()
        asked = question(view)
        heat = examine.look(asked, seconds(asked, view) <= SHORT)
        facts = _facts(view)
        with st.container(key="layers"):
            with st.container(key="layers-map", gap="xsmall"):
                _controls(view, asked, heat)
                _map(view, asked, heat)
                use_layers.table(view, asked.step, facts.result)
            with st.container(key="layers-one", gap="xsmall"):
                layer.one(view, chosen(view), facts)
        refusals.say()
        running = next((look for look in (heat, facts) if look.running), Look())
        pulse(running.doing("measuring layers" if running is heat else "looking at the recipe"), AGAIN, fraction=running.fraction)
        state.publish()


def question(view: View) -> Sensitivity:
    """What the heat map is to show: the chosen method, with the fields that it has in the recipe."""
    in_recipe = [step.name for step in view.recipe.steps if step.name in measurable()]
    name = view.looked_at.method or next(iter(in_recipe), USUAL_METHOD)
    return Sensitivity(view.model, view.dataset, _step(view, name), images=view.looked_at.pictures)


def _step(view: View, name: str) -> Step:
    """The recipe's step of that name, whose layers do not count here; else one as the explorer would add it."""
    at = edits.find(view.recipe, name)
    if at is not None:
        return dataclasses.replace(view.recipe.steps[at], layers="all")
    return STEPS.get(name)(**edits.ADDED.get(name, {}))


def seconds(asked: Sensitivity, view: View) -> float:
    """A careful guess at how long the heat map takes here, by the model's arithmetic and what trained here before.

    Every cell is evaluated; what a step measures of pictures by itself, it measures once a layer, but the ranges of values between layers once a cell.
    """
    known = services.shelf().known(view.model, view.dataset)
    facts = zoo.models()[view.model]
    pictures = asked.images or (known.baseline or {}).get("images") or 5000
    forward = seconds_a_picture([*known.rows, *known.others], facts.get("macs")) / BACKWARD
    step, cells = asked.step, len(asked.layers) * len(asked.values)
    evaluated = cells * (ROUNDED if step.rounds_activations else SUFFIX) * pictures
    looked_at = len(asked.layers) * step.looks * getattr(step, "images", 0) + cells * RANGED * step.ranges_from
    return (evaluated + looked_at) * forward + (cells * RANGES * len(asked.layers) if step.ranges_from else 0)


def chosen(view: View) -> str:
    """The layer at hand: the one that was clicked, else the first."""
    names = layers_of(view.model)
    wanted = view.looked_at.layer
    return wanted if wanted in names else names[0]


def _facts(view: View) -> Look:
    """The recipe's layers; a recipe that cannot be is said beside them, and the heat map stays."""
    return examine.recipe(view, Layers)


def _controls(view: View, asked: Sensitivity, heat: Look) -> None:
    with st.container(key="layers-controls", horizontal=True, vertical_alignment="center", gap="small", wrap=False):
        method = state.mirror("method", asked.step.name)
        st.selectbox(
            "Sensitivity to", measurable(), key=method, format_func=lambda name: STEPS.get(name).title, width=300,
            on_change=state.told(method, lambda name: layer.show(method=name)),
            help="Applies this step to one layer at a time, the others stay as they are, and measures top-1 against the uncompressed model. Its other fields "
            "are those of the recipe, where the recipe has this step.",
        )  # fmt: skip
        pictures = state.mirror("layer_pictures", PICTURES.index(asked.images))
        st.selectbox(
            "Pictures", range(len(PICTURES)), key=pictures, width=205,
            on_change=state.told(pictures, lambda at: layer.show(pictures=PICTURES[at])),
            format_func=lambda at: "all" if PICTURES[at] is None else f"first {PICTURES[at]:,}",
            help="How many pictures of the validation split each cell is measured on: more take longer, and tell smaller differences apart.",
        )  # fmt: skip
        st.space("stretch")
        if heat.running:
            st.button("Cancel", key="cancel-map", icon=":material/stop_circle:", on_click=examine.stop, args=(heat.row,))
        elif heat.asks:
            label = f"Measure, {words.duration(seconds(asked, view))}"
            st.button(label, key="measure-map", type="primary", icon=":material/play_arrow:", on_click=examine.started, args=(asked,))


def _map(view: View, asked: Sensitivity, heat: Look) -> None:
    """The heat map, filling while it is measured; a clicked row becomes the layer at hand."""
    st.html(f'<div class="sentence small">{_said(asked, heat)}</div>')
    empty = {"layers": asked.layers, "cells": [[None] * len(asked.values)] * len(asked.layers), "field": asked.field.name}
    result = heat.result or asked.to_json() | empty
    chart(
        layer_charts.heat_map(result, chosen(view), THEME), key="layers-chart", height="var(--map-height)", name=f"sensitivity-{view.model}-{asked.step.name}",
        label=f"Points of top-1 lost when one layer of {view.model} alone goes through the step {asked.step.title}",
        on_pick=lambda name: layer.show(layer=name),
    )  # fmt: skip


def _said(asked: Sensitivity, heat: Look) -> str:
    if heat.problem:
        return f'<span class="tag wrong">{words.escape(heat.problem)}</span>'
    if heat.result is None:
        return "Being measured …" if heat.running else "Not measured yet."
    told = heat.result
    seen = min((cell["images"] for row in told["cells"] for cell in row if cell and "images" in cell), default=0)
    refused = next((cell["refused"] for row in told["cells"] for cell in row if cell and "refused" in cell), "")
    how = f"n = {told['images']:,}" if not heat.running else f"so far n = {seen:,} of {told['images']:,}"
    base = f"; {told['baseline']['top1']:.2f} % uncompressed" if told["baseline"] else ""
    more = " ".join(filter(None, (told["whole"], f"Empty cells: {refused}" if refused else "")))
    return (
        f"Points of top-1 with <b>one layer alone</b> compressed{base}; measured, paired, validation, {how}."
        f"{f' <span class=quiet>{words.escape(more)}</span>' if more else ''}"
    )
