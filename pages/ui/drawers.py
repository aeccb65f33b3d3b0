"""What opens on demand below the cards: the runs as a table, the code, and the comparison of pinned runs."""

from __future__ import annotations

import functools
import json

import streamlit as st

from core.studies import study, study_report
from core.studies.axes import AXES, ON_DEVICE
from core.studies.known import Shelf
from core.studies.letters import LETTERS
from core.studies.points import count_words, indistinct, signed, times_words
from pages.ui import acts, services, state
from pages.ui.frame import guard
from pages.ui.link import View

KEY = " &ensp; ".join((
    "● measured", "○ preview", "◇ another machine’s latency", "pale: beaten by another", "outlined: tied within noise", "click takes a point",
))  # fmt: skip


@st.fragment(key=acts.DRAWERS)
@guard()
def drawers() -> None:
    view = state.view()
    with st.container(key="drawers", horizontal=True, vertical_alignment="center", gap="xsmall", wrap=False):
        if st.button("Runs", key="runs", icon=":material/table_rows:", type="tertiary"):
            _runs()
        if st.button("Code", key="code", icon=":material/code:", type="tertiary"):
            _code()
        _report(view)
        pinned = _pinned(view) if len(view.pins) >= 2 else []
        if len(pinned) >= 2 and st.button(f"Compare {len(pinned)} pinned", key="compare", icon=":material/compare_arrows:", type="tertiary"):
            _compare()
        st.space("stretch")
        st.html(f'<span class="key">{KEY}</span>', width="content")


def _report(view: View) -> None:
    """One click: the file is made when it is asked for."""
    st.download_button(
        "Report", functools.partial(_report_file, view, services.shelf()), f"{view.model}-{view.dataset}.html", "text/html", key="report", type="tertiary",
        icon=":material/summarize:", on_click="ignore", disabled=services.shelf().known(view.model, view.dataset).baseline is None,
        help="One HTML file that needs no network: the chart, the front, the pinned runs (without pins, those on the front) with the commands that "
        "reproduce them, how it was measured, and the machine.",
    )  # fmt: skip


def _report_file(view: View, shelf: Shelf) -> str:
    found = study.of(view.model, view.dataset, shelf)
    known = {row["id"] for row in (*found.rows, *found.apart)}
    return study_report.html(found, [pin for pin in view.pins if pin in known])


@st.dialog("Runs", width="large", on_dismiss=state.dialog_closed)
@guard()
def _runs() -> None:
    state.dialog_opened()
    view = state.view()
    known = services.shelf().known(view.model, view.dataset)
    rows = [*([known.baseline] if known.baseline else []), *known.rows]
    asked = st.text_input("Filter", key="runs-filter", placeholder="words of the recipe, such as: prune 90", label_visibility="collapsed").lower().split()
    shown = [row for row in rows if all(word in row["words"].lower() for word in asked)]
    table = {
        "Recipe": [row["words"] for row in shown],
        "Top-1, %": [row["top1"] for row in shown],
        "Against baseline": [row["gained"] for row in shown],
        "low": [row["gained_low"] for row in shown],
        "high": [row["gained_high"] for row in shown],
        "Download, kB": [row["artifact_bytes"] / 1e3 for row in shown],
        "On paper, kB": [row["paper_bytes"] / 1e3 for row in shown],
        "Runs as, kB": [row["deployed_bytes"] / 1e3 if row["deployed_bytes"] else None for row in shown],
        "Latency ratio": [row["ratio"] for row in shown],
        "p50, ms": [row["ms_p50"] for row in shown],
        "Runtime": [row["runtime"] for row in shown],
        "MACs, M": [row["macs"] / 1e6 for row in shown],
        "Accuracy is": [row["provenance"].get("top1") for row in shown],
        "Latency of": ["another machine" if row["elsewhere"] else "this machine" for row in shown],
        "Date": [(row["date"] or "")[:10] for row in shown],
        "Key": [row["key"] for row in shown],
    }
    two, one = st.column_config.NumberColumn(format="%.2f"), st.column_config.NumberColumn(format="%.1f")
    st.dataframe(
        table, hide_index=True, height=460, key="runs-table",
        column_config={
            "Recipe": st.column_config.TextColumn(width="large"),
            **dict.fromkeys(("Top-1, %", "Against baseline", "low", "high", "Latency ratio", "p50, ms"), two),
            **dict.fromkeys(("Download, kB", "On paper, kB", "Runs as, kB", "MACs, M"), one),
        },
    )  # fmt: skip
    st.caption(f"{len(shown)} of {len(rows)} runs, {view.dataset}, validation split. Differences are paired, in points. Click a column to sort.")
    st.download_button("Download as CSV", _csv(table), f"{view.model}-{view.dataset}.csv", "text/csv", icon=":material/download:", on_click="ignore")


