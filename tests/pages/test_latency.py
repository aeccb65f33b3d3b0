"""The Latency page without a browser: one run is measured after the other, and what is drawn of them."""

from __future__ import annotations

import json

import pytest
from streamlit.testing.v1 import AppTest

from core.keeping import kept
from core.machine import machine
from core.metrics.latency import EAGER, FLOAT32, INT8
from core.recipe import Recipe
from core.runtimes.timed import RUNTIMES
from core.timing.timings import Timings
from core.work import Work
from pages.ui import timed_at
from pages.ui.timed_at import TimedAt
from tests.pages.conftest import BITS, PRUNE, REPAIR
from tests.pages.test_explorer import DASHBOARD, asked_for, components, markup

AT_HAND, PINNED = [{"step": "channel_prune", "sparsity": 0.5}], [PRUNE, BITS, REPAIR]


def asked(steps: list[dict], **settings) -> Timings:
    return Timings(Work("resnet18", "fashion_mnist", Recipe.from_json({"steps": steps})), **settings)


def measured(steps: list[dict], ratio: float = 1.0, **settings) -> dict:
    question = asked(steps, **settings)
    times = {"ms_p10": 0.9, "ms_p50": 1.0, "ms_p90": 1.25, "blocks": [[1.0, 2.0]] * 15, "threads": question.threads, "batch": question.batch}
    cell = times | {"ratio": ratio, "ratio_low": ratio - 0.02 * (ratio != 1), "ratio_high": ratio + 0.02 * (ratio != 1)}
    cells = {FLOAT32: cell | {"runtime": FLOAT32}, INT8: {"runtime": INT8, "refused": "int8 files need <8-bit> weights."}, EAGER: cell | {"runtime": EAGER}}
    profile = [{"operator": "Conv", "calls": 20, "ms": 1.0, "share": 0.9}]
    return question.work.to_json() | {"cells": cells, "operators": {FLOAT32: profile}, "base_operators": {FLOAT32: profile}, "macs": 40, "base_macs": 100}


def keep(steps: list[dict], found: dict, **settings) -> None:
    kept.put("layers", f"{asked(steps, **settings).identity()}.json", json.dumps(found).encode())


def open_page(**query) -> AppTest:
    page = AppTest.from_file(DASHBOARD, default_timeout=60)
    page.switch_page("pages/5_Latency.py")
    for name, value in ({"step": ["channel_prune~sparsity~0.5"]} | query).items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    return page


def test_one_run_is_measured_after_the_other(notes):
    page = open_page()
    assert [each for each in notes.asked if each[0] == "examine"] == [("examine", "timings", "timings")]
    assert list(notes.examining) == [asked([]).identity()] and page.button(key="cancel-latency")
    notes.examining.clear()
    keep([], measured([]))
    page.run()
    assert list(notes.examining) == [asked(AT_HAND).identity()] and "…" in markup(page)


def test_the_runs_their_ratios_and_why(notes):
    keep([], measured([]))
    keep(PINNED, measured(PINNED))
    keep(AT_HAND, measured(AT_HAND, 0.4))
    page = open_page(pin=[f"resnet18/{Recipe.from_json({'steps': PINNED}).key()}"])
    assert not [each for each in notes.asked if each[0] == "examine"]
    boxes, operators = (json.loads(each["fixed"]) for each in components(page, "paretoscope_chart"))
    assert [trace["name"][:12] for trace in boxes["data"]] == ["Uncompressed", "A: Prune wei", "At hand: Pru"] and len(boxes["data"][0]["y"]) == 30
    assert [trace["x"] for trace in operators["data"]] == [[1.0], [1.0]]
    text = markup(page)
    assert "<b>0.40 ×</b> (0.38…0.42) faster" in text and "p50 1 ms beside 2<" in text and "not possible" in text
    assert text.count("<b>1.00 ×</b> the reference") == text.count("<b>1.00 ×</b> not distinguishable: the same graph") == 2
    assert f"measured on this machine’s CPU ({machine()['cpu']})" in text
    assert "The shapes are smaller: 40 % of the multiply-adds are left." in text and "need &lt;8-bit&gt; weights" in text and "<8-bit>" not in text


def test_what_was_timed_again_for_one_run_is_shown_of_all_that_have_its_graph(notes):
    """The uncompressed model was disturbed when it was timed; the run at hand has its graph, and was calm."""
    for steps, more in [([], {"measured_at": 1.0, "ms_p50": 2.28, "disturbed": True}), (PINNED, {"measured_at": 2.0, "ms_p50": 1.08})]:
        found = measured(steps)
        found["cells"][FLOAT32] |= {"signature": "g"} | more
        keep(steps, found)
    page = open_page(step=["magnitude_prune~sparsity~0.8", "quantize~weight_bits~4~clipping~mse", "calibrate_batchnorm"])
    text = markup(page)
    assert text.count("p50 1.08 ms") == 2 and "2.28" not in text and "disturbed" not in text
    assert not [button.key for button in page.button if button.key == "time-again"]


