"""One run's latency in every runtime: real sessions on a tiny model, the book, what is refused, why, and the profile against ONNX Runtime's own file."""

from __future__ import annotations

import contextlib
import json
import time

import numpy as np
import onnx
import pytest
import torch

from core import engine
from core.errors import BadField, UnknownName
from core.metrics import latency
from core.metrics.latency import EAGER, FLOAT32, INT8, LITERT, LITERT_INT8
from core.models.architecture import Architecture
from core.recipe import Recipe
from core.runtimes import litert, timed
from core.timing import operators, timing_charts, timings
from core.timing.timings import Timings, reason
from core.weights import Compressed
from core.work import Work
from tests import five_layers

CHANNELS = {"step": "channel_prune", "sparsity": 0.5, "round_to": 1, "importance": "l2"}
INTEGERS = {"step": "quantize", "weight_bits": 8, "activation_bits": 8}
PRUNE = {"step": "magnitude_prune", "sparsity": 0.8}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Real sessions, short blocks."""
    for name, value in [("WARM_UP_SECONDS", 0.002), ("LEAST_BLOCKS", 3), ("TRIES", 1), ("RECENT_SECONDS", 600)]:
        monkeypatch.setattr(latency, name, value)
    monkeypatch.setattr(latency.measure, "__kwdefaults__", latency.measure.__kwdefaults__ | {"blocks": 3, "block_seconds": 0.002})
    monkeypatch.setattr(operators, "RUNS", 4)


def asked_for(*steps, **settings) -> Timings:
    return Timings(Work(five_layers.NAME, "digits", Recipe.from_json({"steps": list(steps)})), **settings)


def test_every_runtime_is_measured_beside_the_baseline_and_in_the_book(five_layer_checkpoint):
    book, entered, events = latency.Memory(), [], []

    @contextlib.contextmanager
    def exclusive():
        entered.append(True)
        yield None

    asked = asked_for(CHANNELS, INTEGERS, batch=8, runtimes=(FLOAT32, INT8, EAGER))
    found = timings.measure(asked, exclusive=exclusive, report=events.append, book=book)
    json.dumps(found)
    assert list(found["cells"]) == [FLOAT32, INT8, EAGER] and found["macs"] < found["base_macs"]
    for cell in found["cells"].values():
        assert cell["batch"] == 8 and len(cell["blocks"]) == 3 and cell["ratio_low"] <= cell["ratio"] <= cell["ratio_high"]
        pairs = np.array(cell["blocks"])
        assert cell["ratio"] == pytest.approx(float(np.median(pairs[:, 0] / pairs[:, 1])), rel=2e-3)
        assert cell["ms_p10"] <= cell["ms_p50"] <= cell["ms_p90"]
    assert [list(event["metrics"]["cells"]) for event in events[-3:]] == [[FLOAT32], [FLOAT32, INT8], [FLOAT32, INT8, EAGER]]
    assert len(entered) == 4  # three measurements, and the profiles in turns
    assert list(found["operators"]) == list(found["base_operators"]) == [INT8] and found["operators"][INT8] != found["base_operators"][INT8]
    again = timings.measure(asked, exclusive=exclusive, book=book)
    assert len(entered) == 4 + 1 and again["cells"] == found["cells"]  # profiles once more; what was disturbed just now would be again


def test_a_graph_of_its_own_is_the_baselines_and_int8_is_refused_with_the_reason(five_layer_checkpoint):
    found = timings.measure(asked_for(PRUNE))
    for name in (FLOAT32, EAGER):
        assert (found["cells"][name]["ratio"], found["cells"][name]["ratio_high"]) == (1.0, 1.0)
        assert reason(found, name) == "The graph is the uncompressed model's, so its latency is too: zeros scattered among the weights run on dense kernels."
    assert "quantize weights and activations to 8 bits" in reason(found, INT8) and INT8 not in found["operators"]
    assert found["operators"][FLOAT32] == found["base_operators"][FLOAT32], "one graph has one profile"


def test_an_operator_that_onnx_lacks_is_one_sentence_in_its_cell(five_layer_checkpoint, monkeypatch):
    class Unheard(five_layers.FiveLayers):
        def forward(self, x):
            return torch.special.bessel_j0(super().forward(x))

    unheard = Compressed.of(Unheard().eval(), Architecture(five_layers.NAME, 10, 32))
    monkeypatch.setattr(engine, "shaped", lambda *_: unheard)
    found = timings.measure(asked_for(CHANNELS, runtimes=(FLOAT32, EAGER)))
    refused = found["cells"][FLOAT32]["refused"]
    assert refused.startswith("five_layers cannot be written as ONNX: ") and "bessel_j0" in refused and "safetensors" not in refused
    assert found["cells"][EAGER]["ratio"] > 0 and not found["operators"]


def test_a_row_without_blocks_or_disturbed_is_measured_anew_only_where_they_are_wanted(five_layer_checkpoint):
    base = engine.loaded(five_layers.NAME, "digits", five_layer_checkpoint.hash)
    book = latency.Memory()
    signature = latency.signature(base, FLOAT32)
    for old in ({}, {"blocks": [[1, 1]], "disturbed": True}):
        book.add(signature, signature, {"runtime": FLOAT32, "threads": 1, "batch": 1, "ratio": 7.0} | old)
        assert latency.row(FLOAT32, base, base, book)["ratio"] == 7.0
        assert latency.row(FLOAT32, base, base, book, needs_blocks=True)["ratio"] == 1.0
    book.add(signature, signature, {"runtime": FLOAT32, "threads": 1, "batch": 1, "ratio": 7.0, "blocks": [], "disturbed": True, "measured_at": time.time()})
    assert latency.row(FLOAT32, base, base, book, needs_blocks=True)["ratio"] == 7.0  # just now: the load is still there
    assert latency.row(FLOAT32, base, base, book, needs_blocks=True, recent=0.0)["ratio"] == 1.0


def test_batches_and_threads_share_one_export_and_another_graph_has_its_own(five_layer_checkpoint, monkeypatch):
    from core.runtimes import onnx as runtime

    exports, export = [], runtime.export_float32
    monkeypatch.setattr(runtime, "export_float32", lambda *given: exports.append(given) or export(*given))
    subject = Compressed.of(five_layer_checkpoint.load(), Architecture(five_layers.NAME, 10, 32))
    files = [timed.onnx_file(subject, FLOAT32) for _ in range(3)]
    assert len(exports) == 1 and files[0] is files[2]
    fast, _bytes = timed.RUNTIMES.get(FLOAT32).ready(subject, 1, 32)
    assert fast()[0].shape == (32, 10) and len(exports) == 1
    assert timed.RUNTIMES.get(EAGER).ready(subject, 1, 8)[0]().shape == (8, 10)


@pytest.mark.slow
@pytest.mark.skipif(litert.missing() is not None, reason="LiteRT is not here")
def test_litert_is_measured_beside_the_baselines_own_file_which_is_made_once(five_layer_checkpoint, monkeypatch):
    from core.runtimes import tflite

    made, convert = [], tflite.converted
    monkeypatch.setattr(tflite, "converted", lambda *given: made.append(given[1]) or convert(*given))
    asked = asked_for(INTEGERS, runtimes=(LITERT, LITERT_INT8))
    found = timings.measure(asked)
    wide, narrow = found["cells"].values()
    base = engine.loaded(five_layers.NAME, "digits", five_layer_checkpoint.hash)
    assert wide["beside"] == [latency.signature(base, FLOAT32)] * 2 and narrow["beside"][0] != narrow["beside"][1] == wide["beside"][1]
    assert (wide["ratio"], wide["ratio_low"]) == (1.0, 1.0) and len(narrow["blocks"]) == 3 and narrow["file_bytes"] < wide["file_bytes"]
    assert sorted(made) == ["float32", "int8"] and not found["operators"]
    book = latency.Memory()
    book.add(wide["signature"], wide["signature"], wide | {"beside": ["of another version"] * 2})
    assert timings.measure(asked_for(runtimes=(LITERT,)), book=book)["cells"][LITERT]["beside"] == wide["beside"]
    assert book.find(wide["signature"], wide["signature"], LITERT)["beside"] == wide["beside"], "runs of this version find it"
    timed._FILES.clear()
    assert set(timings.measure(asked)["cells"]) == {LITERT, LITERT_INT8} and len(made) == 2


@pytest.mark.slow
@pytest.mark.skipif(litert.missing() is not None, reason="LiteRT is not here")
def test_litert_takes_as_many_pictures_a_pass_as_are_asked_for(five_layer_checkpoint):
    found = timings.measure(asked_for(INTEGERS, batch=8, runtimes=(LITERT, LITERT_INT8)))
    wide, narrow = found["cells"].values()
    assert wide["batch"] == narrow["batch"] == 8 and len(narrow["blocks"]) == 3 and narrow["file_bytes"] < wide["file_bytes"]
    subject = engine.shaped(asked_for(INTEGERS).work, engine.Hooks())
    (shape,) = (detail["shape"] for detail in litert.interpreter(timed.tflite_file(subject, LITERT_INT8, 8)).get_input_details())
    assert shape[0] == 8


def test_what_litert_cannot_do_is_one_sentence(five_layer_checkpoint, monkeypatch):
    if litert.missing() is None:
        refused = timings.measure(asked_for(PRUNE, runtimes=(LITERT_INT8,)))["cells"][LITERT_INT8]["refused"]
        assert "quantize weights and activations to 8 bits" in refused
    here = litert.missing() is None
    there = asked_for(runtimes=(LITERT,)).identity()
    monkeypatch.setattr(litert.importlib.util, "find_spec", lambda name: None)
    assert "requirements-litert.txt" in timings.measure(asked_for(runtimes=(LITERT,)))["cells"][LITERT]["refused"]
    assert (asked_for(runtimes=(LITERT,)).identity() != there) == here, "asked again once it is installed"
    assert asked_for().runtimes == (FLOAT32, INT8, EAGER), "what takes no conversion"


def test_the_profile_names_the_operators_of_the_graph(five_layer_checkpoint, tmp_path):
    subject = engine.loaded(five_layers.NAME, "digits", five_layer_checkpoint.hash)
    session, feed = timed.profiled_session(subject, FLOAT32, 1, 1, str(tmp_path / "profile"))
    (found,) = operators.operators([session], feed)
    convolutions = sum(node.op_type == "Conv" for node in onnx.load_from_string(timed.onnx_file(subject, FLOAT32)).graph.node)
    by_name = {each["operator"]: each for each in found}
    assert sum(each["calls"] for name, each in by_name.items() if "Conv" in name) == convolutions == 4
    assert sum(each["share"] for each in found) == pytest.approx(1) and list(tmp_path.iterdir()) == []


def test_sessions_are_profiled_in_blocks_that_take_turns(tmp_path):
    class Session:
        def __init__(self, name: str):
            self.name = name

        def run(self, *_):
            order.append(self.name)

        def end_profiling(self) -> str:
            (tmp_path / self.name).write_text("[]")
            return str(tmp_path / self.name)

    order: list[str] = []
    assert operators.operators([Session("a"), Session("b")], {}, 25) == [[], []]
    assert order == (["a"] * 15 + ["b"] * 15) * 2 and list(tmp_path.iterdir()) == []


def test_a_profile_is_read_as_the_median_over_its_last_runs():
    node = lambda name, kind, dur: {"cat": "Node", "name": name, "dur": dur, "args": {"op_name": kind}}
    events = [{"cat": "Session", "name": "model_run", "dur": 99999}, node("a_fence_before", "Conv", 500)]
    for first, second, third in ((9000, 9000, 9000), (1000, 2000, 400), (1200, 2200, 400), (5000, 2100, 400)):
        events += [node("a_kernel_time", "Conv", first), node("b_kernel_time", "Conv", second), node("c_kernel_time", "Add", third)]
    conv, add = operators.read(events, 3)
    assert (conv["operator"], conv["calls"], conv["ms"]) == ("Conv", 2, pytest.approx(3.4)) and add["ms"] == pytest.approx(0.4)
    assert conv["share"] == pytest.approx(3.4 / 3.8)


def cell(ratio: float, low: float, high: float, **more) -> dict:
    times = {"ms_p10": 0.9, "ms_p50": 1.0, "ms_p90": 1.2, "blocks": [[1.0, 2.0], [1.1, 2.1]]}
    return {"runtime": FLOAT32, "threads": 1, "batch": 1, "ratio": ratio, "ratio_low": low, "ratio_high": high} | times | more


def of(steps: list[dict], runtime: str, figures: tuple, macs: int, **more) -> dict:
    return {"recipe": {"seed": 0, "steps": steps}, "cells": {runtime: cell(*figures)}, "macs": macs, "base_macs": 100, "batch": 1, "input_size": 32} | more


def profile(calls: int, operator: str = "Conv", runtime: str = FLOAT32) -> dict:
    return {runtime: [{"operator": operator, "calls": calls, "ms": 0.3, "share": 0.3}]}


FACTORIZE = {"step": "factorize"}
TOLD, NO_SPEED_UP, SLOWER = "the profile of its operators tells where the time goes", (1.0, 0.9, 1.1), (1.2, 1.1, 1.3)


@pytest.mark.parametrize(
    ("steps", "runtime", "figures", "macs", "said"),
    [
        ([CHANNELS], FLOAT32, (0.6, 0.5, 0.7), 40, "The shapes are smaller: 40 % of the multiply-adds are left."),
        ([FACTORIZE], FLOAT32, SLOWER, 60, "More layers in a row than before"),
        ([INTEGERS], INT8, (0.6, 0.5, 0.7), 100, "Real integer kernels: weights and activations are in 8 bits."),
        ([INTEGERS], INT8, NO_SPEED_UP, 100, "Integer kernels save no time here."),
        ([INTEGERS], FLOAT32, (1.0, 1.0, 1.0), 100, "what is stored in few bits is widened to float32"),
        ([], FLOAT32, (1.0, 1.0, 1.0), 100, "The graph is the uncompressed model's, so its latency is too."),
    ],
)
def test_why_is_a_sentence_of_what_was_measured(steps, runtime, figures, macs, said):
    assert said in reason(of(steps, runtime, figures, macs), runtime)


def test_a_cause_is_named_only_where_it_was_seen():
    assert "starting each operator" in reason(of([CHANNELS], FLOAT32, NO_SPEED_UP, 40), FLOAT32)
    for elsewhere in ({"batch": 8}, {"input_size": 224}):
        said = reason(of([CHANNELS], FLOAT32, NO_SPEED_UP, 40, **elsewhere), FLOAT32)
        assert said == "It computes 40 % of the multiply-adds, which makes no difference here that could be told from noise."
    assert TOLD in reason(of([CHANNELS], FLOAT32, NO_SPEED_UP, 40, batch=8, operators=profile(20)), FLOAT32)
    assert "More layers" not in reason(of([CHANNELS], FLOAT32, SLOWER, 40), FLOAT32)
    for calls, seen in ((30, True), (20, False)):
        said = reason(of([FACTORIZE], FLOAT32, SLOWER, 40, operators=profile(calls), base_operators=profile(20)), FLOAT32)
        assert ("More layers" in said, TOLD in said) == (seen, not seen)
    said = reason(of([INTEGERS], INT8, NO_SPEED_UP, 100, operators=profile(9, "QuantizeLinear", INT8)), INT8)
    assert "rounding between layers takes 30 % of the time" in said


def test_what_cannot_be_asked_is_one_sentence(five_layer_checkpoint):
    with pytest.raises(BadField, match="batch cannot be 0; it takes a whole number from 1 to 256"):
        asked_for(batch=0)
    with pytest.raises(BadField, match=r"threads cannot be 4096; it takes a whole number from 1 to .* the cores of this machine"):
        asked_for(threads=4096)
    with pytest.raises(UnknownName, match=f"no runtime named 'tensorrt'; it takes one of {FLOAT32}"):
        asked_for(runtimes=("tensorrt",))


def test_the_same_question_is_one_and_another_setting_another(five_layer_checkpoint):
    asked = asked_for(PRUNE, batch=8)
    assert Timings.from_json(json.loads(json.dumps(asked.to_json()))).identity() == asked.identity() != asked_for(PRUNE).identity()
    train = {"step": "finetune", "epochs": 1}
    assert not asked_for(train).trains and not asked_for(CHANNELS, train).trains and asked_for(train, CHANNELS).trains


def test_the_charts_draw_every_block_and_every_operator():
    found = {"cells": {FLOAT32: cell(0.5, 0.4, 0.6), INT8: {"runtime": INT8, "refused": "no"}, EAGER: cell(1.1, 0.9, 1.2, runtime=EAGER, disturbed=True)}}
    drawn = timing_charts.boxes([("Uncompressed", None), ("At hand", found)])
    (box,) = drawn["data"]
    assert not drawn["layout"]["annotations"] and "Boxes appear" in timing_charts.boxes([("Uncompressed", None)])["layout"]["annotations"][0]["text"]
    assert box["y"] == [1.0, 1.1, 1.0, 1.1], "as taken, while the uncompressed model's are not known"
    assert drawn["layout"]["xaxis"]["categoryarray"] == ["ONNX Runtime, float32", "PyTorch, eager"]
    assert "0.50 × the uncompressed model’s (0.40…0.60), faster" in box["hovertext"][0] and "disturbed" in box["hovertext"][3]
    profile = [{"operator": f"op{number}", "calls": 1, "ms": 10.0 - number, "share": 0.1} for number in range(10)]
    base, mine = timing_charts.operators([("Uncompressed", profile), ("At hand", profile[:1])])["data"]
    assert base["y"][-1] == "others" and sum(base["x"]) == pytest.approx(sum(each["ms"] for each in profile)) and mine["x"] == [10.0] + [0.0] * 7


def test_boxes_of_one_runtime_are_brought_to_one_pace():
    """The machine was twice as fast for the run's measurement as for the uncompressed model's own; the ratio is what both have in common."""
    base = {"cells": {FLOAT32: cell(1.0, 1.0, 1.0, ms_p50=4.0, blocks=[[4.0, 4.0], [4.2, 4.2]])}}
    run = {
        "cells": {
            FLOAT32: cell(0.5, 0.4, 0.6, blocks=[[1.0, 2.0], [1.2, 2.0], [2.0, 2.0]]),
            INT8: cell(0.25, 0.2, 0.3, runtime=INT8, blocks=[[0.5, 2.0], [0.5, 2.0]]),
        }
    }
    uncompressed, at_hand = timing_charts.boxes([("Uncompressed", base), ("At hand", run)])["data"]
    assert uncompressed["y"] == [4.0, 4.2] and at_hand["y"] == [2.0, 2.4, 4.0, 1.0, 1.0], "int8 beside the uncompressed model's float32"
    assert "p50 1 ms" in at_hand["hovertext"][0], "as it was taken"


def test_a_graph_of_several_runs_has_its_newest_measurement_in_all():
    old, new = (cell(1.0, 1.0, 1.0, signature="g", measured_at=at, ms_p50=ms) for at, ms in ((1.0, 2.3), (2.0, 1.1)))
    other, refused = cell(0.5, 0.4, 0.6, runtime=EAGER, signature="h", measured_at=3.0), {"runtime": INT8, "refused": "no"}
    earlier, later = {"cells": {FLOAT32: old | {"disturbed": True}, INT8: refused}, "macs": 1}, {"cells": {FLOAT32: new, EAGER: other}}
    first, nothing, last = timings.shared([earlier, None, later])
    assert first == {"cells": {FLOAT32: new, INT8: refused}, "macs": 1} and nothing is None and last["cells"] == {FLOAT32: new, EAGER: other}
    newest, without = other | {"measured_at": 4.0, "ms_p50": 9.0}, {name: value for name, value in new.items() if name != "blocks"} | {"measured_at": 9.0}
    (last,) = timings.shared([later], [newest, without])  # the book's
    assert last["cells"] == {FLOAT32: new, EAGER: newest}
