"""The figures of the Latency page: the blocks of a measurement as boxes, and the operators that take the time.

What `core.timing.timings` measured goes in, a plotly figure as a plain dict comes out, as in `core.charts`. Imports neither plotly nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.charts import Theme, in_the_middle, uid
from core.metrics.latency import verdict
from core.runtimes.timed import RUNTIMES
from core.studies.points import unrest
from core.timing.timings import is_own_graph

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's, one a run; each also has its place and its name
MOST_OPERATORS = 7
TICKS = [digit * 10.0**power for power in range(-3, 5) for digit in (1, 2, 5)]  # milliseconds


def boxes(runs: Sequence[tuple[str, Mapping | None]], theme: Theme = Theme()) -> dict:
    """The blocks of each run, a group a runtime. `runs` are (name, what `core.timing.timings.measure` gave or None), the baseline first.

    A block stands at its ratio to the baseline's block beside it, times the baseline's median: a machine's pace changes between two measurements.
    """
    data, shown = [], set()
    pace = {name: cell["ms_p50"] for name, cell in (runs[0][1] or {"cells": {}})["cells"].items() if "blocks" in cell}
    for number, (name, found) in enumerate(runs):
        cells = [cell for cell in (found or {"cells": {}})["cells"].values() if "blocks" in cell]
        if cells:
            titles = [RUNTIMES.get(cell["runtime"]).title for cell in cells for _ in cell["blocks"]]
            shown |= set(titles)
            colour = theme.ink if number == 0 else COLOURS[(number - 1) % len(COLOURS)]
            data.append({
                "type": "box", "name": name, "uid": uid(f"box {number}"), "x": titles, "y": [ms for cell in cells for ms in _at_pace(cell, pace)],
                "boxpoints": "all", "jitter": 0.4, "pointpos": 0, "marker": {"size": 3, "color": colour}, "line": {"color": colour, "width": 1.4},
                "hovertext": [_hover(name, cell) for cell in cells for _ in cell["blocks"]], "hovertemplate": "%{hovertext}<extra></extra>",
                "hoveron": "points",
            })  # fmt: skip
    order = [entry.title for _name, entry in RUNTIMES.items() if entry.title in shown]
    return {
        "data": data,
        "layout": _layout(theme) | {
            "uirevision": "boxes", "boxmode": "group", "boxgap": 0.25, "boxgroupgap": 0.15,
            "annotations": [] if data else [in_the_middle("Boxes appear here as each run is timed", theme)],
            "xaxis": {"visible": bool(data), "type": "category", "categoryorder": "array", "categoryarray": order, "showgrid": False, "ticks": ""},
            "yaxis": {
                "visible": bool(data), "type": "log", "title": {"text": "Milliseconds a pass, log scale", "standoff": 6}, "gridcolor": theme.grid,
                "zeroline": False, "automargin": True, "tickmode": "array", "tickvals": TICKS, "ticktext": [f"{tick:g}" for tick in TICKS],
            },
        },
    }  # fmt: skip


def _at_pace(cell: Mapping, pace: Mapping[str, float]) -> list[float]:
    """Milliseconds of each block; of the baseline's own graph, and before the baseline is known, as they were taken."""
    of = pace.get(RUNTIMES.get(cell["runtime"]).reference)
    if of is None or is_own_graph(cell):
        return [mine for mine, _beside in cell["blocks"]]
    return [float(f"{mine / beside * of:.4g}") for mine, beside in cell["blocks"]]


def _hover(name: str, cell: Mapping) -> str:
    said = verdict(cell)
    lines = [f"<b>{name}</b>, {RUNTIMES.get(cell['runtime']).title}", f"p50 {cell['ms_p50']:.3g} ms (p10–p90 {cell['ms_p10']:.3g}…{cell['ms_p90']:.3g})"]
    lines.append(f"{cell['ratio']:.2f} × the uncompressed model’s ({cell['ratio_low']:.2f}…{cell['ratio_high']:.2f}), {said}")
    lines.append(f"measured, {len(cell['blocks'])} blocks" + unrest(cell))
    return "<br>".join(lines)


def operators(runs: Sequence[tuple[str, Sequence[Mapping]]], theme: Theme = Theme()) -> dict:
    """Milliseconds of each operator, one under the other, a bar a run: (name, a profile of `core.timing.operators`). The smallest become one."""
    sums: dict[str, float] = {}
    for _name, profile in runs:
        for each in profile:
            sums[each["operator"]] = max(sums.get(each["operator"], 0.0), each["ms"])
    names = sorted(sums, key=lambda name: -sums[name])
    kept, rest = names[:MOST_OPERATORS], names[MOST_OPERATORS:]
    labels = [*kept, *(["others"] if rest else [])]
    data = []
    for number, (name, profile) in enumerate(runs):
        of = {each["operator"]: each for each in profile}
        times = [of[operator]["ms"] if operator in of else 0.0 for operator in kept]
        said = [
            f"<b>{name}</b><br>{operator}: {of[operator]['ms']:.3g} ms, {100 * of[operator]['share']:.0f} % of the graph, {of[operator]['calls']} nodes"
            if operator in of else f"<b>{name}</b><br>no {operator}" for operator in kept
        ]  # fmt: skip
        if rest:
            times.append(sum(of[operator]["ms"] for operator in rest if operator in of))
            said.append(f"<b>{name}</b><br>{sum(operator in of for operator in rest)} other operators: {times[-1]:.3g} ms")
        data.append({
            "type": "bar", "orientation": "h", "name": name, "uid": uid(f"operators {number}"), "x": times, "y": labels, "text": said, "textposition": "none",
            "hovertemplate": "%{text}<extra></extra>", "marker": {"color": theme.muted if number == 0 else COLOURS[number - 1]},
        })  # fmt: skip
    return {
        "data": data,
        "layout": _layout(theme) | {
            "uirevision": "operators", "barmode": "group", "bargap": 0.25,
            "xaxis": {
                "title": {"text": "Milliseconds a pass, by the profiler", "standoff": 4}, "rangemode": "tozero", "gridcolor": theme.grid, "zeroline": False,
            },
            "yaxis": {"type": "category", "categoryarray": labels, "range": [len(labels) - 0.5, -0.5], "automargin": True, "showgrid": False, "ticks": ""},
        },
    }  # fmt: skip


def _layout(theme: Theme) -> dict:
    return {
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": theme.ink, "size": 11.5},
        "margin": {"l": 46, "r": 8, "t": 30, "b": 38}, "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "font": {"size": 11}},
        "hoverlabel": {"align": "left", "bgcolor": theme.paper, "bordercolor": theme.grid, "font": {"color": theme.ink, "size": 12}},
    }  # fmt: skip
