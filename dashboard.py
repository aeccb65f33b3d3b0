"""The explorer: model, dataset, sliders, and the live Pareto chart. The first thing anyone sees.

Started by `streamlit run dashboard.py`. Reads what was set, asks `core` through `pages/ui`, and draws; computes nothing.
"""

from __future__ import annotations

import streamlit as st

from core import zoo
from core.datasets import DATASETS
from core.errors import NotHere
from pages.ui import absent, header, services, state
from pages.ui.chart import load as load_plotly
from pages.ui.controls import controls
from pages.ui.drawers import drawers
from pages.ui.frame import frame, guard
from pages.ui.live import live
from pages.ui.panel import panel


def main() -> None:
    frame("Explorer")
    load_plotly()
    with guard():
        services.cluster()
        view = state.view()
        header.header(view)
        missing = DATASETS.get(view.dataset).missing()
        if missing:
            state.publish()
            absent.dataset(view.dataset, missing)
            return
        try:
            zoo.checkpoint(view.model, view.dataset)
        except NotHere as error:
            state.publish()
            absent.checkpoint(view, error)
            return
        explore(view)


def explore(view) -> None:
    header.baseline(view)
    left, right = st.columns([0.26, 0.74], gap="medium")
    with left:
        controls()
    with right:
        panel()
        live()
        drawers()


main()
