"""Flat rows in, a plotly figure out: the explorer, reports and notebooks share these charts.

A figure is the plain dict that plotly.js draws and `plotly.graph_objects.Figure` accepts. Rows are those of `core.studies.points.point`.
Imports neither plotly nor torch.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from core import pareto
from core.studies import letters
from core.studies.axes import AXES, ON_DEVICE, Axis
from core.studies.points import FAMILIES, MEASURED, PREVIEW, count_words, how_timed, signed, unrest


@dataclass(frozen=True)
class Theme:
    """The four colours a chart needs from its surroundings."""

    ink: str = "#1B2733"
    muted: str = "#6B7885"
    grid: str = "#E3E8ED"
    paper: str = "#FFFFFF"


# Okabe and Ito's palette (https://jfly.uni-koeln.de/color), each with a shape of its own. Diamonds mean another machine. Its black and its
# yellow are left out, which a dark or a white page swallows; so what is akin, or never beside each other, shares a colour.
STYLES = {
    "Other steps": ("#CC79A7", "star-triangle-up"),
    "Fewer bits": ("#009E73", "triangle-up"),
    "int8": ("#E69F00", "pentagon"),
    "Weights pruned": ("#0072B2", "circle"),
    "Pruned, fewer bits": ("#CC79A7", "square"),
    "Low rank": ("#D55E00", "bowtie"),
    "Channels removed": ("#D55E00", "triangle-down"),
    "Fine-tuned": ("#56B4E9", "hexagon"),
    "Distilled": ("#56B4E9", "cross"),
}
SOLIDS = {  # the nearest of the few shapes that plotly.js has in three dimensions; those of one colour differ
    "Other steps": "x", "Fewer bits": "diamond", "int8": "x", "Weights pruned": "circle", "Pruned, fewer bits": "square",
    "Low rank": "x", "Channels removed": "diamond", "Fine-tuned": "circle", "Distilled": "cross",
}  # fmt: skip
ELSEWHERE = "diamond-open"
FRONT = "#0072B2"
SIZE, SMALLEST, LARGEST = 10, 6, 20
PALE, OUT = 0.55, 0.15  # opacities of what is dominated, and of what a budget rules out


def figure(
    rows: Sequence[Mapping],
    *,
    x: str = "artifact_bytes",
    baseline: Mapping | None = None,
    live: Mapping | None = None,
    third: str | None = None,
    pins: Sequence[Mapping] = (),
    others: Sequence[Mapping] = (),
    lit: Collection[str] = (),
    fits: Collection[str] | None = None,
    ties: Collection[str] = (),
    room: Sequence[Mapping] = (),
    three_d: bool = False,
    theme: Theme = Theme(),
) -> dict:
    """Accuracy over the axis `x` (one of `AXES`), as `{"data": [...], "layout": {...}}`.

    `rows` are measured runs; `live` is the row of the recipe at hand, a preview (hollow, with its interval) or measured
    (solid). `third` is an axis drawn as marker size. `others` are rows of other models: their common front with `rows` is
    added. `lit` are ids to light up, `fits` the ids within the budgets (the rest turns grey), `ties` those that noise alone may
    keep off the front (outlined), `pins` rows lettered A, B, …, `room` rows that only widen the frame.
    """
    rows = [row for row in rows if row.get(x) and row.get("top1") is not None]
    if three_d:
        return _figure_3d(rows, x, third or ("macs" if x != "macs" else "artifact_bytes"), baseline, live, pins, lit, fits, theme)
    on_front = _on_front(rows, x)
    everything = [*rows, *(row for row in (*room, baseline, live) if row and row.get(x) and row.get("top1") is not None)]
    x_range, y_range = _ranges(everything, [row for row in (*room, live) if row and row.get("top1") is not None], x)
    if live and live["state"] == MEASURED and live.get("top1_high"):  # a preview's wide interval may leave the frame
        y_range[1] = max(y_range[1], live["top1_high"] + 0.1)
    data = [_front_line([row for row, on in zip(rows, on_front) if on], x, "Front", {"color": FRONT, "width": 1.6}, x_range)]
    data[0] |= {"fill": "tozeroy", "fillcolor": "rgba(0,114,178,0.07)"}
    if others and not AXES[x].relative:  # a ratio is to each model's own baseline
        common = [row for row in [*rows, *others] if row.get(x) and row.get("top1") is not None]
        best = [row for row, on in zip(common, _on_front(common, x)) if on]
        data.append(_front_line(best, x, "Front of all models", {"color": theme.muted, "width": 1.4, "dash": "dot"}, x_range) | {"mode": "lines+markers"})
        data[-1] |= {"marker": {"size": 5, "color": theme.muted}, "text": [row["model"] for row in best]}
    sizes = _sizes(rows, third)
    for family in FAMILIES:
        members = [number for number, row in enumerate(rows) if row["family"] == family]
        if members and family in STYLES:
            data.append(_family(family, [rows[i] for i in members], on_front[members], [sizes[i] for i in members], x, third, lit, fits, ties, theme))
    if baseline and baseline.get(x):
        data.append(_single(baseline, x, "Baseline", {"symbol": "star", "size": 16, "color": theme.ink, "line": {"width": 0}}))
    data += letters.beside(pins, x, x_range, y_range, baseline, theme.ink)
    data += _here(live, x, theme)
    nothing = None if everything or any(row.get(x) for row in others if not AXES[x].relative) else _why_nothing(x)
    device = next((f": {row['device']}, estimated" for row in everything if x == ON_DEVICE), "")
    return {"data": data, "layout": _layout(x, x_range, y_range, theme, AXES[x].title + device, nothing)}


def _on_front(rows: Sequence[Mapping], *axes: str) -> np.ndarray:
    """(n,) bool: the front of accuracy and the axes. What does not fit a device has no latency there that could be on it."""
    rows = [row if row.get("device_fits", True) else {**row, ON_DEVICE: None} for row in rows]
    return pareto.front(rows, {"top1": pareto.MAX, **dict.fromkeys(axes, pareto.MIN)})


def _why_nothing(x: str) -> str:
    return f"No run of this model has this figure. {AXES[x].title}: {AXES[x].help[0].lower()}{AXES[x].help[1:]}"


def _family(name: str, rows, on_front, sizes, x: str, third: str | None, lit, fits, ties, theme: Theme) -> dict:
    """One trace: solid where on the front, pale where dominated, grey where a budget rules it out."""
    colour, symbol = STYLES[name]
    timed = any(AXES[axis].relative and not AXES[axis].here_alone for axis in (x, third) if axis is not None)
    marks = []
    for row, on, size in zip(rows, on_front, sizes):
        out, glows = fits is not None and row["id"] not in fits, row["id"] in lit
        opacity = OUT if out else 1.0 if on or glows else PALE
        shape = ELSEWHERE if timed and row["elsewhere"] else symbol
        tie = row["id"] in ties and not out
        said = hover(row, x) + ("<br>Within noise of the front" if tie else "")
        marks.append((opacity, row, theme.muted if out else _see_through(colour, opacity), shape, size + 5 if glows else size, 2 if glows or tie else 0, said))
    marks.sort(key=lambda mark: -mark[0])  # the legend takes the look of the first
    opacities, rows, colours, shapes, sizes, widths, said = (list(column) for column in zip(*marks))
    return {
        "type": "scatter", "mode": "markers", "name": name, "uid": uid(name), "legendgroup": name,
        "x": [row[x] for row in rows], "y": [row["top1"] for row in rows], "customdata": [[row["id"]] for row in rows],
        "text": said, "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": colours, "symbol": shapes, "size": sizes,
            "line": {"width": widths, "color": [theme.ink if row["id"] in lit else colour for row in rows]},
            "opacity": [opacity if opacity == OUT else 1.0 for opacity in opacities],
        },
    }  # fmt: skip


def _see_through(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def uid(name: str) -> str:
    """A trace's lasting name. plotly.js uses it in CSS selectors, so it must be letters, digits and hyphens."""
    return re.sub("[^a-z0-9]+", "-", name.lower())


