"""The Devices page without a browser: estimates of the run at hand, what is asked of the cluster, both forms; and the explorer's axes."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from core.keeping import kept
from core.recipe import Recipe
from core.studies import gallery
from core.targets import devices, graphs, measured_there
from core.targets.graphs import Graph, Operators
from core.targets.roofline import CONVOLUTION, LINEAR, Operator
from core.work import Work
from tests.core.targets.test_devices import PROFILE
from tests.pages.conftest import TRIED, shipped
from tests.pages.test_explorer import DASHBOARD, asked_for, components, figure, markup, trace
from tests.pages.test_explorer import open_page as open_explorer

GRAPH = Graph((Operator("conv", CONVOLUTION, 37_000_000, 100_000, 3000, 16_000), Operator("fc", LINEAR, 11_000_000, 11_000_000, 512, 10)), 20_000)
NEW = ["magnitude_prune~sparsity~0.7"]


@pytest.fixture
def graphed(notes, monkeypatch):
    """Shipped runs that say their graph."""
    graphs.keep(GRAPH)
    said = {"graph": GRAPH.key, "activation_bytes": GRAPH.activation_bytes}
    rows = [row | {"metrics": row["metrics"] | said, "baseline": row["baseline"] | said} for row in shipped()]
    monkeypatch.setattr(gallery, "runs", lambda: rows)
    return notes


def open_page(**query) -> AppTest:
    page = AppTest.from_file(DASHBOARD, default_timeout=60)
    page.switch_page("pages/6_Devices.py")
    for name, value in query.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    return page


def bars(page: AppTest) -> list[float]:
    traces = json.loads(components(page, "paretoscope_chart")[0]["fixed"])["data"]
    return [height for trace in traces for height in trace["y"]]


def test_the_run_at_hand_is_estimated_on_every_device(graphed):
    page = open_page()
    said = markup(page)
    assert not page.error and not graphed.asked
    assert "unvalidated on this device" in said and "median error" in said and "architectures held out" in said
    assert said.count("<tr") >= 1 + len(devices.devices()) and "does not fit" not in said
    assert "cannot run it" in said  # an accelerator without float32
    assert len(bars(page)) == 2 and "fits, " in said
    page.selectbox(key="device").select("rp2040").run()
    assert asked_for(page, "device") == ["rp2040"] and "has no float32 arithmetic" in markup(page) and "does not fit in" in markup(page)


def test_a_run_whose_operators_are_not_known_has_them_counted(graphed):
    page = open_page(step=NEW)
    assert graphed.asked == [("examine", "graph", "graph")] and "being counted" in page.caption[0].value
    asked = Operators(Work("resnet18", "fashion_mnist", Recipe.from_json({"steps": [{"step": "magnitude_prune", "sparsity": 0.7}]})))
    kept.put("layers", f"{asked.identity()}.json", json.dumps({"key": GRAPH.key} | GRAPH.to_json()).encode())
    page.run()
    assert len(bars(page)) == 2 and "weights alone, counted" in markup(page)


def test_latencies_measured_there_scale_the_estimate(graphed):
    page = open_page()
    before = sum(bars(page))
    line = {"device": "raspberry_pi_4", "runtime": "onnxruntime", "threads": 1, "batch": 1, "ms_p50": 2 * before}
    page.text_area(key="lines-given").input(json.dumps(line | {"key": "nobody"}))
    page.button[_place(page, "Keep")].click().run()
    assert "There is no run named 'nobody'" in page.error[0].value and measured_there.lines() == []
    page.text_area(key="lines-given").input(json.dumps(line | {"device": "my-pi", "run": shipped()[0]["identity"]}))  # as a script prints it
    page.button[_place(page, "Keep")].click().run()
    assert (
        not page.error
        and sum(bars(page)) == pytest.approx(2 * before)
        and "checked, × 2.00" in markup(page)
        and "float32, one thread · validated" in markup(page)
    )
    page.button[_place(page, "Forget the 1 of Raspberry Pi 4 Model B, 4 GB")].click().run()
    assert not page.error and sum(bars(page)) == pytest.approx(before) and measured_there.lines() == []


def test_a_float32_latency_does_not_validate_an_int8_run(graphed, monkeypatch):
    int8 = Graph(tuple(replace(each, int8=True) for each in GRAPH.operators), GRAPH.peak)
    graphs.keep(int8)
    runs = [{"identity": "float", "key": "float", "model": "resnet18", "metrics": {"graph": GRAPH.key}}]
    measured_there.add(json.dumps({"device": "raspberry_pi_4", "run": "float", "runtime": "onnxruntime", "ms_p50": 20.0}), runs)
    rows = [row | {"metrics": row["metrics"] | {"graph": int8.key}, "baseline": row["baseline"] | {"graph": int8.key}} for row in gallery.runs()]
    monkeypatch.setattr(gallery, "runs", lambda: rows)
    said = markup(open_page())
    assert "int8, one thread · unvalidated in int8" in said and "unvalidated in int8, × " in said and "checked, ×" not in said
    assert "in float32; int8 takes the same shares, which nothing here validates" in said


def test_a_device_of_ones_own_by_the_form(graphed):
    page = open_page()
    page.button[_place(page, "Add")].click().run()
    assert "name cannot be" in page.error[0].value
    for name, value in {
        "name": "mine",
        "title": "Mine",
        "processor": "a core",
        "how": "a data sheet",
        "source": "Sheet",
        "address": "https://example.org",
    }.items():
        page.text_input(key=f"profile-{name}").input(value)
    for name, value in {"clock": 1000.0, "float32": 8.0, "bandwidth": 4.0, "ram": 512.0, "flash": 1000.0}.items():
        page.number_input(key=f"profile-{name}").set_value(value)
    page.button[_place(page, "Add")].click().run()
    assert not page.error and devices.devices().get("mine").rates().operations == {"float32": 8e9}
    assert asked_for(page, "device") == ["mine"] and "Mine · yours" in markup(page)
    page.button[_place(page, "Remove this device")].click().run()
    assert not page.error and "mine" not in devices.devices() and "Mine · yours" not in markup(page)


def test_a_profile_as_a_file(graphed):
    page = open_page()
    page.file_uploader[0].upload("board.json", json.dumps(PROFILE).encode(), "application/json")
    page.button[_place(page, "Add")].click().run()
    assert not page.exception and not page.error and "My board was added." in page.success[0].value
    assert asked_for(page, "device") == ["my_board"] and "My board · yours" in markup(page)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "The profile 'board.json' is not JSON of at most 64,000 bytes; it takes a file like those of assets/devices."),
        (json.dumps(PROFILE | {"cores": 0}).encode(), "cores cannot be 0; it takes a whole number from 1 to 1,024."),
    ],
)
def test_a_broken_file_is_one_sentence(graphed, content, said):
    page = open_page()
    page.file_uploader[0].upload("board.json", content, "application/json")
    page.button[_place(page, "Add")].click().run()
    assert not page.exception and [error.value for error in page.error] == [said] and "my_board" not in devices.devices()


def test_weights_read_from_flash_are_read_at_its_bandwidth(graphed):
    page = open_page()
    for name, value in {"name": "mine", "title": "Mine", "processor": "a core", "how": "a sheet", "source": "Sheet", "address": "https://example.org"}.items():
        page.text_input(key=f"profile-{name}").input(value)
    for name, value in {"clock": 1000.0, "float32": 8.0, "bandwidth": 4.0, "ram": 512.0, "flash": 1000.0, "flash_bandwidth": -0.5}.items():
        page.number_input(key=f"profile-{name}").set_value(value)
    page.checkbox(key="profile-weights_in_flash").check()
    page.button[_place(page, "Add")].click().run()
    assert [error.value for error in page.error] == ["flash_bandwidth cannot be -500000000.0; it takes a number of bytes/s from 100000 to 1e+12."]
    page.number_input(key="profile-flash_bandwidth").set_value(0.5)
    page.button[_place(page, "Add")].click().run()
    assert not page.error and devices.devices().get("mine").rates().flash_bandwidth == 5e8


def _place(page: AppTest, label: str) -> int:
    return next(number for number, button in enumerate(page.button) if button.label == label)


@pytest.mark.parametrize(("word", "title"), [("activations", "Activations"), ("float32-latency", "ONNX float32 ratio"), ("device-latency", "On a device")])
def test_the_explorer_sets_accuracy_against_it(graphed, word, title):
    page = open_explorer(x=[word], step=["magnitude_prune~sparsity~0.8", "calibrate_batchnorm"])
    drawn = figure(page)
    assert drawn["layout"]["xaxis"]["title"]["text"].startswith(title)
    points = sum(len(each["x"]) for each in drawn["data"] if each.get("customdata") and each["mode"] == "markers" and "uid" in each)
    assert points >= len(TRIED) - 1 and trace(page, "here")["x"][0]
    if word == "device-latency":
        said = trace(page, "here")["text"][0]
        assert "Raspberry Pi 4" in drawn["layout"]["xaxis"]["title"]["text"] and "% on the host of its fit; unvalidated on this device" in said


def test_what_does_not_fit_the_device_is_drawn_and_is_not_on_the_front(graphed):
    query = {"x": ["device-latency"], "step": ["magnitude_prune~sparsity~0.8", "calibrate_batchnorm"]}
    fits, small = open_explorer(**query), open_explorer(device=["esp32"], **query)
    assert trace(fits, "front")["x"] and "Does not fit" not in trace(fits, "here")["text"][0]
    assert not trace(small, "front")["x"] and trace(small, "here")["x"][0]
    assert re.search(r"Does not fit its flash and RAM: [\d.]+ \w?B of [\d.]+ \w?B (flash|RAM)", trace(small, "here")["text"][0])


def test_a_profile_that_a_link_does_not_find_is_said(graphed):
    page = open_page(device="toaster")
    assert any("There is no device named 'toaster'" in warning.value for warning in page.warning) and PROFILE["name"] not in markup(page)
