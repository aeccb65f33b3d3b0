"""Papers beside ours: what the classics published, and what their recipes do to the data at hand.

Reads the runs that are shipped or were measured here and draws them; a button and the command beside it measure them anew.
"""

from __future__ import annotations

import streamlit as st

from core.papers.classics import PAPERS
from core.papers.reproduced import standings
from pages.ui import reproduce, services
from pages.ui.chart import load as load_plotly
from pages.ui.frame import frame, guard
from pages.ui.paper import paper


def main() -> None:
    frame("Papers")
    load_plotly()
    st.html(
        '<div class="papers-head"><b>Papers beside ours.</b> Each block sets a paper’s published figures beside what the same recipe does here. Where the '
        "data differ the levels do, too; what can be compared is what a method costs. Ours are measured, with 95 % intervals.</div>"
    )
    with guard():
        for _name, known in PAPERS.items():
            found = standings(known, services.store())
            paper(found["test"], found["validation"])
        reproduce.follow_along()


main()