def _front_line(rows, x: str, name: str, line: dict, x_range) -> dict:
    """The front as a step line: the accuracy that is had for at most so much."""
    rows = sorted(rows, key=lambda row: row[x])
    xs, ys = [row[x] for row in rows], [row["top1"] for row in rows]
    if rows:
        xs, ys = [*xs, 10 ** (x_range[1] + 3)], [*ys, max(ys)]
    return {
        "type": "scatter", "mode": "lines", "name": name, "uid": uid(name), "x": xs, "y": ys, "line": {"shape": "hv", **line},
        "hoverinfo": "text" if name != "Front" else "skip",
    }  # fmt: skip


def _single(row: Mapping, x: str, name: str, marker: dict) -> dict:
    return {
        "type": "scatter", "mode": "markers", "name": name, "uid": uid(name), "x": [row[x]], "y": [row["top1"]], "customdata": [[row["id"]]],
        "text": [hover(row, x)], "hovertemplate": "%{text}<extra></extra>", "marker": marker,
    }  # fmt: skip


def _here(live: Mapping | None, x: str, theme: Theme) -> list[dict]:
    """You are here: a ring, and in it the point, hollow with its interval while it is a preview. Always two traces."""
    known = live is not None and live.get(x) and live.get("top1") is not None
    row = live if known else {x: None, "top1": None, "id": "", "family": "Other steps", "state": PREVIEW, "words": ""}
    colour, symbol = STYLES.get(row["family"], (theme.ink, "star"))
    hollow = row["state"] == PREVIEW
    marker = {"symbol": symbol + ("-open" if hollow else ""), "size": 11, "color": colour, "line": {"width": 2, "color": colour}}
    point = _single(row, x, "Preview" if hollow else "This run", marker)
    ring = _single(row, x, "You are here", {"symbol": "circle-open", "size": 26, "color": theme.ink, "line": {"width": 1.6, "color": theme.ink}})
    if known and row.get("top1_low") is not None:
        point["error_y"] = {
            "type": "data", "symmetric": False, "array": [row["top1_high"] - row["top1"]], "arrayminus": [row["top1"] - row["top1_low"]],
            "thickness": 1.4, "width": 5, "color": colour, "visible": True,
        }  # fmt: skip
    ring |= {"uid": "ring", "showlegend": False, "hoverinfo": "skip", "hovertemplate": None, "legendgroup": "here"}
    point |= {"uid": "here", "showlegend": False, "legendgroup": "here", "cliponaxis": False}
    return [ring, point]


