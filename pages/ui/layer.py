"""The layer at hand on the Layers page: its figures before and after the recipe, its weights, where they are zero, its singular values."""

from __future__ import annotations

import streamlit as st

from core.layers import charts as layer_charts
from core.layers.facts import Layers
from core.layers.sensitivity import layers_of
from core.studies.points import bytes_words, count_words
from core.studies.points import words as recipe_words
from pages.ui import examine, state, words
from pages.ui.chart import THEME, chart
from pages.ui.examine import Look
from pages.ui.link import View

FIGURES = (
    ("parameters", "Parameters", count_words), ("nonzero", "not zero", count_words), ("macs", "MACs", count_words),
    ("paper_bytes", "On paper", bytes_words), ("artifact_bytes", "Download", bytes_words),
)  # fmt: skip
HELP = (
    "What the recipe of the explorer makes of this layer, its biases included. MACs are multiply-adds for one picture, counted on the real shapes; "
    "on paper is what the encoding needs in theory; download is this layer's part of the packed file, entropy coded."
)
PICTURE = "The weight as a matrix of outputs and inputs: blue where weights are kept, paler where a cell stands for many and some of them are zero."
SINGULAR = "Of the weight as a matrix of outputs and inputs. Where they fall fast, a few factors do nearly the same."


def one(view: View, name: str, facts: Look) -> None:
    key = state.mirror("layer", name)
    st.selectbox("Layer", layers_of(view.model), key=key, on_change=state.told(key, lambda name: show(layer=name)), help=HELP)
    st.html(f'<div class="quiet recipe-line">by the recipe: {words.escape(recipe_words(view.recipe))}</div>')
    if facts.result is None:
        _absent(view, facts)
        return
    entry = next(entry for entry in facts.result["layers"] if entry["layer"] == name)
    st.html(_figures(entry))
    weight = entry["weight"]
    stem = f"{view.model}-{name}"
    with st.container(key="layer-histogram", gap=None):
        st.html(f'<div class="label">Weights <span class="quiet">{"; ".join([_zeros(weight), *(mark["said"] for mark in weight["marks"])])}</span></div>')
        chart(
            layer_charts.histogram(weight, THEME), key="layer-histogram-chart", height="var(--weights-height)", name=f"{stem}-weights",
            label=f"Weights of {name}",
        )  # fmt: skip
    with st.container(key="layer-pair"):
        with st.container(key="layer-picture", gap=None):
            st.html(f'<div class="label" title="{PICTURE}">Where weights are kept</div>')
            if weight["picture"] is None:
                st.caption("The recipe leaves no such layer.")
            else:
                chart(
                    layer_charts.picture(weight, THEME), key="layer-picture-chart", height="var(--pair-height)", name=f"{stem}-mask",
                    label=f"Where the weights of {name} are not zero",
                )  # fmt: skip
        with st.container(key="layer-singular", gap=None):
            st.html(f'<div class="label" title="{SINGULAR}">Singular values</div>')
            if weight["singular_values"]["before"] is None:
                st.caption(" ".join(entry["notes"]))
            else:
                chart(
                    layer_charts.singular_values(weight, THEME), key="layer-singular-chart", height="var(--pair-height)", name=f"{stem}-singular",
                    label=f"Singular values of {name}",
                )  # fmt: skip
    notes = [*facts.result["notes"], *([] if weight["singular_values"]["before"] is None else entry["notes"])]
    if notes:
        st.caption(" ".join(notes))


def show(**changes) -> None:
    """Look at something else; the recipe stays."""
    state.change(looked_at=state.view().looked_at.replace(**changes))
    state.drop_messages()


def _absent(view: View, facts: Look) -> None:
    """What stands here until the recipe was looked at: what went wrong, a button for a long training, or patience."""
    if facts.problem:
        st.error(facts.problem)
    if facts.running:
        examine.under_way(facts, "facts", "Applying the recipe …")
    elif facts.asks:
        examine.ask(view, Layers, "facts", "This recipe trains before its layers can be seen.")


def _figures(entry: dict) -> str:
    """A small table: before, after."""
    before, after = entry["before"], entry["after"]
    head = "".join(f"<th>{title}</th>" for _name, title, _words in FIGURES)
    lines = [("before", before), ("after", after)]
    body = "".join(
        f"<tr><th>{title}</th>" + "".join(f"<td>{said(round(figures[name])) if figures else 'gone'}</td>" for name, _title, said in FIGURES) + "</tr>"
        for title, figures in lines
    )
    return f'<table class="layer-figures"><thead><tr><th>{words.escape(entry["form"])}</th>{head}</tr></thead><tbody>{body}</tbody></table>'


def _zeros(weight: dict) -> str:
    """The share of zeros, which the histogram leaves out."""
    if weight["after_shape"] is None:
        return "the recipe leaves no such layer"
    count = 1
    for length in weight["after_shape"]:
        count *= length
    zeros = weight["histogram"]["zeros"][1]
    return f"{100 * zeros / count:.1f} % are zero and not drawn" if zeros else "none is zero"
