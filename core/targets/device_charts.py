"""The figure of the Devices page: an estimate's layers by their time, each in the colour of what bound it. Imports neither plotly nor torch."""

from __future__ import annotations

from core.charts import Theme, uid
from core.studies.points import ms_words
from core.targets.roofline import COMPUTE, MEMORY, OVERHEAD, Estimate

COLOURS = {COMPUTE: ("Arithmetic", "#0072B2", ""), MEMORY: ("Memory", "#E69F00", "/"), OVERHEAD: ("Starting operators", "#CC79A7", ".")}  # Okabe and Ito


def layers(found: Estimate, scale: float = 1.0, theme: Theme = Theme()) -> dict:
    """One bar a layer in the order in which they run, in milliseconds, as `{"data": [...], "layout": {...}}`; `scale` is the device's own factor."""
    names = [share.layer or "(network)" for share in found.layers]
    data = []
    for bound, (title, colour, shape) in COLOURS.items():
        at = [number for number, share in enumerate(found.layers) if share.bound == bound]
        times = [1000 * scale * found.layers[number].seconds for number in at]
        whole = 1000 * scale * found.seconds
        data.append({
            "type": "bar", "name": f"{title}, {100 * sum(times) / whole:.0f} %", "uid": uid(title), "x": at, "y": times,
            "marker": {"color": colour, "pattern": {"shape": shape, "size": 4, "solidity": 0.25}},
            "text": [f"<b>{names[number]}</b><br>{ms_words(time)}, {100 * time / whole:.1f} %, bound by {bound}" for number, time in zip(at, times)],
            "hovertemplate": "%{text}<extra></extra>", "textposition": "none",
        })  # fmt: skip
    line = {"gridcolor": theme.grid, "zeroline": False, "linecolor": theme.grid}
    step = max(1, round(len(names) / 12))
    return {
        "data": data,
        "layout": {
            "uirevision": "devices", "barmode": "stack", "bargap": 0.15, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": theme.ink, "size": 12}, "margin": {"l": 52, "r": 10, "t": 34, "b": 40},
            "xaxis": {
                "tickmode": "array", "tickvals": list(range(0, len(names), step)), "ticktext": names[::step], "tickfont": {"size": 10}, "showgrid": False,
                "automargin": True, "range": [-0.6, len(names) - 0.4], **line,
            },
            "yaxis": {"title": {"text": "Estimated ms", "standoff": 6}, "rangemode": "tozero", "automargin": True, **line},
            "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "font": {"size": 11.5}},
            "hoverlabel": {"align": "left", "bgcolor": theme.paper, "bordercolor": theme.grid, "font": {"color": theme.ink, "size": 12}},
        },
    }  # fmt: skip