def test_what_was_timed_again_from_another_page_is_shown(notes):
    """A row of the book that is newer than the kept answer; those of another setting and of another graph are not."""
    for steps in ([], AT_HAND):
        found = measured(steps)
        found["cells"][FLOAT32] |= {"signature": "g" if not steps else "h", "measured_at": 1.0, "ms_p50": 2.28}
        keep(steps, found)
    for signature, batch, ms in (("g", 1, 1.08), ("g", 8, 7.77), ("other", 1, 9.99)):
        row = measured([])["cells"][FLOAT32] | {"signature": signature, "batch": batch, "ms_p50": ms, "measured_at": 2.0}
        graph = {"signature": signature, "baseline_signature": "g", "machine_id": machine()["id"], "runtime": FLOAT32, "threads": 1, "batch": batch}
        notes.store.add_latencies([graph | {"row": row, "measured_at": 2.0}])
    text = markup(open_page())
    assert text.count("p50 1.08 ms") == text.count("p50 2.28 ms") == 1 and "7.77" not in text and "9.99" not in text


def test_a_pinned_run_that_is_no_faster_says_why_below_its_row(notes):
    keep([], measured([]))
    keep(PINNED, measured(PINNED))
    keep(AT_HAND, measured(AT_HAND, 0.4))
    text = markup(open_page(pin=[f"resnet18/{Recipe.from_json({'steps': PINNED}).key()}"]))
    assert text.count('<tr class="why">') == 1
    assert "ONNX Runtime, float32; PyTorch, eager: The graph is the uncompressed model" in text.split('<tr class="why">')[1]


def test_another_setting_is_in_the_address_and_measured(notes):
    again = open_page(batch=["8"], threads=["all"])
    assert asked([], batch=8, threads=TimedAt(8, 0).thread_count).identity() in notes.examining
    assert asked_for(again, "batch") == ["8"] and asked_for(again, "threads") == ["all"]
    said: list[str] = []
    assert timed_at.decode({"batch": ["7"], "threads": ["all"]}, said) == TimedAt(1, 0)
    assert said == ["Latency cannot be shown for batch '7'; it takes one of 1, 8, 32."]
    assert timed_at.encode(TimedAt()) == {}


def test_litert_is_measured_when_it_is_asked_for(notes):
    everything = tuple(RUNTIMES)
    assert len(everything) == 5 and "LiteRT" not in markup(open_page())
    notes.examining.clear()
    page = open_page(litert=["yes"])
    assert list(notes.examining) == [asked([], runtimes=everything).identity()] and asked_for(page, "litert") == ["yes"]
    notes.examining.clear()
    for steps in ([], AT_HAND):
        found = measured(steps)
        for name in everything[3:]:
            found["cells"][name] = found["cells"][FLOAT32] | {"runtime": name, "ratio": 0.7, "ratio_low": 0.69, "ratio_high": 0.71}
        keep(steps, found, runtimes=everything)
    page = open_page(litert=["yes"])
    assert "<th>LiteRT, int8</th>" in markup(page) and "<b>0.70 ×</b>" in markup(page) and not notes.examining
    page.checkbox(key="timed_litert").uncheck().run()
    assert not page.exception and list(notes.examining) == [asked([]).identity()] and asked_for(page, "litert") == []


def test_what_was_disturbed_is_marked_and_measured_again(notes):
    found = measured([])
    found["cells"][FLOAT32]["disturbed"] = True
    keep([], found)
    at_hand = measured(AT_HAND, 0.4)
    at_hand["cells"][FLOAT32]["disturbed"] = True
    keep(AT_HAND, at_hand)
    page = open_page()
    assert "disturbed" in markup(page)
    page.button(key="time-again").click().run()
    assert not page.exception and list(notes.examining) == [asked([]).identity()] and page.button(key="cancel-latency")
    notes.examining.clear()
    keep([], measured([]))
    page.run()
    assert not page.exception and not page.error and list(notes.examining) == [asked(AT_HAND).identity()]
    assert [question.again for question in notes.questions] == [True, True]


def test_every_setting_of_the_run_at_hand_one_after_the_other(notes):
    for steps, ratio in (([], 1.0), (AT_HAND, 0.4)):
        keep(steps, measured(steps, ratio))
    page = open_page()
    assert page.button(key="time-everywhere").label.startswith("Every setting, ≈")
    page.button(key="time-everywhere").click().run()
    assert list(notes.examining) == [asked(AT_HAND, batch=8).identity()] and page.button(key="cancel-latency")


def test_a_run_whose_shapes_are_trained_waits_for_a_word(notes):
    keep([], measured([]))
    page = open_page(step=["finetune~epochs~5", "channel_prune~sparsity~0.5"])
    assert page.button(key="time-1").label.startswith("Train for its shapes, ≈") and not notes.examining


def test_what_is_missing_says_what_to_do(notes):
    assert "python -m core datasets --fetch cifar10" in open_page(data=["cifar10"]).info[0].value


@pytest.mark.parametrize("step", ["magnitude_prune~layers~nowhere"])
def test_a_recipe_that_cannot_be_is_said(notes, step):
    assert "layers cannot be 'nowhere'" in open_page(step=[step]).error[0].value
