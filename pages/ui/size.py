"""The parts of the page "Size", in one fragment: a bar a layer at the left, the layer at hand and the sums at the right."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from core.packed import size_charts
from core.packed.size_parts import SizeParts, by_kind
from core.studies.points import bytes_words
from core.studies.points import words as recipe_words
from pages.ui import examine, layer, refusals, state, words
from pages.ui.chart import THEME, chart
from pages.ui.examine import Look
from pages.ui.frame import guard
from pages.ui.link import View
from pages.ui.pulse import pulse

FRAGMENT = "size"
AGAIN = 1.0  # seconds between two looks at what is under way
PAPER = "What the encodings need in theory, as papers count it: codes at their full width, positions by their entropy, no header."


@st.fragment(key=FRAGMENT)
def size() -> None:
    with guard():
        view = state.view()
        look = examine.recipe(view, SizeParts)
        with st.container(key="size"):
            with st.container(key="size-bars", gap="xsmall"):
                _bars(view, look)
            with st.container(key="size-one", gap="xsmall"):
                if look.result is not None:
                    _one(view, look.result)
        refusals.say()
        pulse(look.doing("packing"), AGAIN, fraction=look.fraction)
        state.publish()


def _bars(view: View, look: Look) -> None:
    st.html(f'<div class="quiet recipe-line">by the recipe: {words.escape(recipe_words(view.recipe))}</div>')
    if look.problem:
        st.error(look.problem)
    if look.result is not None:
        st.html(f'<div class="sentence">{_said(look.result)}</div>')
        chart(
            size_charts.bars(look.result, chosen(view, look.result)["layer"], THEME), key="size-chart", height="var(--size-height)", name=f"size-{view.model}",
            label=f"Bytes of each layer of {view.model} in the packed file, by kind", on_pick=lambda name: _picked(look.result, name),
        )  # fmt: skip
    elif look.running:
        examine.under_way(look, "size", "Packing the model …")
    elif look.asks:
        examine.ask(view, SizeParts, "size", "This recipe trains before it can be packed.")


def chosen(view: View, found: Mapping) -> dict:
    """The entry of the layer at hand: the one that was clicked, else that which takes most."""
    named = [entry for entry in found["layers"] if entry["layer"] == view.looked_at.layer]
    return named[0] if named else max(found["layers"], key=lambda entry: sum(entry["file"].values()))


def _picked(found: Mapping, name: str) -> None:
    if any(entry["layer"] == name for entry in found["layers"]):
        layer.show(layer=name)


def _said(found: Mapping) -> str:
    times = found["dense_bytes"] / found["bytes"]
    said = f"<b>{times:.1f} times smaller</b> to download" if times >= 1.05 else "No smaller to download"
    kind, count = max(by_kind(found).items(), key=lambda item: item[1])
    return (
        f"{said}: {found['bytes']:,} bytes in place of {bytes_words(found['dense_bytes'])} as float32. The largest part is "
        f"<b>{size_charts.TITLES[kind].lower()}</b> ({100 * count / found['bytes']:.0f} %). On paper, the encodings need {bytes_words(found['paper_bytes'])}. "
        '<span class="quiet">Counted in the real file: every byte once.</span>'
    )


def _one(view: View, found: Mapping) -> None:
    entry = chosen(view, found)
    state.set_widget("layer", entry["layer"])
    st.selectbox(
        "Layer", [each["layer"] for each in found["layers"]], key="layer", on_change=lambda: layer.show(layer=state.widget("layer")),
        help="One layer’s weights, followed from float32 to the bytes that stand for them in the file. A click on a bar chooses its layer.",
    )  # fmt: skip
    st.html(_stages(entry) + _sums(found))
    if found["notes"]:
        st.caption(" ".join(found["notes"]))


def _stages(entry: Mapping) -> str:
    """A block a stage: what it takes, as a bar and in bytes, what was done, and some of its numbers."""
    first = entry["stages"][0]["bytes"]
    blocks = [f'<div class="quiet small">{words.escape(entry["form"])}</div>']
    for stage in entry["stages"]:
        share = 100 * stage["bytes"] / max(1, first)
        times = f"{first / stage['bytes']:.1f} × smaller" if stage["bytes"] and stage is not entry["stages"][0] else ""
        blocks.append(
            f'<div class="stage" title="{words.escape(stage["said"])}"><div class="side"><b>{words.escape(stage["title"])}</b>'
            f'<span>{stage["bytes"]:,} bytes <span class="quiet">{times}</span></span></div>'
            f'<div class="stage-bar"><i style="width:{min(100.0, share):.2f}%"></i></div>'
            f'<div class="stage-said">{words.escape(stage["said"])}</div><code>{words.escape(stage["sample"])}</code></div>'
        )
    return "".join(blocks)


def _sums(found: Mapping) -> str:
    """The whole file by kind, beside the paper's arithmetic."""
    file, paper = by_kind(found), by_kind(found, "paper")
    kinds = list(dict.fromkeys([*file, *paper]))
    head = "".join(f"<th>{size_charts.TITLES[kind]}</th>" for kind in kinds)
    lines = (("in the file", file, found["bytes"], ""), ("on paper", paper, found["paper_bytes"], f' title="{PAPER}"'))
    body = "".join(
        f"<tr><th{tip}>{title}</th>" + "".join(f"<td>{bytes_words(sums.get(kind)) if sums.get(kind) else '–'}</td>" for kind in kinds)
        + f"<td>{bytes_words(total)}</td></tr>"
        for title, sums, total, tip in lines
    )  # fmt: skip
    return f'<table class="layer-figures sums"><thead><tr><th>whole model</th>{head}<th>all</th></tr></thead><tbody>{body}</tbody></table>'
