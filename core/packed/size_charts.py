"""The figure of the page "Size": the bytes of each layer in the packed file, by kind.

What `core.packed.size_parts` measured goes in, a plotly figure as a plain dict comes out, as in `core.charts`. Imports neither plotly nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from core.charts import Theme, short, uid
from core.packed.size_parts import BATCH_NORM, BIASES, HEADER, KINDS, OTHERS
from core.studies.points import bytes_words

STYLES = {  # Okabe and Ito's colours, and a pattern each, so that no kind is told by its colour alone
    "values": ("#0072B2", ""), "positions": ("#E69F00", "/"), "codebooks": ("#CC79A7", "x"), "scales": ("#009E73", "."),
    BATCH_NORM: ("#56B4E9", "\\"), BIASES: ("#D55E00", "-"), OTHERS: ("#999999", "+"), HEADER: ("#666666", "|"),
}  # fmt: skip
TITLES = {
    "values": "Values", "positions": "Positions", "codebooks": "Codebooks", "scales": "Scales", BATCH_NORM: "Batch norm", BIASES: "Biases", OTHERS: "Others",
    HEADER: "Header",
}  # fmt: skip


def bars(found: Mapping, chosen: str | None = None, theme: Theme = Theme()) -> dict:
    """A bar a layer, from the first at the top to the last, then what belongs to none; `chosen` is a layer to frame. A tick is what paper says."""
    rows = [(entry["layer"], entry) for entry in found["layers"]] + [(row["title"], row) for row in found["rest"]]
    names = [name for name, _row in rows]
    data = []
    for kind in KINDS:
        counts = [row["file"].get(kind, 0) for _name, row in rows]
        if any(counts):
            colour, pattern = STYLES[kind]
            data.append({
                "type": "bar", "orientation": "h", "name": TITLES[kind], "uid": uid(kind), "y": names, "x": counts, "customdata": [[name] for name in names],
                "marker": {"color": colour, "line": {"width": 0}, "pattern": {"shape": pattern, "fillmode": "overlay", "fgcolor": theme.paper, "size": 6}},
                "text": [_words(name, row, kind) for name, row in rows], "textposition": "none", "hovertemplate": "%{text}<extra></extra>",
            })  # fmt: skip
    paper = [sum(row["paper"].values()) for _name, row in rows]
    data.append({
        "type": "scatter", "mode": "markers", "name": "On paper", "uid": "paper", "x": paper, "y": names, "customdata": [[name] for name in names],
        "marker": {"symbol": "line-ns", "size": 11, "line": {"width": 2, "color": theme.ink}},
        "text": [f"<b>{name}</b><br>{bytes_words(count)} on paper" for name, count in zip(names, paper)], "hovertemplate": "%{text}<extra></extra>",
    })  # fmt: skip
    frame = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "line": {"color": theme.ink, "width": 1.5}}
    at = names.index(chosen) if chosen in names else None
    return {
        "data": data,
        "layout": {
            "uirevision": f"{found['model']}-size", "barmode": "stack", "bargap": 0.18, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": theme.ink, "size": 11.5}, "margin": {"l": 10, "r": 10, "t": 30, "b": 40}, "hovermode": "closest",
            "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal", "font": {"size": 11}},
            "hoverlabel": {"align": "left", "bgcolor": theme.paper, "bordercolor": theme.grid, "font": {"color": theme.ink, "size": 12}},
            "xaxis": {
                "title": {"text": "Bytes in the packed file", "standoff": 6}, "rangemode": "tozero", "gridcolor": theme.grid, "zeroline": False,
                **_ticks(max(sum(row[told].values()) for _name, row in rows for told in ("file", "paper"))),
            },
            "yaxis": {
                "type": "category", "categoryarray": names, "range": [len(names) - 0.5, -0.5], "automargin": True, "showgrid": False, "ticks": "",
                "tickfont": {"size": 10.5},
            },
            "shapes": [] if at is None else [frame | {"y0": at - 0.5, "y1": at + 0.5}],
        },
    }  # fmt: skip


def _ticks(longest: float) -> dict:
    """At most six places from nothing to what is longest, in words: plotly's own leave no space before the unit."""
    steps = (digit * 10**decade for decade in range(12) for digit in (1, 2, 5))
    step = next(step for step in steps if longest <= 6 * step)
    places = range(0, int(longest) + 1, step)
    return {"tickmode": "array", "tickvals": [*places], "ticktext": [short(place, "B") if place else "0" for place in places]}


def _words(name: str, row: Mapping, kind: str) -> str:
    """What a part of a bar says when it is pointed at."""
    total = sum(row["file"].values())
    said = f"<b>{name}</b><br>{TITLES[kind]}: {row['file'].get(kind, 0):,} bytes of {total:,}; on paper {row['paper'].get(kind, 0):,.0f}"
    if row.get("numbers"):
        said += f"<br>{row['form']}, {row['nonzero']:,} of {row['numbers']:,} weights not zero, {8 * total / row['numbers']:.2f} bits a weight"
    return said
