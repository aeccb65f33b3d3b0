"""The report of a study: one HTML file with its charts, that asks the network for nothing and prints well.

    page = html(study.of("resnet18", "fashion_mnist", Shelf.of(Store())), keys=["1f0c…"])

plotly.js is written into the file (the part in assets/plotly that draws two dimensions), and a content policy forbids everything else.
Called by `python -m core report` and the explorer. What `core.commands.report` prints is one run in a terminal. Imports no torch.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version

from core import ENGINE_VERSION, __version__, charts, zoo
from core.datasets import DATASETS
from core.home import ASSETS
from core.machine import machine
from core.models.importing import import_command
from core.recipe import Recipe
from core.runtimes.timed import RUNTIMES
from core.studies.axes import AXES
from core.studies.letters import LETTERS
from core.studies.points import bytes_words, count_words, indistinct, signed, times_words
from core.studies.study import Study, shell_command

PLOTLY, FILES = ASSETS / "plotly" / "plotly-cartesian.min.js", ASSETS / "report"
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
METHODS = (
    "<b>Accuracy</b> is top-1 with the 95 % Wilson interval, on the pictures of the split that is named with their number n. The change against the "
    "uncompressed model is <b>paired</b>: both answered the same pictures, and the interval is that of the difference. Recipes were chosen by looking at the "
    "validation split, which flatters them a little; figures of the test split are shown where they were measured.",
    "<b>Simulated</b> accuracy is of weights or activations that lie exactly on the recipe’s grid, computed in float32, because no common processor kernel "
    "computes on such grids. <b>Measured</b> accuracy needs no such reservation.",
    "<b>Size</b> is three figures. On paper: what the encodings need in theory, as papers count it. Download: the length of the real packed file, entropy "
    "coded, which reads back to the same weights bit for bit. Runs as: the ONNX file that the runtime loads. Every ratio is against 4 bytes a number.",
    "<b>Latency</b> is of one picture on one thread, in blocks that alternate with the uncompressed model’s, after warm-up, with nothing else computing. The "
    "ratio is the median of the paired ratios of block medians, with its 95 % bootstrap interval; it is “not distinguishable” when that contains 1. "
    "It belongs to a graph: zeros scattered among the weights and codes below 8 bits run on dense float32 kernels and make nothing faster.",
    "<b>The front</b> holds the runs that no other run equals or betters on both objectives while bettering one. Noise does not move it; intervals are shown.",
    "<b>Another machine</b> is said of a latency that was not measured on the machine below: its ratio can be compared with care, its milliseconds cannot.",
)  # fmt: skip


def html(study: Study, keys: Sequence[str] = (), now: datetime.datetime | None = None) -> str:
    """The whole file. `keys` choose runs that are shown in full; without any, it is those on the front. Raises `UnknownName` or `BadInput`."""
    chosen = study.choose(keys) if keys else study.front()
    now = now or datetime.datetime.now(datetime.UTC)
    title = f"{study.model} on {DATASETS.get(study.dataset).title}, compressed"
    body = "".join((
        _head(study, title, now), _charts(study, chosen), _table("The front", study.front(), "Runs on the front of accuracy and bytes to download."),
        _chosen(study, chosen, bool(keys)), _methods(), _machine(study), _table("All runs", study.rows, f"Every measured run of {study.model}, of this study."),
    ))  # fmt: skip
    read = lambda path: path.read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{read(FILES / "report.css")}</style></head>\n<body>{body}\n'
        f"<script>{read(PLOTLY)}</script>\n<script>{read(FILES / 'report.js')}</script>\n</body></html>\n"
    )


def _head(study: Study, title: str, now: datetime.datetime) -> str:
    base = study.baseline
    return (
        f"<h1>{escape(title)}</h1>"
        f'<p class="quiet">{len(study.rows)} measured runs, {now:%d %B %Y}. Accuracy on the {escape(base["split"])} split, n = {base["images"]:,}.</p>'
        f'<p class="lead">Uncompressed: {_accuracy(base)}, {bytes_words(base["artifact_bytes"])} to download, '
        f"{count_words(base['parameters'])} parameters, {count_words(base['macs'])} multiply-adds for a picture{_milliseconds(base)}.</p>"
    )


def _milliseconds(row: Mapping) -> str:
    if row["ms_p50"] is None:
        return ""
    where = ", another machine" if row["elsewhere"] else ""
    return f", {row['ms_p50']:.3g} ms (p10–p90 {row['ms_p10']:.3g}…{row['ms_p90']:.3g}) a picture, {escape(_runtime(row))}, one thread{where}"


def _runtime(row: Mapping) -> str:
    return RUNTIMES.get(row["runtime"]).title if row["runtime"] in RUNTIMES else row["runtime"]


def _charts(study: Study, chosen: Sequence[Mapping]) -> str:
    pins = list(chosen[: len(LETTERS)])
    found = [_figure(charts.figure(study.rows, baseline=study.baseline, pins=pins), "Accuracy over the bytes of the packed file. The line is the front.")]
    timed = [row for row in study.rows if row["ratio"]]
    if timed:
        caption = "Accuracy over latency as a ratio to the uncompressed model; left of the dotted line is faster. Diamonds: another machine’s latency."
        found.append(_figure(charts.figure(timed, x="ratio", baseline=study.baseline, pins=[row for row in pins if row["ratio"]]), caption))
    else:
        found.append("<p>No latency was measured yet.</p>")
    changed = [row for row in chosen if row["gained"] is not None]
    if changed:
        caption = f"Change of top-1 against the uncompressed model, paired, with its 95 % interval; {changed[0]['split']}, n = {changed[0]['images']:,}."
        found.append(_figure(changes(changed), caption, f"{4.5 + 1.9 * len(changed):g}rem"))
    return "<h2>What it costs and what it gains</h2>" + "".join(found)


def changes(rows: Sequence[Mapping], theme: charts.Theme = charts.Theme()) -> dict:
    """The paired change of top-1 of each row with its 95 % interval, one under the other; 0 is the uncompressed model."""
    names = [f"{LETTERS[at] if at < len(LETTERS) else at + 1}. {row['words']}" for at, row in enumerate(rows)]
    return {
        "data": [{
            "type": "scatter", "mode": "markers", "name": "Change of top-1", "x": [row["gained"] for row in rows], "y": names,
            "error_x": {
                "type": "data", "symmetric": False, "array": [row["gained_high"] - row["gained"] for row in rows],
                "arrayminus": [row["gained"] - row["gained_low"] for row in rows], "color": charts.FRONT, "thickness": 1.6, "width": 4,
            },
            "marker": {"size": 9, "color": charts.FRONT}, "hovertemplate": "%{y}: %{x:+.2f} points<extra></extra>",
        }],
        "layout": {
            "paper_bgcolor": theme.paper, "plot_bgcolor": theme.paper, "font": {"color": theme.ink, "size": 12}, "margin": {"l": 10, "r": 14, "t": 10, "b": 42},
            "xaxis": {"gridcolor": theme.grid, "zerolinecolor": theme.muted},
            "annotations": [{  # no title of the axis, whose middle may be too near the edge for it: names of runs are long
                "text": "Points of top-1 against the uncompressed model", "xref": "paper", "x": 1, "xanchor": "right", "yref": "paper", "y": 0,
                "yanchor": "top", "yshift": -20, "showarrow": False, "font": {"size": 13},
            }],
            "yaxis": {"type": "category", "range": [len(rows) - 0.5, -0.5], "automargin": True, "showgrid": False},
        },
    }  # fmt: skip


def _figure(figure: dict, caption: str, height: str = "") -> str:
    text = json.dumps(figure, separators=(",", ":")).replace("<", "\\u003c")  # so that no text of a figure ends the script
    low = f' low" style="height:{height}' if height else ""
    return f'<figure><script type="application/json">{text}</script><div class="chart{low}"></div><figcaption>{escape(caption)}</figcaption></figure>'


def _table(title: str, rows: Sequence[Mapping], said: str) -> str:
    head = ("Recipe", "Top-1", "Change, points", "Download", "Runs as", "On paper", "MACs", "Latency ratio")
    titles = "".join(f'<th class="number">{each}</th>' if number else f"<th>{each}</th>" for number, each in enumerate(head))
    lines = "".join(
        f"<tr><td>{escape(row['words'])}<small>{escape(row['key'])}</small></td>"
        + "".join(f'<td class="number">{cell}</td>' for cell in _cells(row)) + "</tr>"
        for row in sorted(rows, key=lambda row: row["artifact_bytes"])
    )  # fmt: skip
    return f"<h2>{escape(title)}</h2><p>{escape(said)}</p><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table>"


def _cells(row: Mapping) -> list[str]:
    how = row["provenance"].get("top1", "measured")
    top1 = f"{row['top1']:.2f} %<small>{row['top1_low']:.2f}…{row['top1_high']:.2f}, {escape(how)}</small>"
    gained = "–" if row["gained"] is None else f"{signed(row['gained'])}<small>{signed(row['gained_low'])}…{signed(row['gained_high'])}</small>"
    sizes = [bytes_words(row[name]) for name in ("artifact_bytes", "deployed_bytes", "paper_bytes")]
    return [top1, gained, *sizes, count_words(row["macs"]), _ratio(row)]


def _ratio(row: Mapping) -> str:
    if row["ratio"] is None:
        return "–"
    same = "not distinguishable" if indistinct(row, "ratio_low", "ratio_high", 1) else f"{row['ratio_low']:.2f}…{row['ratio_high']:.2f}"
    return f"{times_words(row['ratio'])}<small>{same}{', another machine' if row['elsewhere'] else ''}</small>"


def _chosen(study: Study, chosen: Sequence[Mapping], named: bool) -> str:
    title = "The chosen runs" if named else "The runs on the front, in full"
    return f"<h2>{title}</h2>" + "".join(_run(study, row, number) for number, row in enumerate(chosen))


def _run(study: Study, row: Mapping, number: int) -> str:
    recipe = Recipe.from_json(row["recipe"])
    badge = f'<span class="badge">{LETTERS[number]}</span>' if number < len(LETTERS) else ""
    facts = {"Accuracy": f"{_accuracy(row)}, {row['provenance'].get('top1', 'measured')}, {row['split']}, n = {row['images']:,}"}
    if row["gained"] is not None:
        span = f"({signed(row['gained_low'])}…{signed(row['gained_high'])}, paired)"
        facts["Change"] = f"{signed(row['gained'])} points {span}" + (", not distinguishable" if indistinct(row, "gained_low", "gained_high", 0) else "")
    confirmed = study.test.get(row["key"])
    if confirmed is not None:
        facts["On the test split"] = f"{_accuracy(confirmed)}, n = {confirmed['images']:,}"
    times = study.baseline["artifact_bytes"] / row["artifact_bytes"]
    facts |= {axis.title: axis.words(row[axis.name]) for axis in AXES.values() if row.get(axis.name) is not None and axis.name != "ratio"}
    facts["Download"] += f", {times:.1f} times smaller"
    if row["ratio"] is not None:
        same = "not distinguishable from 1, " if indistinct(row, "ratio_low", "ratio_high", 1) else ""
        span = f"({same}{row['ratio_low']:.2f}…{row['ratio_high']:.2f})"
        where = ", another machine" if row["elsewhere"] else ""
        facts["Latency ratio"] = f"{times_words(row['ratio'])} {span}, {_runtime(row)}, one picture, one thread{where}"
    facts["Measured"] = ", ".join(filter(None, ((row["date"] or "")[:10], row["machine"])))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    notes = "".join(f"<p>{escape(note)}</p>" for note in row["notes"])
    command = escape("\n".join(filter(None, [import_command(study.model, study.dataset), shell_command(study.model, study.dataset, recipe)])))
    code = escape("\n".join(json.dumps(step) for step in recipe.shortest()["steps"]))
    head = f'<section class="run"><h3>{badge}{escape(row["words"])}</h3><dl>{listed}</dl>{notes}'
    return f"{head}<pre>{code}</pre><p>The same run again:</p><pre>{command}</pre></section>"


def _accuracy(row: Mapping) -> str:
    return f"{row['top1']:.2f} % ({row['top1_low']:.2f}…{row['top1_high']:.2f})"


def _methods() -> str:
    return "<h2>How it was measured</h2><ul>" + "".join(f"<li>{each}</li>" for each in METHODS) + "</ul>"


def _machine(study: Study) -> str:
    here, checkpoint = machine(), zoo.checkpoint(study.model, study.dataset)
    facts = {
        "Processor": f"{here['cpu']}, {here['cores']} cores, {here['memory_gb']} GB", "System": here["platform"],
        "Versions": f"Paretoscope {__version__} (engine {ENGINE_VERSION}), Python {here['python']}, torch {here['torch']}, "
        f"torchvision {version('torchvision')}, onnxruntime {here['onnxruntime']}",
        "Checkpoint": f"{study.model} on {checkpoint.family}, {checkpoint.hash}",
        "Data": f"{DATASETS.get(study.dataset).title} ({study.dataset})",
    }  # fmt: skip
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    return f"<h2>The machine and its versions</h2><p>Where this report was made. Each run names the machine that measured it.</p><dl>{listed}</dl>"