def hover(row: Mapping, x: str) -> str:
    """What a point says when it is pointed at: recipe, accuracy with interval and n, sizes, latency, provenance."""
    lines = [f"<b>{escape(row['words'])}</b>"]
    if row.get("top1_low") is not None:
        how = "preview" if row["state"] == PREVIEW else row["provenance"].get("top1", "measured")
        lines.append(f"{row['top1']:.2f} % top-1 ({row['top1_low']:.2f}…{row['top1_high']:.2f}), {how}, {row['split']}, n = {row['images']:,}")
    if row.get("gained") is not None:
        lines.append(f"{signed(row['gained'])} points ({signed(row['gained_low'])}…{signed(row['gained_high'])}) against the baseline, paired")
    sizes = [f"{AXES[name].title} {AXES[name].words(row[name])}" for name in ("artifact_bytes", "deployed_bytes", "paper_bytes") if row.get(name)]
    lines.append(" · ".join(sizes))
    if row.get("ratio") is not None:
        where = f", {how_timed(row)}" if how_timed(row) else ""
        lines.append(f"Latency {row['ratio']:.2f} × ({row['ratio_low']:.2f}…{row['ratio_high']:.2f}), {row['runtime']}{where}")
    if x.startswith("ratio_") and row.get(x):
        lines.append(f"{AXES[x].title} {row[x]:.2f} ×" + _spread(row.get("beside", {}).get(x)))
    if row.get("macs"):
        lines.append(
            f"MACs {count_words(row['macs'])}"
            + (f" · activations {AXES['activation_bytes'].words(row['activation_bytes'])}" if row.get("activation_bytes") else "")
        )
    if row.get(ON_DEVICE):
        error = f"median error {100 * row['device_error']:.0f} % on the host of its fit"
        lines.append(f"{row['device']}: {AXES[ON_DEVICE].words(row[ON_DEVICE])}, estimated, {error}; {row['device_validated']}")
        if not row.get("device_fits", True):
            lines.append(f"Does not fit its flash and RAM: {row['device_limit']}")
    return "<br>".join(lines)


