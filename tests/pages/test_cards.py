"""The four cards: each figure beside its baseline's, the difference paired with its interval, and a preview called one."""

from __future__ import annotations

import re

import pytest

from pages.ui import cards
from tests.pages.conftest import preview
from tests.pages.test_explorer import markup, open_page

CARD = re.compile(
    r'<div class="card" title="(.+?)"><div class="card-title">(.*?)</div><div class="card-value">(.*?)</div>'
    r'<div class="card-change (.*?)">(.*?)</div><div class="card-foot">(.*?)</div></div>'
)


def read(html: str) -> dict[str, tuple[str, str, str, str]]:
    """Title → value, change, its tone, and the line below."""
    return {title: (value, change, tone, foot) for _help, title, value, tone, change, foot in CARD.findall(html)}


def test_a_measured_run_beside_its_baseline(notes):
    assert read(markup(open_page())) == {
        "Accuracy, top-1": ("89.00 %", "−3.00 points (−3.30…−2.70)", "worse", "measured · validation, n = 5,000"),
        "Download": ("2.79 MB", "16.0 × smaller", "better", "measured · on paper 2.71 MB · runs as 5.59 MB"),
        "Latency": ("1.00 ×", "not distinguishable", "", "2.10 ms (1.90–2.30) · float32, CPU · ◇ another machine"),
        "MACs": ("37.0 M", "unchanged", "", "11.0 M parameters, 2.20 M non-zero"),
    }


def test_the_baseline_differs_from_itself_by_nothing(notes):
    shown = read(markup(open_page(step=["none"])))
    assert shown["Accuracy, top-1"][:3] == ("92.00 %", "0.00 points (−0.30…+0.30)", "") and shown["Download"][:3] == ("44.7 MB", "unchanged", "")


def test_a_preview_says_so_and_has_no_latency(notes):
    seen = preview()
    seen["metrics"]["provenance"] = {"top1": "measured", "artifact_bytes": "estimated"}
    notes.answer = seen
    shown = read(markup(open_page(step=["magnitude_prune~sparsity~0.6"])))
    assert shown["Accuracy, top-1"] == ("89.00 %", "−3.00 points (−5.00…−1.00)", "worse", "preview · validation, n = 256")
    assert shown["Download"][3].startswith("estimated · ") and shown["Latency"] == ("–", "is being measured", "", "")


def test_figures_of_the_recipe_before_are_dimmed(notes):
    page = open_page()
    assert '<div class="cards">' in markup(page)
    notes.answer = None
    page.query_params["step"] = ["magnitude_prune~sparsity~0.97"]
    page.run()
    assert '<div class="cards stale">' in markup(page) and "89.00 %" in markup(page)


def test_nothing_measured_is_a_dash(notes):
    notes.answer = None
    assert {value for value, *_ in read(markup(open_page(step=["magnitude_prune~sparsity~0.97"]))).values()} == {"–"}


TIMED = {"ms_p10": 0.9, "ms_p50": 1.0, "ms_p90": 1.2, "runtime": "onnxruntime-int8", "elsewhere": False}


@pytest.mark.parametrize(
    ("ratio", "change", "tone"),
    [((0.52, 0.48, 0.55), "0.48…0.55", "better"), ((1.3, 1.2, 1.4), "1.20…1.40", "worse"), ((0.98, 0.95, 1.01), "not distinguishable", "")],
)
def test_latency_is_a_ratio_with_its_interval(ratio, change, tone):
    row = TIMED | dict(zip(("ratio", "ratio_low", "ratio_high"), ratio))
    assert read(cards._latency(row, False))["Latency"] == (f"{ratio[0]:.2f} ×", change, tone, "1.00 ms (0.90–1.20) · int8, CPU · this machine")


@pytest.mark.parametrize(("bytes_", "change", "tone"), [(500, "2.0 × smaller", "better"), (1250, "1.25 × larger", ""), (1004, "unchanged", "")])
def test_download_is_against_the_baseline(bytes_, change, tone):
    row = {"artifact_bytes": bytes_, "paper_bytes": 400, "deployed_bytes": None}
    assert read(cards._download(row, {"artifact_bytes": 1000}))["Download"][1:] == (change, tone, "measured · on paper 400 B")


@pytest.mark.parametrize(
    ("gained", "change", "tone"),
    [
        ((0.4, 0.1, 0.7), "+0.40 points (+0.10…+0.70)", "better"), ((-0.4, -0.7, -0.1), "−0.40 points (−0.70…−0.10)", "worse"),
        ((-0.1, -0.3, 0.1), "−0.10 points (−0.30…+0.10)", ""),
    ],
)  # fmt: skip
def test_the_difference_is_coloured_only_where_it_is_one(gained, change, tone):
    row = {"top1": 90.0, "split": "test", "images": 5000, "provenance": {"top1": "simulated"}} | dict(zip(("gained", "gained_low", "gained_high"), gained))
    assert read(cards._accuracy(row))["Accuracy, top-1"] == ("90.00 %", change, tone, "simulated · test, n = 5,000")


def test_fewer_macs_are_a_share():
    row = {"macs": 75, "parameters": 900, "nonzero": 900}
    assert read(cards._macs(row, {"macs": 100}))["MACs"][:3] == ("75", "25 % fewer", "better")
    assert read(cards._macs(row, {"macs": 75}))["MACs"][1:3] == ("unchanged", "")
