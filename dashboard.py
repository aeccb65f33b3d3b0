"""The explorer: model, dataset, sliders, and the live Pareto chart. The first thing anyone sees.

Started by `streamlit run dashboard.py`. Reads what was set, asks `core` through `pages/ui`, and draws; computes nothing.
"""

from __future__ import annotations

import streamlit as st

from pages.ui import acts
from pages.ui.controls import controls
from pages.ui.drawers import drawers
from pages.ui.frame import guard
from pages.ui.live import lead, live, think
from pages.ui.page import page
from pages.ui.panel import panel


def main() -> None:
    with st.container(key="explorer"):  # a grid of the style sheet
        panel()
        explorer()
        drawers()


@st.fragment(key=acts.EXPLORER)
def explorer() -> None:
    """What follows the recipe, in one fragment, so that one run of it answers a control. The chart goes first: it is looked at."""
    with guard():
        think()
        with st.container(key="live"):
            live()
        lead()
        controls()


page("Explorer", main)
