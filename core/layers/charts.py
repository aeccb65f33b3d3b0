"""The figures of the Layers page: sensitivities as a heat map, a weight's histogram, where it is zero, its singular values.

What `core.layers.sensitivity` and `core.layers.facts` measured goes in, a plotly figure as a plain dict comes out, as in `core.charts`. Imports neither
plotly nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import core.methods  # noqa: F401  (registers the steps)
from core.charts import Theme, uid
from core.recipe import STEPS, params
from core.studies.points import signed, value_words

LOST, KEPT = "#D55E00", "#0072B2"  # Okabe and Ito's vermilion and blue
MARKS = {"threshold": ("Threshold", "#D55E00", "dash"), "grid": ("Grid", "#009E73", "solid"), "centroids": ("Shared values", "#CC79A7", "solid")}
WORDY = 34  # layers, up to which every cell has room for its number
POINTS = (0, 1, 5, 20, 50, 90)  # of the colour bar
LEAST_SCALE = 5.0  # points lost that are the deepest colour at least, so that noise is not painted like a cliff


def heat_map(result: Mapping, chosen: str | None = None, theme: Theme = Theme()) -> dict:
    """Layers from the first at the top to the last, settings from mild to hard: colour and number are the points of top-1 lost.

    The colour grows with the square root of the loss, because what matters is whether a layer loses one point or five. `chosen` is a layer to frame.
    """
    layers, cells = result["layers"], result["cells"]
    spec = next(spec for spec in params(STEPS.get(result["step"]["step"])) if spec.name == result["field"])
    lost = [[None if cell is None or "refused" in cell else -cell["difference"]["top1"] for cell in row] for row in cells]
    most = max((value for row in lost for value in row if value is not None), default=0.0)
    deepest = max(LEAST_SCALE, most)
    ticks = [points for points in POINTS if points <= deepest]
    settings = [value_words(spec, value) for value in result["values"]]
    return {
        "data": [{
            "type": "heatmap", "uid": "sensitivity", "name": "Points of top-1 lost", "x": settings, "y": layers,
            "z": [[None if value is None else math.sqrt(max(0.0, value)) for value in row] for row in lost],
            "customdata": [[[layer] for _ in row] for layer, row in zip(layers, cells)],
            "text": [["" if value is None else _short(value) for value in row] for row in lost],
            "hovertext": [[_cell_words(layer, setting, cell) for setting, cell in zip(settings, row)] for layer, row in zip(layers, cells)],
            "hovertemplate": "%{hovertext}<extra></extra>",
            **({"texttemplate": "%{text}", "textfont": {"size": 11, "color": theme.ink}} if len(layers) <= WORDY else {}),
            "colorscale": [[0, theme.grid], [1, LOST]], "zmin": 0, "zmax": math.sqrt(deepest), "xgap": 2, "ygap": 1,
            "colorbar": {
                "thickness": 10, "outlinewidth": 0, "tickmode": "array", "ticktext": [str(points) for points in ticks],
                "tickvals": [math.sqrt(points) for points in ticks],
                "title": {"text": "points lost", "side": "right", "font": {"size": 11}},
            },
        }],
        "layout": _layout(theme, l=10, r=4, t=30, b=42) | {
            "uirevision": f"{result['model']}-{result['step']['step']}",
            "xaxis": {"type": "category", "categoryarray": settings, "title": {"text": spec.title, "standoff": 6}, "showgrid": False, "ticks": ""},
            "yaxis": {
                "type": "category", "categoryarray": layers, "range": [len(layers) - 0.5, -0.5], "automargin": True, "showgrid": False, "ticks": "",
                "tickfont": {"size": 10.5},
            },
            "shapes": [_frame(layers.index(chosen), theme)] if chosen in layers else [],
        },
    }  # fmt: skip


def _short(lost: float) -> str:
    """The change in points for a cell: `−1.2`, `0`."""
    text = signed(-lost, 1)
    return "0" if text == "0.0" else text


def _cell_words(layer: str, setting: str, cell: Mapping | None) -> str:
    """What a cell says when it is pointed at."""
    if cell is None:
        return f"<b>{layer}</b>, {setting}<br>not measured yet"
    if "refused" in cell:
        return f"<b>{layer}</b><br>{_folded(cell['refused'])}"
    change = cell["difference"]
    same = ", not distinguishable" if change["low"] <= 0 <= change["high"] else ""
    return (
        f"<b>{layer}</b> alone, {setting}<br>{cell['top1']:.2f} % top-1, {signed(change['top1'])} points "
        f"({signed(change['low'])}…{signed(change['high'])}{same})<br>measured, paired, n = {cell['images']:,}"
    )


def _folded(sentence: str, width: int = 60) -> str:
    import textwrap

    return "<br>".join(textwrap.wrap(sentence, width))


def _frame(row: int, theme: Theme) -> dict:
    return {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": row - 0.5, "y1": row + 0.5, "line": {"color": theme.ink, "width": 2}}


def histogram(weight: Mapping, theme: Theme = Theme()) -> dict:
    """The weights of one layer that are not zero, before as an area and after as a line, with the threshold, grid or shared values drawn in."""
    counts = weight["histogram"]
    bins = len(counts["before"])
    width = (counts["high"] - counts["low"]) / bins
    centres = [counts["low"] + (at + 0.5) * width for at in range(bins)]
    tallest = max(1, *(max(counts[name]) for name in ("before", "after") if counts[name]))
    data = [_outline("Before", centres, counts["before"], theme.muted, 0) | {"fill": "tozeroy", "fillcolor": theme.grid}]
    for mark in (mark for mark in weight["marks"] if mark["values"]):
        name, colour, dash = MARKS[mark["kind"]]
        data.append({
            "type": "scatter", "mode": "lines", "name": name, "uid": uid(mark["kind"]), "hoverinfo": "skip",
            "x": [place for value in mark["values"] for place in (value, value, None)], "y": [height for _ in mark["values"] for height in (0, tallest, None)],
            "line": {"color": colour, "width": 1.2 if mark["kind"] == "threshold" else 0.8, "dash": dash},
        })  # fmt: skip
    if counts["after"] is not None:
        data.append(_outline("After", centres, counts["after"], KEPT, 1.8))
    return {
        "data": data,
        "layout": _layout(theme) | {
            "uirevision": "histogram",
            "xaxis": {"title": {"text": "Weight", "standoff": 4}, **_line(theme)},
            "yaxis": {"title": {"text": "Weights in a bin"}, "rangemode": "tozero", **_line(theme)},
        },
    }  # fmt: skip


def _outline(name: str, xs: Sequence[float], ys: Sequence[float], colour: str, width: float) -> dict:
    return {
        "type": "scatter", "mode": "lines", "name": name, "uid": uid(name), "x": list(xs), "y": list(ys),
        "line": {"color": colour, "width": width, "shape": "hvh"},
        "hovertemplate": f"{name}: %{{y:,}} near %{{x:.3g}}<extra></extra>",
    }  # fmt: skip


def picture(weight: Mapping, theme: Theme = Theme()) -> dict:
    """Where a weight is not zero: rows are outputs, columns inputs; a cell of a large one stands for many weights, by the share that is kept."""
    told = weight["picture"]
    outputs, *inputs = weight["after_shape"]
    columns = math.prod(inputs)
    axis = {"showgrid": False, "zeroline": False, "ticks": "", "showticklabels": False, "linecolor": theme.grid, "mirror": True}
    return {
        "data": [{
            "type": "heatmap", "uid": "picture", "name": "Share of weights kept", "showscale": False, "hoverinfo": "skip", "zmin": 0, "zmax": 255,
            "z": {"dtype": "u1", "bdata": told["shares"], "shape": f"{told['rows']}, {told['columns']}"}, "colorscale": [[0, theme.paper], [1, KEPT]],
        }],
        "layout": _layout(theme, l=26, r=8, t=8, b=26) | {
            "uirevision": "picture", "xaxis": axis | {"title": {"text": f"{columns:,} inputs", "standoff": 4}},
            "yaxis": axis | {"range": [told["rows"] - 0.5, -0.5], "title": {"text": f"{outputs:,} outputs", "standoff": 4}},
        },
    }  # fmt: skip


def singular_values(weight: Mapping, theme: Theme = Theme()) -> dict:
    """The singular values of the weight as a matrix (outputs × inputs), largest first; where they fall fast, a layer has a low rank."""
    told = weight["singular_values"]
    data = []
    for name, colour, width in (("before", theme.muted, 1.6), ("after", KEPT, 1.8)):
        if told[name]:
            data.append({
                "type": "scatter", "mode": "lines", "name": name.capitalize(), "uid": uid(name), "x": list(range(1, len(told[name]) + 1)), "y": told[name],
                "line": {"color": colour, "width": width}, "hovertemplate": f"{name}: %{{y:.3g}} (number %{{x}})<extra></extra>",
            })  # fmt: skip
    return {
        "data": data,
        "layout": _layout(theme, l=40, r=8, t=24, b=36) | {
            "uirevision": "singular", "xaxis": {"title": {"text": "Number", "standoff": 4}, **_line(theme)},
            "yaxis": {"title": {"text": "Singular value"}, "rangemode": "tozero", **_line(theme)},
        },
    }  # fmt: skip


def _layout(theme: Theme, l: int = 48, r: int = 8, t: int = 28, b: int = 38) -> dict:
    return {
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": theme.ink, "size": 11.5},
        "margin": {"l": l, "r": r, "t": t, "b": b},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "font": {"size": 11}},
        "hoverlabel": {"align": "left", "bgcolor": theme.paper, "bordercolor": theme.grid, "font": {"color": theme.ink, "size": 12}},
    }  # fmt: skip


def _line(theme: Theme) -> dict:
    return {"gridcolor": theme.grid, "zeroline": False, "automargin": True}
