"""The two lines at the top: model and data, the baseline, and the link to share."""

from __future__ import annotations

import streamlit as st

from core import zoo
from core.datasets import DATASETS
from core.studies.points import count_words
from pages.ui import own, services, state
from pages.ui.cards import baseline_line
from pages.ui.link import View


def header(view: View, model_label: str = "Model") -> None:
    with st.container(key="header", horizontal=True, vertical_alignment="center", gap="small"):
        _model(view, model_label)
        _dataset(view)
        own.button()
        st.space("stretch")
        _share()
    own.dialog_if_open(view)
    _messages()


@st.fragment
def _share() -> None:
    """Drawn when it is opened, because the link follows everything on the page."""
    opened = st.popover("Share", key="share", icon=":material/link:", on_change="rerun")
    if opened.open:
        with opened:
            st.caption("This link restores everything that is shown: model, data, recipe, chart, budgets and pins.")
            st.code(state.address(), language=None, wrap_lines=True)


def baseline(view: View) -> None:
    """The second line; drawn once the pair is known to have a checkpoint."""
    known = services.shelf().known(view.model, view.dataset)
    card = zoo.checkpoint(view.model, view.dataset).card
    st.html(f'<div class="baseline">{baseline_line(known.baseline, card)}</div>')


def _model(view: View, label: str) -> None:
    family = DATASETS.get(view.dataset).family
    trained = [found.model for found in zoo.checkpoints() if found.family == family]
    names = [*trained, *(name for name in zoo.models() if name not in trained)]
    key = state.mirror("model", view.model)
    st.selectbox(
        label, names, key=key, format_func=lambda name: _model_words(name, name in trained), width=330,
        on_change=state.told(key, lambda name: _changed(model=name)),
        help="torchvision's 80 classifiers and two teaching models. Those marked ● have trained weights for this dataset; any other can be trained here.",
    )  # fmt: skip


def _model_words(name: str, trained: bool) -> str:
    count = zoo.models()[name].get("parameters")
    teaching = " · teaching" if zoo.models()[name].get("teaching") else ""
    return f"{'● ' if trained else ''}{name}" + (f" · {count_words(count)} parameters" if count else "") + teaching


def _dataset(view: View) -> None:
    key = state.mirror("dataset", view.dataset)
    st.selectbox(
        "Data", list(DATASETS), key=key, format_func=_dataset_words, width=270, on_change=state.told(key, lambda name: _changed(dataset=name)),
        help="Every figure on this page is measured on the validation split. A dataset that is not here says how to get it.",
    )  # fmt: skip


def _dataset_words(name: str) -> str:
    source = DATASETS.get(name)
    return source.title + (" (not here)" if source.missing() else "")


def _changed(**changes) -> None:
    state.change(**changes, pins=())
    state.session()["phase"] = "rest"
    state.drop_messages()


def _messages() -> None:
    """What a link asked for that could not be, floating over the page so that nothing moves."""
    said = state.take_messages()
    if said:
        with st.container(key="messages", gap="xsmall"):
            st.warning("  \n".join(said))
            st.button("Close", key="close-messages", on_click=state.drop_messages)
