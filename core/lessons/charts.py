"""Figures of the page "Distill": a student's learning curves with and without a teacher, and its accuracy over the temperature.

Plain dicts for plotly.js, as those of `core.charts`. Imports neither plotly nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from core.charts import Theme
from core.lessons.students import TEMPERATURES, Curve, Spread

TAUGHT, ALONE = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion; the second is also dashed, so that colour is not alone
BELOW_BEST = 25  # points of accuracy that the frame of the learning curves shows below the best; the first epochs may come from further down


def learning(taught: Sequence[Mapping], alone: Sequence[Mapping], epochs: int, ends: Mapping[str, Mapping] | None = None, theme: Theme = Theme()) -> dict:
    """Validation accuracy after every epoch, with a teacher and alone: points are dicts with `epoch` and `top1` (percent).

    `ends` are the metrics of what is measured to the end ("taught", "alone"): `top1`, `top1_low`, `top1_high`, `images`, drawn beyond the last epoch.
    """
    data = []
    for number, (key, name, points, look) in enumerate((
        ("alone", "Alone", alone, {"color": ALONE, "dash": "dash"}), ("taught", "With the teacher", taught, {"color": TAUGHT}),
    )):  # fmt: skip
        known = [point for point in points if point.get("top1") is not None]
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": name, "uid": key, "legendgroup": key,
            "x": [point["epoch"] for point in known], "y": [point["top1"] for point in known], "line": {"width": 2, **look},
            "marker": {"size": 5, "symbol": "circle" if key == "taught" else "diamond", "color": look["color"]},
            "hovertemplate": f"{name}, epoch %{{x}}: %{{y:.2f}} %<extra></extra>",
        })  # fmt: skip
        end = (ends or {}).get(key)
        if end:
            said = f"{name}: {end['top1']:.2f} % ({end['top1_low']:.2f}…{end['top1_high']:.2f}), n = {end['images']:,}"
            data.append({
                "type": "scatter", "mode": "markers", "name": f"{name}, whole split", "uid": f"{key}-end", "legendgroup": key, "showlegend": False,
                "x": [epochs * (1.035 + 0.035 * number)], "y": [end["top1"]], "text": [said], "hovertemplate": "%{text}<extra></extra>",
                "error_y": _error([end["top1_high"] - end["top1"]], [end["top1"] - end["top1_low"]], look["color"]),
                "marker": {"size": 9, "symbol": "circle" if key == "taught" else "diamond", "color": look["color"]},
            })  # fmt: skip
    layout = _layout("learning", theme, {"title": {"text": "Epoch", "standoff": 6}, "range": [0, 1.09 * epochs]})
    tops = [top1 for trace in data for top1 in trace["y"]] or [0.0, 100.0]
    high = max(tops)
    layout["yaxis"] |= {"title": {"text": "Validation top-1", "standoff": 6}, "range": [max(min(tops), high - BELOW_BEST) - 1.5, high + 1.5]}
    return {"data": data, "layout": layout}


def over_temperature(curve: Curve, at: float | None = None, theme: Theme = Theme()) -> dict:
    """Accuracy over the temperature: every seed a point, their mean a line with bars from the lowest to the highest, the student alone a band.

    `at` is the temperature at hand. The points' ids are "temperature/seed", those of the means "temperature".
    """
    data = []
    alone = curve.spread(None)
    low, high = TEMPERATURES[0] / 1.3, TEMPERATURES[-1] * 1.3
    if alone:
        data += _band(alone, low, high)
    spreads = {temperature: curve.spread(temperature) for temperature in sorted(curve.taught)}
    if spreads:
        of = list(spreads.values())
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": "With the teacher, mean", "uid": "mean", "x": list(spreads), "y": [each.mean for each in of],
            "line": {"color": TAUGHT, "width": 2}, "marker": {"size": 9, "color": TAUGHT},
            "error_y": _error([each.high - each.mean for each in of], [each.mean - each.low for each in of], TAUGHT),
            "customdata": [[f"{temperature:g}"] for temperature in spreads],
            "text": [_words(f"Temperature {temperature:g}", each) for temperature, each in spreads.items()], "hovertemplate": "%{text}<extra></extra>",
        })  # fmt: skip
        seeds = [(temperature, seed, top1) for temperature, found in sorted(curve.taught.items()) for seed, top1 in sorted(found.items())]
        data.append({
            "type": "scatter", "mode": "markers", "name": "each seed", "uid": "seeds", "x": [temperature for temperature, _, _ in seeds],
            "y": [top1 for _, _, top1 in seeds], "customdata": [[f"{temperature:g}/{seed}"] for temperature, seed, _ in seeds],
            "text": [f"Temperature {temperature:g}, seed {seed}: {top1:.2f} %" for temperature, seed, top1 in seeds],
            "hovertemplate": "%{text}<br>Click to look at this run<extra></extra>",
            "marker": {"size": 7, "symbol": "circle-open", "color": theme.ink, "line": {"width": 1.2, "color": theme.ink}},
        })  # fmt: skip
    layout = _layout("temperature", theme, {
        "type": "log", "title": {"text": "Temperature, log scale", "standoff": 6}, "tickmode": "array", "tickvals": list(TEMPERATURES),
        "ticktext": [f"{temperature:g}" for temperature in TEMPERATURES], "range": [math.log10(low), math.log10(high)],
    })  # fmt: skip
    layout["yaxis"] |= {"title": {"text": "Top-1 accuracy", "standoff": 6}, "range": _range(curve)}
    if at is not None:
        layout["shapes"] = [{"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": theme.muted, "width": 1, "dash": "dot"}}]
    return {"data": data, "layout": layout}


def _band(alone: Spread, low: float, high: float) -> list[dict]:
    """The student alone: from the lowest to the highest seed, and a line at the mean."""
    said = _words("Alone", alone)
    edge = {"type": "scatter", "mode": "lines", "x": [low, high], "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
    return [
        edge | {"name": "Alone, highest", "uid": "alone-high", "y": [alone.high] * 2},
        edge | {"name": "Alone, lowest", "uid": "alone-low", "y": [alone.low] * 2, "fill": "tonexty", "fillcolor": "rgba(213,94,0,0.16)"},
        {
            "type": "scatter", "mode": "lines", "name": "Alone, mean and range", "uid": "alone", "x": [low, high], "y": [alone.mean] * 2,
            "line": {"color": ALONE, "width": 2, "dash": "dash"}, "text": [said, said], "customdata": [["alone"]] * 2,
            "hovertemplate": "%{text}<extra></extra>",
        },
    ]  # fmt: skip


def _words(name: str, spread: Spread) -> str:
    return f"{name}: {spread.mean:.2f} % ({spread.low:.2f}…{spread.high:.2f}, {spread.count} seed{'s' if spread.count > 1 else ''})"


def _error(up: list[float], down: list[float], colour: str) -> dict:
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.4, "width": 5, "color": colour, "visible": True}


def _range(curve: Curve) -> list[float]:
    """Just around everything that is measured."""
    values = [value for seeds in (curve.alone, *curve.taught.values()) for value in seeds.values()]
    if not values:
        return [0.0, 100.0]
    low, high = min(values), max(values)
    pad = max(0.15, 0.08 * (high - low))
    return [low - pad, min(100.5, high + pad)]


def _layout(name: str, theme: Theme, xaxis: dict) -> dict:
    line = {"gridcolor": theme.grid, "zeroline": False, "linecolor": theme.grid, "automargin": True}
    return {
        "uirevision": name, "hovermode": "closest", "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": theme.ink, "size": 12}, "margin": {"l": 50, "r": 10, "t": 34, "b": 38},
        "xaxis": {**line, **xaxis}, "yaxis": {**line, "ticksuffix": " %"},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "font": {"size": 11.5}, "itemsizing": "constant"},
        "hoverlabel": {"align": "left", "bgcolor": theme.paper, "bordercolor": theme.grid, "font": {"color": theme.ink, "size": 12}},
    }  # fmt: skip