def _spread(timing: Mapping | None) -> str:
    """The interval of a latency ratio in a runtime that no run comes with, and whether to believe it."""
    if timing is None:
        return ""
    return f" ({timing['ratio_low']:.2f}…{timing['ratio_high']:.2f})" + unrest(timing)


def _sizes(rows, third: str | None) -> list[float]:
    """Marker sizes in pixels by the logarithm of the third objective: larger is more."""
    figures = [row.get(third) if third else None for row in rows]
    known = [math.log(value) for value in figures if value]
    if not known or max(known) == min(known):
        return [SIZE] * len(rows)
    low, span = min(known), max(known) - min(known)
    return [SMALLEST if not value else SMALLEST + (LARGEST - SMALLEST) * (math.log(value) - low) / span for value in figures]


def _ranges(rows, must, x: str) -> tuple[list[float], list[float]]:
    """Axis ranges that change in steps, so that a point that is dragged about does not shake the frame.

    x in powers of ten, padded; y in points, from the lowest of what is near the best or must be seen up to just above the best.
    """
    if not rows:
        return [4.0, 8.0], [0.0, 100.0]
    logs = np.log10([row[x] for row in rows])
    low, high = math.floor(4 * (logs.min() - 0.08)) / 4, math.ceil(4 * (logs.max() + 0.08)) / 4
    if AXES[x].relative:
        low, high = min(logs.min() - 0.05, -0.3), max(logs.max() + 0.05, 0.1)
    heights = np.array([row["top1"] for row in rows])
    shown = heights[heights >= heights.max() - 15]
    floor = min(shown.min(), min((row["top1"] for row in must), default=100.0), heights.max() - 2)
    step = 2 if floor > heights.max() - 15 else 10
    bottom = max(-2.0, step * math.floor((floor - 0.5) / step))
    return [low, high], [bottom, heights.max() + max(0.4, 0.06 * (heights.max() - bottom))]


def _layout(x: str, x_range, y_range, theme: Theme, title: str, nothing: str | None) -> dict:
    axis = AXES[x]
    line = {"gridcolor": theme.grid, "zeroline": False, "linecolor": theme.grid, "ticks": "outside", "tickcolor": theme.grid, "ticklen": 4, "automargin": True}
    return {
        "uirevision": "explorer", "hovermode": "closest", "dragmode": "zoom", "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": theme.ink, "size": 12}, "margin": {"l": 52, "r": 14, "t": 46, "b": 42},  # the tool bar is above the legend
        "xaxis": {
            "type": "log", "range": x_range, "autorange": False, "uirevision": x, "title": {"text": f"{title}, log scale", "standoff": 8},
            **_ticks(axis, x_range), **line,
        },
        "yaxis": {"range": y_range, "autorange": False, "uirevision": "top1", "title": {"text": "Top-1 accuracy", "standoff": 6}, "ticksuffix": " %", **line},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "font": {"size": 11.5}, "itemsizing": "constant"},
        "hoverlabel": {"align": "left", "bgcolor": theme.paper, "bordercolor": theme.grid, "font": {"color": theme.ink, "size": 12}},
        "shapes": [_one(theme)] if AXES[x].relative else [], "annotations": [in_the_middle(nothing, theme)] if nothing else [],
    }  # fmt: skip


