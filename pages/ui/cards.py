"""The four cards and the baseline's line, as HTML: figures with their comparison, interval and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import streamlit as st

from core.studies.points import PREVIEW, bytes_words, count_words, how_timed, indistinct, signed


def cards(here: Mapping | None, baseline: Mapping | None, waiting: bool, stale: bool = False) -> None:
    """Accuracy, Download, Latency and MACs of the run at hand, each against the baseline; dimmed while they are of the one before."""
    here = here or {}
    st.html(f'<div class="cards{" stale" if stale else ""}">{_accuracy(here)}{_download(here, baseline)}{_latency(here, waiting)}{_macs(here, baseline)}</div>')


def baseline_line(baseline: Mapping | None, card: Mapping) -> str:
    """`Baseline ★ 92.06 % · 44.7 MB · 2.10 ms`, or what the checkpoint's own card says until that is measured."""
    if baseline is None:
        known = card.get("validation", {})
        return f'<span class="quiet">Baseline</span> ★ <b>{known["top1"]:.2f} %</b> <span class="quiet">by its card; measured here soon</span>' if known else ""
    parts = [f"<b>{baseline['top1']:.2f} %</b>", f"<b>{bytes_words(baseline['artifact_bytes'])}</b>"]
    if baseline.get("ms_p50") is not None:
        parts.append(f"<b>{baseline['ms_p50']:.2f} ms</b>")
    said = f"{baseline['split']}, n = {baseline['images']:,}"
    if baseline.get("ms_p50") is not None:
        said += " · latency of another machine" if baseline["elsewhere"] else " · this machine"
    return f'<span class="quiet">Baseline</span> ★ {" · ".join(parts)} <span class="quiet">{said}</span>'


def _card(title: str, value: str, change: str, foot: str, help: str, tone: str = "") -> str:
    return (
        f'<div class="card" title="{escape(help)}"><div class="card-title">{title}</div><div class="card-value">{value}</div>'
        f'<div class="card-change {tone}">{change}</div><div class="card-foot">{foot}</div></div>'
    )


def _how(here: Mapping, figure: str) -> str:
    return "preview" if here.get("state") == PREVIEW and figure == "top1" else here.get("provenance", {}).get(figure, "measured")


def _accuracy(here: Mapping) -> str:
    help = (
        "Share of pictures whose most probable class is right. The difference is paired: both models saw the same pictures. Intervals hold in 95 of 100 cases."
    )
    if here.get("top1") is None:
        return _card("Accuracy", "–", "", "", help)
    change, tone = "", ""
    if here.get("gained") is not None:
        same = indistinct(here, "gained_low", "gained_high", 0)
        tone = "" if same else "worse" if here["gained"] < 0 else "better"
        change = f"{signed(here['gained'])} points ({signed(here['gained_low'])}…{signed(here['gained_high'])})"
    foot = f"{_how(here, 'top1')} · {here['split']}, n = {here['images']:,}"
    return _card("Accuracy, top-1", f"{here['top1']:.2f} %", change, foot, help, tone)


def _download(here: Mapping, baseline: Mapping | None) -> str:
    help = "Bytes of the packed file with entropy coding. On paper: what the encodings need in theory. Runs as: the file that the runtime loads."
    if not here.get("artifact_bytes"):
        return _card("Download", "–", "", "", help)
    times = baseline["artifact_bytes"] / here["artifact_bytes"] if baseline else None
    same = times is not None and abs(times - 1) < 0.005
    change = "unchanged" if same else f"{times:.1f} × smaller" if times and times >= 1 else f"{1 / times:.2f} × larger" if times else ""
    foot = f"{_how(here, 'artifact_bytes')} · on paper {bytes_words(here['paper_bytes'])}"
    foot += f" · runs as {bytes_words(here['deployed_bytes'])}" if here.get("deployed_bytes") else ""
    return _card("Download", bytes_words(here["artifact_bytes"]), change, foot, help, "better" if times and times > 1.005 else "")


def _latency(here: Mapping, waiting: bool) -> str:
    help = "Median time for one picture on one thread, as a ratio to the baseline measured in alternation. p10 and p90 are the fast and slow tenths."
    if here.get("ratio") is None:
        return _card("Latency", "–", "is being measured" if waiting else "measured when the run is complete", "", help)
    same = indistinct(here, "ratio_low", "ratio_high", 1)
    change = "not distinguishable" if same else f"{here['ratio_low']:.2f}…{here['ratio_high']:.2f}"
    tone = "" if same else "better" if here["ratio"] < 1 else "worse"
    where = ("◇ " if here["elsewhere"] else "") + (how_timed(here) or "this machine")
    foot = f"{here['ms_p50']:.2f} ms ({here['ms_p10']:.2f}–{here['ms_p90']:.2f}) · {_runtime(here['runtime'])} · {where}"
    return _card("Latency", f"{here['ratio']:.2f} ×", change, foot, help, tone)


def _runtime(name: str) -> str:
    return {"onnxruntime-float32": "float32, CPU", "onnxruntime-int8": "int8, CPU", "pytorch-float32": "PyTorch, CPU"}.get(name, name)


def _macs(here: Mapping, baseline: Mapping | None) -> str:
    help = "Multiply-accumulate operations for one picture, counted on the model's real shapes. Zeros scattered among the weights do not lower them."
    if not here.get("macs"):
        return _card("MACs", "–", "", "", help)
    share = here["macs"] / baseline["macs"] if baseline and baseline.get("macs") else None
    change = "unchanged" if share is None or abs(share - 1) < 0.005 else f"{100 * (1 - share):.0f} % fewer"
    foot = f"{count_words(here['parameters'])} parameters, {count_words(here['nonzero'])} non-zero"
    return _card("MACs", count_words(here["macs"]), change, foot, help, "better" if share is not None and share < 0.995 else "")
