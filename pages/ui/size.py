"""The parts of the page "Size", in one fragment: a bar a layer at the left, the layer at hand and the sums at the right."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from core import size_charts
from core.errors import ParetoscopeError
from core.points import bytes_words
from core.points import words as recipe_words
from core.size_parts import SizeParts, by_kind
from core.work import Work
from pages.ui import examine, follow, layer, services, state, words
from pages.ui.chart import THEME, chart
from pages.ui.examine import Look
from pages.ui.frame import guard
from pages.ui.link import View
from pages.ui.status import BUSY, IDLE, WRONG, status

FRAGMENT = "size"
AGAIN, SELDOM = 1.0, 2.0
PAPER = "What the encodings need in theory, as papers count it: codes at their full width, positions by their entropy, no header."


@st.fragment(key=FRAGMENT)
def size() -> None:
    with guard():
        view = state.view()
        look = _look(view)
        with st.container(key="size"):
            with st.container(key="size-bars", gap="xsmall"):
                _bars(view, look)
            with st.container(key="size-one", gap="xsmall"):
                if look.result is not None:
                    _one(view, look.result)
        refused = state.session().pop("refused", "")
        if refused:
            st.error(refused)
        _status(look)
        state.publish()


def _look(view: View) -> Look:
    try:
        known = services.shelf().known(view.model, view.dataset)
        return examine.look(_asked(view), follow.estimate_recipe(view.recipe, known) <= follow.SHORT_TRAINING)
    except ParetoscopeError as error:
        return Look(problem=str(error))


def _asked(view: View) -> SizeParts:
    return SizeParts(Work(view.model, view.dataset, view.recipe))


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
        st.progress(min(1.0, look.row["fraction"]), text="Packing the model …")
        st.button("Cancel", key="cancel-size", icon=":material/stop_circle:", on_click=examine.stop, args=(look.row,))
    elif look.asks:
        takes = follow.estimate_recipe(view.recipe, services.shelf().known(view.model, view.dataset))
        label = f"Train, {words.duration(takes)}" if takes > follow.SHORT_TRAINING else "Look again"
        st.button(label, key="measure-size", type="primary", on_click=examine.started, args=(_asked(view),), help="This recipe trains before it can be packed.")


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


def _status(look: Look) -> None:
    """One line in the sidebar, and the pulse that looks again while something is under way."""
    told = services.cluster().state()
    services.settle(told["connected"])
    with st.sidebar:
        if told["trouble"]:
            status("the cluster is in trouble", WRONG, detail=told["trouble"], again=SELDOM)
        elif look.running and not told["connected"]:
            status("starting the cluster …", BUSY, again=AGAIN)
        elif look.running:
            status("packing" if look.row["state"] == "RUNNING" else "waiting", BUSY, fraction=look.row["fraction"], again=AGAIN)
        else:
            status("idle", IDLE)