def _csv(table: dict[str, list]) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table)
    writer.writerows(zip(*table.values()))
    return text.getvalue()


@st.dialog("Code", width="large", on_dismiss=state.dialog_closed)
def _code() -> None:
    state.dialog_opened()
    view = state.view()
    st.caption("The same run, figure for figure, without this page. Run either in the checkout.")
    st.code(command(view), language="bash", wrap_lines=True)
    st.code(python(view), language="python")


def command(view: View) -> str:
    """One line for a shell."""
    return study.shell_command(view.model, view.dataset, view.recipe)


def python(view: View) -> str:
    """The same for a notebook."""
    recipe = json.dumps(view.recipe.to_json(), indent=4).replace("true", "True").replace("false", "False").replace("null", "None")
    return (
        "from core import engine\nfrom core.recipe import Recipe\nfrom core.work import Work\n\n"
        f"recipe = Recipe.from_json({recipe})\nresult = engine.run(Work({view.model!r}, {view.dataset!r}, recipe))\n"
        'print(result.metrics["top1"], result.metrics["artifact_bytes"], result.difference)\n'
    )


@st.dialog("Compare", width="large", on_dismiss=state.dialog_closed)
@guard()
def _compare() -> None:
    state.dialog_opened()
    view = state.view()
    pinned = _pinned(view)
    figures = [axis for axis in AXES.values() if axis.name not in ("ratio", ON_DEVICE) and any(row.get(axis.name) is not None for _letter, row in pinned)]
    lines = {
        "Model": lambda row: row["model"],
        "Recipe": lambda row: row["words"],
        "Top-1": lambda row: f"{row['top1']:.2f} % ({row['top1_low']:.2f}…{row['top1_high']:.2f})",
        "Against baseline, paired": _gained,
        **{axis.title: (lambda row, axis=axis: axis.words(row.get(axis.name))) for axis in figures},
        "Latency ratio": _ratio,
        "Parameters, non-zero": lambda row: f"{count_words(row['parameters'])}, {count_words(row['nonzero'])}",
    }
    st.table({"": list(lines)} | {letter: [line(row) for line in lines.values()] for letter, row in pinned})
    st.caption(_between(pinned))


def _pinned(view: View) -> list[tuple[str, dict]]:
    """The pinned runs that are here, each with its letter."""
    known = services.shelf().known(view.model, view.dataset)
    return [(letter, row) for letter, row in zip(LETTERS, (known.find(id) for id in view.pins)) if row]


def _ratio(row: dict) -> str:
    said = times_words(row["ratio"]) + (" not distinguishable" if indistinct(row, "ratio_low", "ratio_high", 1) else "")
    return said + (", another machine" if row["elsewhere"] and row["ratio"] is not None else "")


def _gained(row: dict) -> str:
    return "–" if row["gained"] is None else f"{signed(row['gained'])} ({signed(row['gained_low'])}…{signed(row['gained_high'])})"


def _between(pinned: list[tuple[str, dict]]) -> str:
    """The paired differences from the first pinned run, from the labels that both predicted."""
    (first, reference), *others = pinned
    said = []
    for letter, row in others:
        found = services.shelf().difference(row, reference)
        if found is not None:
            same = ", not distinguishable" if found["low"] <= 0 <= found["high"] else ""
            said.append(f"{letter} against {first}, paired: {signed(found['top1'])} points ({signed(found['low'])}…{signed(found['high'])}){same}.")
    return "  \n".join(said)
