"""One classic on the page Papers: what it claimed, both tables of figures in one, the chart, and the ways to do it oneself."""

from __future__ import annotations

from html import escape

import streamlit as st

from core.papers.figures import figure, measured_words, table
from core.papers.reproduced import Standing
from pages.ui import link, reproduce
from pages.ui.chart import THEME, chart
from pages.ui.link import View

HEIGHT = "17rem"


def paper(test: Standing, validation: Standing) -> None:
    known = test.paper
    with st.container(key=f"paper-{known.name}", border=True):
        figures, drawn = st.columns((62, 38), gap="medium")
        with figures:
            st.html(_said(test) + _table(test, validation) + _notes(test))
            _ways(test)
        with drawn:
            chart(figure(test, THEME), key=f"chart-{known.name}", height=HEIGHT, label=f"{known.title}: accuracy against {known.reference}", name=known.name)


def _said(test: Standing) -> str:
    known = test.paper
    source = f'<a href="{known.link}" target="_blank" rel="noopener">{escape(known.source)}</a>'
    return f'<div class="paper-title">{escape(known.title)} <span class="quiet">{source}</span></div><div class="paper-claim">{escape(known.claim)}</div>'


def _table(test: Standing, validation: Standing) -> str:
    titles, rows = table(test, validation)
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="paper"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _cell(words: str) -> str:
    """What stands in parentheses, an interval or a ratio, goes below."""
    figure, _, aside = words.partition(" (")
    return escape(figure) + (f'<div class="quiet">{escape(aside.removesuffix(")"))}</div>' if aside else "")


def _notes(test: Standing) -> str:
    known = test.paper
    lines = [f"Published: {known.published_on}, n = {known.pictures:,}. Here: {measured_words(test)}.", known.differs]
    return "".join(f'<div class="paper-note">{escape(line)}</div>' for line in lines)


def _ways(test: Standing) -> None:
    """The command, a button that does the same, and our recipes in the explorer."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        opened = st.popover("Do it again", icon=":material/terminal:", type="tertiary", key=f"again-{test.paper.name}", on_change="rerun")
        with opened:
            st.caption("Measures these figures on this machine and keeps them. Once they are there, this page shows them instead of the shipped ones.")
            st.code(test.paper.command(), language=None, wrap_lines=True)
            if opened.open:
                reproduce.again(test.paper)
        st.html('<span class="paper-note">Open in the explorer:</span>', width="content")
        for line in test.lines:
            if line.row.recipe.steps:
                view = View(model=line.row.model, dataset=test.dataset, recipe=line.row.recipe)
                st.page_link(
                    "dashboard.py",
                    label=line.row.title,
                    icon=":material/scatter_plot:",
                    query_params=link.encode(view),
                    help="Open this recipe in the explorer.",
                )
