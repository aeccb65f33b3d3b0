"""A paper's figures and ours as table cells in words, and as a chart: what the command `papers` and the page Papers share.

Imports neither plotly nor torch.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from core.charts import Theme
from core.datasets import DATASETS
from core.papers.classics import ACCURACY, ERROR, Paper, Published
from core.papers.reproduced import Line, Standing
from core.studies.points import bytes_words, signed, times_words

PUBLISHED, OURS = "#D55E00", "#0072B2"  # Okabe and Ito's vermilion and blue


def table(standing: Standing, other: Standing | None = None) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of cells. Files are left out where neither the paper nor we tell a change of size; `other` is a second split's column."""
    titles = ["", "Published", f"Here, {standing.split}", f"Difference, {standing.split}"]
    if other:
        titles.append(f"Here, {other.split}")
    sized = any(line.row.published and line.row.published.kilobytes for line in standing.lines)
    rows = []
    for number, line in enumerate(standing.lines):
        cells = [line.row.title, published_words(standing.paper, line.row.published), ours_words(standing.paper, line), difference_words(standing, line)]
        if other:
            cells.append(ours_words(standing.paper, other.lines[number]))
        rows.append(cells + ([published_size(standing, line), our_size(line)] if sized else []))
    return titles + (["Published file", "Our file"] if sized else []), rows


def published_words(paper: Paper, published: Published | None) -> str:
    if published is None:
        return "–"
    if paper.counts == ACCURACY:
        return f"{published.top1:.2f} %"
    wrong = 100 - published.top1
    return f"{wrong:.2f} % wrong" if paper.counts == ERROR else f"{wrong * paper.pictures / 100:.0f} of {paper.pictures:,} wrong"


def ours_words(paper: Paper, line: Line) -> str:
    """Our figure as the paper counts, with its 95 % interval."""
    if line.result is None:
        return "not measured yet"
    found = line.result["metrics"]
    if paper.counts == ACCURACY:
        return f"{found['top1']:.2f} % ({found['top1_low']:.2f} … {found['top1_high']:.2f})"
    wrong, least, most = (100 - found[name] for name in ("top1", "top1_high", "top1_low"))
    if paper.counts == ERROR:
        return f"{wrong:.2f} % wrong ({least:.2f} … {most:.2f})"
    return "{:.0f} of {:,} wrong ({:.0f} … {:.0f})".format(*_pictures(found, wrong), *(_pictures(found, share)[0] for share in (least, most)))


def _pictures(metrics: Mapping, percent: float) -> tuple[float, int]:
    return percent * metrics["images"] / 100, metrics["images"]


def difference_words(standing: Standing, line: Line) -> str:
    """Our paired difference to the reference row, in points of accuracy."""
    if line.row.name == standing.paper.reference:
        return "reference"
    if line.difference is None:
        return "–"
    return f"{signed(line.difference['top1'])} ({signed(line.difference['low'])} … {signed(line.difference['high'])})"


def published_size(standing: Standing, line: Line) -> str:
    published, reference = line.row.published, standing.paper.row(standing.paper.reference).published
    if published is None or published.kilobytes is None:
        return "–"
    times = "" if published is reference else f" ({reference.kilobytes / published.kilobytes:.0f} ×)"
    return f"{published.kilobytes:,.0f} KB{times}"


def our_size(line: Line) -> str:
    """The packed file's bytes, and how many times they go into the model's float32 numbers."""
    if line.result is None:
        return "–"
    size, dense = line.result["metrics"]["artifact_bytes"], 4 * line.result["baseline"]["parameters"]
    return bytes_words(size) + (f" ({times_words(dense / size)})" if dense / size >= 1.005 else "")


def measured_words(standing: Standing) -> str:
    """Which data, how many pictures, when and on which machine: `Full Fashion-MNIST, test split, n = 5,000; 2026-11-22, Intel …`."""
    known = [line.result for line in standing.lines if line.result]
    title = DATASETS.get(standing.dataset).title
    if not known:
        return f"{title}, {standing.split} split: not measured yet"
    images = " or ".join(sorted({f"{run['metrics']['images']:,}" for run in known}))
    dates, machines = sorted({run["date"][:10] for run in known}), sorted({run["machine"]["cpu"] for run in known})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{title}, {standing.split} split, n = {images}; {when}, {', '.join(machines)}"


def figure(standing: Standing, theme: Theme = Theme()) -> dict:
    """Points of accuracy against the reference row, published and ours, as `{"data": [...], "layout": {...}}`.

    Levels of different data cannot be compared; what a method does to them can. Ours carry the 95 % interval of the paired difference.
    """
    paper, base = standing.paper, standing.paper.row(standing.paper.reference).published
    titles = [_wrapped(line.row.title, 12 if len(standing.lines) > 4 else 20) for line in standing.lines]
    published = [line.row.published.top1 - base.top1 if line.row.published else None for line in standing.lines]
    here = [_gained(standing, line) for line in standing.lines]
    mark = {"type": "scatter", "mode": "markers"}
    data = [
        mark | {
            "name": f"Published, {paper.published_on}", "uid": "published", "x": titles, "y": published,
            "marker": {"symbol": "square-open", "size": 11, "color": PUBLISHED, "line": {"width": 2}}, "hovertemplate": "%{x}: %{y:+.2f} points<extra></extra>",
        },
        mark | {
            "name": f"Here, {DATASETS.get(standing.dataset).title}", "uid": "ours", "x": titles, "y": [found and found["top1"] for found in here],
            "error_y": {
                "type": "data", "symmetric": False, "thickness": 1.5, "width": 5,
                "array": [found["high"] - found["top1"] if found else None for found in here],
                "arrayminus": [found["top1"] - found["low"] if found else None for found in here],
            },
            "marker": {"symbol": "circle", "size": 9, "color": OURS}, "hovertemplate": "%{x}: %{y:+.2f} points<extra></extra>",
        },
    ]  # fmt: skip
    line = {"gridcolor": theme.grid, "zeroline": False}
    return {
        "data": data,
        "layout": {
            "uirevision": paper.name, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": theme.ink, "size": 12},
            "margin": {"l": 58, "r": 12, "t": 34, "b": 44}, "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11.5}},
            "xaxis": {
                "type": "category", "categoryorder": "array", "categoryarray": titles, "range": [-0.5, len(titles) - 0.5], "tickangle": 0,
                "tickfont": {"size": 11}, **line,
            },
            "yaxis": {"title": {"text": "Accuracy, points"}, "zeroline": True, "zerolinecolor": theme.muted, "gridcolor": theme.grid},
            "hoverlabel": {"bgcolor": theme.paper, "bordercolor": theme.grid, "font": {"color": theme.ink, "size": 12}},
        },
    }  # fmt: skip


def _gained(standing: Standing, line: Line) -> Mapping | None:
    if line.row.name == standing.paper.reference:
        return {"top1": 0.0, "low": 0.0, "high": 0.0} if line.result else None
    return line.difference


def _wrapped(title: str, width: int) -> str:
    """A title in lines of about so many characters, so that it stands upright below its place."""
    return "<br>".join(textwrap.wrap(title, width, break_long_words=False, break_on_hyphens=False))
