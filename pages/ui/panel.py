"""The line above the chart: its axis and view, and the budgets."""

from __future__ import annotations

import streamlit as st

from core.charts import AXES
from pages.ui import acts, state
from pages.ui.frame import guard
from pages.ui.link import BUDGETS, View

MARKS = {"accuracy": ("≥", "%", 0.5), "kilobytes": ("≤", "kB", 10.0), "latency": ("≤", "× latency", 0.05)}
HELP = {
    "accuracy": "A budget: the least top-1 accuracy, in percent. What does not fit turns grey.",
    "kilobytes": "A budget: the most kilobytes to download; 1 kB is 1,000 bytes.",
    "latency": "A budget: the highest latency as a ratio to the baseline's; below 1 asks for faster.",
}

SAME = "all the same"


@st.fragment(key="panel")
@guard()
def panel() -> None:
    view = state.view()
    with st.container(key="panel", horizontal=True, vertical_alignment="center", gap="xsmall", wrap=False):
        _axis(view)
        _view(view)
        st.html('<span class="quiet budgets">Budgets</span>', width="content")
        for name in BUDGETS:
            _budget(view, name)


def _axis(view: View) -> None:
    key = state.mirror("x", view.x)
    st.selectbox(
        "x-axis", list(AXES), key=key, format_func=lambda name: AXES[name].title, width=230, on_change=state.told(key, lambda name: acts.show(x=name)),
        help="What accuracy is set against:  \n" + "  \n".join(f"**{axis.title}**: {axis.help}" for axis in AXES.values()),
    )  # fmt: skip


def _view(view: View) -> None:
    with st.popover("View", key="view", icon=":material/tune:"):
        third = state.mirror("third", view.third or SAME)
        st.selectbox(
            "Marker size", [SAME, *AXES], key=third, format_func=lambda name: AXES[name].title if name in AXES else name,
            help="Shows a third objective as the size of each point: larger is more.",
            on_change=state.told(third, lambda name: acts.show(third=None if name == SAME else name)),
        )  # fmt: skip
        deep = state.mirror("three_d", view.three_d)
        st.toggle("Three dimensions", key=deep, on_change=state.told(deep, lambda on: acts.show(three_d=on)), help="Draws the third objective as an axis.")
        every = state.mirror("all_models", view.all_models)
        st.toggle(
            "Front of all models", key=every, on_change=state.told(every, lambda on: acts.show(all_models=on)),
            help="Adds the common front of every model that was measured on this dataset.",
        )  # fmt: skip


def _budget(view: View, name: str) -> None:
    mark, unit, step = MARKS[name]
    _, _, low, high, _ = BUDGETS[name]
    st.html(f'<span class="quiet">{mark}</span>', width="content")
    key = state.mirror(f"budget-{name}", getattr(view, name))
    st.number_input(
        HELP[name], min_value=low, max_value=high, value=None, step=step, key=key, label_visibility="collapsed", width=84, format="%g",
        placeholder="any", on_change=state.told(key, lambda limit: acts.show(**{name: limit})),
    )  # fmt: skip
    st.html(f'<span class="quiet" title="{HELP[name]}">{unit}</span>', width="content")