def _ticks(axis: Axis, x_range=(0, 2)) -> dict:
    """1, 2 and 5 of every decade in words, more where less than one is shown; plotly's own labels leave the unit out between decades."""
    decades = {"×": range(-2, 3), "ms": range(-3, 7)}.get(axis.suffix, range(2, 12))
    digits = (1, 2, 5) if x_range[1] - x_range[0] > 1 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    places = [digit * 10.0**decade for decade in decades for digit in digits]
    plain = axis.suffix in ("×", "ms")
    words = [f"{place:g} {axis.suffix}" for place in places] if plain else [short(place, axis.suffix) for place in places]
    zoomed = {"tickformat": ".2~f", "ticksuffix": f" {axis.suffix}"} if plain else {"tickformat": "~s", "ticksuffix": axis.suffix}
    return {"tickmode": "array", "tickvals": places, "ticktext": words} | zoomed


def short(place: float, unit: str) -> str:
    """`200 kB`, `5 M`."""
    size, prefix = next((size, prefix) for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")) if place >= size)
    return f"{place / size:g} {prefix}{unit}"


def in_the_middle(words: str, theme: Theme) -> dict:
    """What stands where there is nothing to draw."""
    lines = "<br>".join(textwrap.wrap(words, 64))
    return {"text": lines, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "showarrow": False, "font": {"color": theme.muted, "size": 13}}


def _one(theme: Theme) -> dict:
    """The line where latency equals the baseline's."""
    return {"type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": theme.muted, "width": 1, "dash": "dot"}}


def _figure_3d(rows, x: str, third: str, baseline, live, pins, lit, fits, theme: Theme) -> dict:
    """Accuracy over two axes at once; the front is that of all three objectives. A trace has one opacity there, so each look is a trace."""
    rows_of_x, rows = rows, [row for row in rows if row.get(third)]
    on_front = _on_front(rows, x, third)
    data = []
    for name, (colour, _) in STYLES.items():
        of_family: dict[str, list] = {"": [], "dominated": [], "lit": [], "outside the budgets": []}
        for row, on in zip(rows, on_front):
            if row["family"] == name:
                out = fits is not None and row["id"] not in fits
                of_family["outside the budgets" if out else "lit" if row["id"] in lit else "" if on else "dominated"].append(row)
        looks = {"": (colour, 1.0, 5), "dominated": (colour, 0.3, 5), "lit": (theme.ink, 1.0, 8), "outside the budgets": (theme.muted, 0.15, 5)}
        first = True
        for look, members in of_family.items():
            if members:
                drawn = _cloud(members, x, third, f"{name}, {look}" if look else name, *looks[look][:2], SOLIDS[name], looks[look][2])
                data.append(drawn | {"legendgroup": name, "showlegend": first, "name": name if first else drawn["name"]})
                first = False
    for row, name, symbol in ((baseline, "Baseline", "diamond"), (live, "You are here", "circle-open")):
        if row and row.get(x) and row.get(third):
            data.append(_cloud([row], x, third, name, theme.ink, 1.0, symbol, 9))
    lettered = [(letter, row) for letter, row in zip(letters.LETTERS, pins) if row.get(x) and row.get(third)]
    if lettered:
        drawn = _cloud([row for _, row in lettered], x, third, "Pinned", theme.ink, 1.0, "circle", 5)
        drawn |= {
            "mode": "text",
            "text": [f"<b>{letter}</b>" for letter, _ in lettered],
            "textposition": "top center",
            "hoverinfo": "skip",
            "showlegend": False,
        }
        data.append({key: value for key, value in drawn.items() if key != "hovertemplate"})
    line = {"gridcolor": theme.grid, "zeroline": False, "color": theme.ink, "backgroundcolor": "rgba(0,0,0,0)"}
    return {
        "data": data,
        "layout": {
            "uirevision": "explorer 3-D", "paper_bgcolor": "rgba(0,0,0,0)", "font": {"color": theme.ink, "size": 12},
            "annotations": [] if data else [in_the_middle(_why_nothing(third if rows_of_x else x), theme)],
            "margin": {"l": 0, "r": 0, "t": 46, "b": 0}, "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "font": {"size": 11.5}},
            "scene": {
                "aspectmode": "manual", "aspectratio": {"x": 1.5, "y": 1.2, "z": 0.9}, "camera": {"eye": {"x": -1.6, "y": -1.8, "z": 0.7}},
                "xaxis": {"type": "log", "title": {"text": AXES[x].title}, **_ticks(AXES[x]), **line},
                "yaxis": {"type": "log", "title": {"text": AXES[third].title}, **_ticks(AXES[third]), **line},
                "zaxis": {"title": {"text": "Top-1 accuracy, %"}, **line},
            },
        },
    }  # fmt: skip


