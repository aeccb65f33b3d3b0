"""Latencies brought back from devices: which lines are kept, what they make of an estimate, what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from core import exports
from core.errors import BadInput
from core.targets import estimates, graphs, measured_there
from core.targets.calibration import current
from core.targets.devices import devices
from core.targets.graphs import Graph
from core.targets.roofline import CONVOLUTION, Operator

GRAPH = Graph((Operator("conv", CONVOLUTION, 10_000_000, 10_000, 3000, 3000),), 6000)
OTHER = Graph((Operator("conv", CONVOLUTION, 40_000_000, 90_000, 9000, 3000),), 12000)
RUNS = [
    {"identity": "aaaa", "key": "k1", "model": "resnet18", "metrics": {"graph": GRAPH.key}},
    {"identity": "bbbb", "key": "k1", "model": "squeezenet1_1", "metrics": {"graph": OTHER.key}},
    {"identity": "cccc", "key": "k2", "model": "resnet18", "metrics": {"graph": "gone"}},
]


@pytest.fixture
def kept(home):
    graphs.keep(GRAPH)
    graphs.keep(OTHER)


def line(**changes) -> str:
    usual = {"device": "raspberry_pi_4", "runtime": "onnxruntime", "threads": 1, "batch": 1, "ms_p10": 9.0, "ms_p50": 10.0, "ms_p90": 11.0, "key": "aaaa"}
    return json.dumps({name: value for name, value in (usual | changes).items() if value is not None})


def test_a_disturbed_latency_counts_where_there_is_no_calm_one(kept):
    pi = devices().get("raspberry_pi_4")
    before = estimates.for_device(pi, GRAPH)
    measured_there.add(line(ms_p50=3 * before.ms, disturbed=True), RUNS)
    disturbed = measured_there.scale(pi, current().efficiency)
    assert disturbed.factor == pytest.approx(3) and disturbed.words().startswith(
        "scaled by 3.00, fitted to one latency measured on this device in float32, disturbed"
    )
    measured_there.add(line(ms_p50=2 * before.ms, runtime="another"), RUNS)
    calm = measured_there.scale(pi, current().efficiency)
    assert calm.factor == pytest.approx(2) and calm.count == 1 and "disturbed" not in calm.words()
    measured_there.add(line(ms_p50=9 * before.ms, runtime="another", disturbed=True), RUNS)  # takes the place of no calm one
    assert measured_there.scale(pi, current().efficiency).factor == pytest.approx(2)


def test_one_latency_scales_the_estimates_of_its_device_alone(kept):
    pi, phone = devices().get("raspberry_pi_4"), devices().get("phone_flagship")
    before = estimates.for_device(pi, GRAPH)
    assert before.validated == "unvalidated on this device" and before.said.endswith("Unvalidated on this device.")
    measured_there.add(line(ms_p50=3 * before.ms), RUNS)
    after = estimates.for_device(pi, GRAPH)
    assert after.ms == pytest.approx(3 * before.ms) and after.scale.error is None and "one latency measured on this device" in after.said
    assert estimates.for_device(pi, OTHER).scale == after.scale
    assert estimates.for_device(phone, GRAPH).scale is None
    measured_there.add(line(ms_p50=2 * before.ms, key="resnet18/k1", runtime="onnxruntime"), RUNS)
    assert len(measured_there.lines()) == 2  # the same run by another of its names
    measured_there.add(line(ms_p50=4 * before.ms), RUNS)
    assert [entry["ms_p50"] for entry in measured_there.lines()] == [4 * before.ms, 2 * before.ms]
    assert measured_there.forget("phone_flagship") == 0 and measured_there.forget("raspberry_pi_4") == 2 and measured_there.lines() == []


@pytest.mark.parametrize("format", [name for name, format in exports.FORMATS.items() if not name.endswith("int8")])
def test_a_line_as_the_scripts_of_exports_print_it(kept, format):
    script = Path(exports.__file__).parent / "scripts" / exports.FORMATS.get(format).script
    (about,) = (line for line in script.read_text().splitlines() if line.startswith("ABOUT = "))
    values = {"device": "kitchen-pi", "run": "aaaa", "format": format, "runtime": "onnxruntime 1.31.1", "threads": 1, "batch": 1}
    printed = json.dumps({name: values[name] for name in re.findall(r'"(\w+)":', about)} | {"ms_p10": 9.0, "ms_p50": 10.0, "ms_p90": 11.0})
    with pytest.raises(BadInput, match="device of line 1 cannot be 'kitchen-pi'; "):
        measured_there.add(printed, RUNS)
    (kept_line,) = measured_there.add(printed, RUNS, "raspberry_pi_5")
    assert (kept_line["device"], kept_line["key"], kept_line["graph"]) == ("raspberry_pi_5", "aaaa", GRAPH.key)
    assert measured_there.add(line(), RUNS, "raspberry_pi_5")[0]["device"] == "raspberry_pi_4"  # a profile's own name goes first


def test_eager_pytorch_and_float16_scale_a_device_only_where_nothing_else_was_measured_there(kept):
    pi = devices().get("raspberry_pi_4")
    before = estimates.for_device(pi, GRAPH)
    measured_there.add(line(ms_p50=5 * before.ms, runtime="torch 2.14.1", format="safetensors"), RUNS)
    assert estimates.for_device(pi, GRAPH).ms == pytest.approx(5 * before.ms)
    measured_there.add(line(ms_p50=7 * before.ms, runtime="onnxruntime 1.31.1", format="onnx-fp16"), RUNS)
    assert estimates.for_device(pi, GRAPH).ms == pytest.approx(35**0.5 * before.ms)
    assert estimates.for_device(pi, GRAPH).scale.types == ("float16", "float32")
    measured_there.add(line(ms_p50=2 * before.ms, runtime="onnxruntime 1.31.1", format="onnx"), RUNS)
    assert estimates.for_device(pi, GRAPH).ms == pytest.approx(2 * before.ms) and len(measured_there.lines()) == 3


def test_the_float_file_of_an_int8_run_is_held_against_the_same_graph_in_float32(kept):
    pi, int8 = devices().get("raspberry_pi_4"), Graph(tuple(replace(each, int8=True) for each in GRAPH.operators), GRAPH.peak)
    graphs.keep(int8)
    runs = [{"identity": "dddd", "key": "k3", "model": "resnet18", "metrics": {"graph": int8.key}}]
    before = estimates.for_device(pi, GRAPH)
    (float_line,) = measured_there.add(line(key="dddd", format="onnx", ms_p50=2 * before.ms), runs)
    assert float_line["graph"] == int8.key and estimates.for_device(pi, GRAPH).ms == pytest.approx(2 * before.ms)
    borrowed = estimates.for_device(pi, int8)
    assert borrowed.scale.factor == pytest.approx(2) and not borrowed.checked and "int8 takes the same shares, which nothing here validates" in borrowed.said
    assert borrowed.said.endswith("Scaled by 2.00, fitted to one latency measured on this device in float32; unvalidated in int8.")
    (own_line,) = measured_there.add(line(key="dddd", format="onnx-int8"), runs)
    assert own_line["graph"] == int8.key and len(measured_there.lines()) == 2
    assert estimates.for_device(pi, int8).ms == pytest.approx(10) and estimates.for_device(pi, int8).validated.endswith("on this device in int8")
    assert estimates.for_device(pi, GRAPH).ms == pytest.approx(2 * before.ms) and estimates.for_device(pi, GRAPH).checked
    with pytest.raises(BadInput, match="has no float32 arithmetic"):
        measured_there.add(line(key="dddd", format="onnx", device="coral_edge_tpu"), runs)


def test_the_factor_and_its_error_by_hand():
    assert measured_there.scale_of([], []) is None
    found = measured_there.scale_of([1, 1, 1], [2, 3, 4])
    assert found.factor == pytest.approx(3) and found.count == 3
    # left out 2: sqrt(12) - 2 over 2; left out 3: sqrt(8) - 3 over 3; left out 4: sqrt(6) - 4 over 4
    assert found.error == pytest.approx(sorted([12**0.5 / 2 - 1, 1 - 8**0.5 / 3, 1 - 6**0.5 / 4])[1])
    assert "each held out in turn" in found.words()


def test_the_estimate_is_the_fits(kept):
    device = devices().get("raspberry_pi_5")
    answer = estimates.for_device(device, GRAPH, file_bytes=40_000)
    assert answer.ms == pytest.approx(1000 * answer.estimate.seconds) and answer.fit == current()
    assert [(limit.name, limit.needed) for limit in answer.limits] == [("flash", 40_000), ("RAM", 64_000)] or answer.limits[0].name == "RAM"
    assert f"{100 * answer.fit.error_of(128, 1000):.0f} % on larger ones" in answer.said
    told = answer.to_json()
    assert told["ms"] == answer.ms and sum(layer["ms"] for layer in told["layers"]) == pytest.approx(answer.ms)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "There are 0 lines; it takes 1 to 1,000"),
        ("ms", "Line 1 cannot be 'ms'; it takes a JSON object with device, run, runtime and ms_p50."),
        (line(key=None), "run of line 1 cannot be None; it takes a text of 1 to 100 characters."),
        (line(format="onnx-int8"), "Line 1 is of the onnx-int8 file, and the graph of run 'aaaa' is float32; it takes a run on 8-bit grids."),
        (line(format="gguf"), f"format of line 1 cannot be 'gguf'; it takes one of artifact, safetensors, onnx, {', '.join([*exports.FORMATS][3:])}."),
        (line(device="toaster"), "device of line 1 cannot be 'toaster'; it takes the name of a profile, or --device beside --measured, which says what it is."),
        (line(disturbed="yes"), "disturbed of line 1 cannot be 'yes'; it takes true or false."),
        (line(ms_p50=-1), "ms_p50 of line 1 cannot be -1; it takes milliseconds above 0, at most 10,000,000."),
        (line(ms_p50=10**400), "ms_p50 of line 1 cannot be 1000000000000000"),
        (line(ms_p50=float("inf")), "ms_p50 of line 1 cannot be inf; it takes milliseconds above 0, at most 10,000,000."),
        (line(ms_p50=None), "Line 1 has no ms_p50; it takes the median time for one picture in milliseconds."),
        (line(batch=8), "batch of line 1 cannot be 8; it takes 1, which is what estimates are for."),
        (line(key="zzzz"), "There is no run named 'zzzz'; "),
        (line(key="k1"), "The recipe 'k1' was run on resnet18, squeezenet1_1; it takes a field model beside the key that says which."),
        (line(key="k2"), "The graph of run 'k2' is not known here; "),
        (line(device="coral_edge_tpu"), "Coral Dev Board (Edge TPU) has no float32 arithmetic, which conv needs; "),
        (f"{line()}\n{line(runtime=3)}", "runtime of line 2 cannot be 3; it takes a text of 1 to 100 characters."),
    ],
)
def test_what_cannot_be_kept_is_said_and_nothing_is(kept, given, said):
    with pytest.raises(BadInput) as refused:
        measured_there.add(given, RUNS)
    assert str(refused.value).startswith(said) and measured_there.lines() == []
