"""The table of layers with its check boxes, and how the chosen ones become the `layers` of a step of the recipe."""

from __future__ import annotations

import streamlit as st

from core.errors import ParetoscopeError
from core.layers.facts import pattern
from core.layers.sensitivity import layers_of
from core.recipe import Recipe, Step
from core.studies.points import step_words
from pages.ui import edits, state
from pages.ui.link import View

HEIGHT = 214  # pixels: six layers are seen at a time
LAYER_WIDTH, NUMBER_WIDTH = 150, 74
ADD = -1  # in place of a step's position


def table(view: View, measured: Step, facts: dict | None) -> None:
    """Parameters, MACs and bytes of each layer, and the button that gives the checked ones to a step. `measured` is the step of the heat map."""
    paths = layers_of(view.model)
    key = f"layer-table-{view.model}"
    told = st.dataframe(_columns(paths, facts), key=key, hide_index=True, height=HEIGHT, on_select="rerun", selection_mode="multi-row", column_config=_config())
    checked = [paths[at] for at in told["selection"]["rows"] if at < len(paths)]
    with st.container(key="use", horizontal=True, vertical_alignment="center", gap="small", wrap=False):
        places = targets(view.recipe, measured)
        at = st.selectbox(
            "Step", list(places), key="use-step", format_func=places.get, label_visibility="collapsed", width=300,
            help="The step of the recipe that is to touch the checked layers alone.",
        )  # fmt: skip
        count = len(checked)
        label = "Use these layers" if count != 1 else "Use this layer"
        if st.button(
            label, key="use-layers", icon=":material/check:", type="primary", disabled=not count or at is None, help="Check layers in the table first."
        ):
            _use(view, measured, at, pattern(checked, paths))
        st.html(f'<span class="quiet small">{count} of {len(paths)} layers checked</span>', width="content")


def targets(recipe: Recipe, measured: Step) -> dict[int, str]:
    """Position of a step that takes layers → its words; and the measured one, where the recipe has none of that name."""
    found = {at: step_words(step) for at, step in enumerate(recipe.steps) if hasattr(step, "layers")}
    return found if edits.find(recipe, measured.name) is not None else found | {ADD: f"Add: {measured.title}"}


def chosen_for(recipe: Recipe, measured: Step, at: int, layers: str) -> Recipe:
    """The recipe whose step at that place touches these layers alone; raises `BadInput` when that cannot be."""
    if at == ADD:
        return edits.add(recipe, measured.name, layers=layers)
    return edits.set_field(recipe, at, "layers", layers)


def _use(view: View, measured: Step, at: int, layers: str) -> None:
    """Change the recipe, and go where it is shown."""
    try:
        state.change(recipe=chosen_for(view.recipe, measured, at, layers))
    except ParetoscopeError as error:
        st.error(str(error))
        return
    state.session()["phase"] = "rest"
    st.switch_page("dashboard.py")


def _columns(paths: list[str], facts: dict | None) -> dict[str, list]:
    if facts is None:  # they are being counted
        return {"Layer": paths}
    entries = {entry["layer"]: entry for entry in facts["layers"]}

    def each(when: str, name: str, unit: float = 1.0) -> list:
        return [entries[path][when][name] / unit if path in entries and entries[path][when] else None for path in paths]

    return {
        "Layer": paths, "Parameters": each("before", "parameters"), "not zero": each("after", "nonzero"),
        "MACs, M": each("before", "macs", 1e6), "MACs after": each("after", "macs", 1e6),
        "kB": each("before", "artifact_bytes", 1e3), "kB after": each("after", "artifact_bytes", 1e3),
    }  # fmt: skip


def _config() -> dict:
    number = lambda form, help: st.column_config.NumberColumn(format=form, help=help, width=NUMBER_WIDTH)
    return {
        "Layer": st.column_config.TextColumn(width=LAYER_WIDTH),
        "Parameters": number("localized", "Weights and biases of the uncompressed layer."),
        "not zero": number("localized", "Parameters that are not zero after the recipe."),
        "MACs, M": number("%.2f", "Millions of multiply-adds for one picture, uncompressed."),
        "MACs after": number("%.2f", "Millions of multiply-adds after the recipe, counted on the real shapes."),
        "kB": number("%.1f", "The layer's part of the packed file, uncompressed; 1 kB is 1,000 bytes."),
        "kB after": number("%.1f", "The layer's part of the packed file after the recipe, entropy coded."),
    }