def _cloud(rows, x: str, third: str, name: str, colour: str, opacity: float, symbol: str, size: float) -> dict:
    return {
        "type": "scatter3d", "mode": "markers", "name": name, "uid": "cloud-" + uid(name), "x": [row[x] for row in rows], "y": [row[third] for row in rows],
        "z": [row["top1"] for row in rows], "customdata": [[row["id"]] for row in rows], "text": [hover(row, x) for row in rows],
        "hovertemplate": "%{text}<extra></extra>", "marker": {"size": size, "color": colour, "opacity": opacity, "symbol": symbol},
    }  # fmt: skip


def curve(points: Sequence[Mapping], theme: Theme = Theme()) -> dict:
    """A learning curve: `points` are dicts with `epoch`, and `loss`, `top1` (percent) where they were measured."""
    data = []
    for name, title, colour, side in (("loss", "Training loss", "#D55E00", "y"), ("top1", "Validation top-1", "#0072B2", "y2")):
        known = [point for point in points if point.get(name) is not None]
        if known:
            data.append({
                "type": "scatter", "mode": "lines+markers" if len(known) < 40 else "lines", "name": title, "uid": uid(name), "yaxis": side,
                "x": [point["epoch"] for point in known], "y": [point[name] for point in known], "line": {"color": colour, "width": 2},
            })  # fmt: skip
    line = {"gridcolor": theme.grid, "zeroline": False}
    return {
        "data": data,
        "layout": {
            "uirevision": "curve", "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": theme.ink, "size": 12},
            "margin": {"l": 48, "r": 52, "t": 28, "b": 38}, "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
            "xaxis": {"title": {"text": "Epoch"}, **line}, "yaxis": {"title": {"text": "Loss"}, "rangemode": "tozero", **line},
            "yaxis2": {"title": {"text": "Top-1, %"}, "overlaying": "y", "side": "right", "showgrid": False},
        },
    }  # fmt: skip


def softened(answers: Sequence[float], names: Sequence[str], theme: Theme = Theme()) -> dict:
    """A teacher's probabilities of each class as bars; used while a temperature is dragged."""
    return {
        "data": [{"type": "bar", "x": list(names), "y": [100 * value for value in answers], "marker": {"color": "#56B4E9"}, "uid": "answers"}],
        "layout": {
            "uirevision": "answers", "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": theme.ink, "size": 11},
            "margin": {"l": 30, "r": 4, "t": 4, "b": 40}, "yaxis": {"range": [0, 100], "ticksuffix": " %", "gridcolor": theme.grid},
        },
    }  # fmt: skip
