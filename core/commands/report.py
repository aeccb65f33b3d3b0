"""A run as a person reads it in a terminal: before, after, and what that means. Imports no torch."""

from __future__ import annotations

from core.commands.terminal import bytes_text, count_text, seconds_text, table
from core.metrics.latency import verdict

SIZES = (("On paper", "paper_bytes"), ("Download", "artifact_bytes"), ("Runs as", "deployed_bytes"))
COUNTS = (("Parameters", "parameters"), ("Non-zero", "nonzero"), ("MACs", "macs"))


def report(result: dict) -> str:
    """The lines that `run` and `evaluate` print; without a baseline there is one column of figures."""
    metrics, before = result["metrics"], result.get("baseline")
    columns = [before, metrics] if before else [metrics]
    rows = [["", "before", "after", ""] if before else ["", "measured"]]
    rows.append(["Top-1", *(_accuracy(column) for column in columns), *([_change(result["difference"])] if before else [])])
    rows.append(["Top-5", *(f"{column['top5']:.2f} %" for column in columns), *([""] if before else [])])
    for title, field in COUNTS:
        rows.append([title, *(count_text(column[field]) for column in columns), *([_ratio(before[field], metrics[field], "fewer")] if before else [])])
    for title, field in SIZES:
        if any(column[field] is not None for column in columns):
            rows.append([title, *(bytes_text(column[field]) for column in columns), *([_ratio(before[field], metrics[field], "smaller")] if before else [])])
    rows += _latency_rows(before, metrics)
    steps = " → ".join(step["step"] for step in result["recipe"]["steps"]) or "no step"
    lines = [f"{result['model']} on {result['dataset']}, {result['split']}, n = {metrics['images']:,}: {steps}", "", table(rows)]
    simulated = sorted(field for field, how in metrics["provenance"].items() if how == "simulated")
    if simulated:
        lines += ["", f"Simulated, because no common kernel runs these grids: {', '.join(simulated)}."]
    lines += [*([""] if metrics["notes"] else []), *metrics["notes"], "", f"Done in {seconds_text(result['seconds']['total'])}."]
    return "\n".join(lines)


def _accuracy(metrics: dict) -> str:
    return f"{metrics['top1']:.2f} % ({metrics['top1_low']:.2f} … {metrics['top1_high']:.2f})"


def _change(difference: dict) -> str:
    return f"{_points(difference['top1'])} points ({_points(difference['low'])} … {_points(difference['high'])}, paired)"


def _points(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _ratio(before: int | None, after: int | None, word: str) -> str:
    if not before or not after:
        return ""
    return "the same" if before == after else f"{before / after:.2f} × {word}" if before > after else f"{after / before:.2f} × as much"


def _latency_rows(before: dict | None, metrics: dict) -> list[list[str]]:
    """One row a runtime; the baseline's times stand beside where the same runtime measured it."""
    known = {row["runtime"]: row for row in before["latencies"]} if before else {}
    rows = []
    for row in metrics["latencies"]:
        title = f"{row['runtime']}, CPU, {row['threads']} thread{'s' if row['threads'] > 1 else ''}, batch {row['batch']}"
        cells = [_times(row)]
        if before:
            cells = [_times(known[row["runtime"]]) if row["runtime"] in known else "–", *cells, _speed(row)]
        rows.append([title, *cells])
    return rows


def _times(row: dict) -> str:
    return f"{row['ms_p50']:.3g} ms ({row['ms_p10']:.3g} … {row['ms_p90']:.3g})"


def _speed(row: dict) -> str:
    return f"{row['ratio']:.2f} × the baseline's ({row['ratio_low']:.2f} … {row['ratio_high']:.2f}), {verdict(row)}"
