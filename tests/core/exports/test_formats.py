"""Every format on the five-layer model: read back with libraries that nobody here wrote, held against the engine, kept, and refused where it must be."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import zipfile
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
import torchvision

from core import artifact, engine, exports
from core.datasets import load
from core.errors import BadInput
from core.exports import FORMATS, Export, formats, make
from core.exports import tflite as tflite_formats
from core.keeping import kept
from core.metrics.accuracy import wilson
from core.recipe import Recipe
from core.work import Work
from tests import five_layers

INT8 = {"step": "quantize", "weight_bits": 8, "activation_bits": 8}
RECIPES = {
    "baseline": [],
    "pruned": [{"step": "magnitude_prune", "sparsity": 0.5}, {"step": "quantize", "weight_bits": 4}],
    "int8": [INT8],
    "few-bit activations": [{"step": "quantize", "weight_bits": 4, "activation_bits": 5}],
    "dynamic": [{"step": "quantize", "weight_bits": 8, "activation_bits": 8, "activation_scale": "dynamic"}],
    "channels": [{"step": "channel_prune", "sparsity": 0.3}, {"step": "quantize", "weight_bits": 6}],
    "factors": [{"step": "factorize", "energy": 0.9}],
}
QUICK = [name for name in FORMATS if not name.startswith("tflite")]


@pytest.fixture(autouse=True)
def _checkpoint(five_layer_checkpoint):
    """Every test here exports from it."""


def asked(format: str, recipe: str = "int8") -> Export:
    return Export(Work(five_layers.NAME, "digits", Recipe.from_json({"steps": RECIPES[recipe]})), format)


@functools.cache
def measured(recipe: str) -> engine.Result:
    """What the engine measures of a recipe, once for all formats; shared, so that nobody may change it."""
    return engine.run(asked("artifact", recipe).work)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("format", ["artifact", "safetensors", "onnx", "onnx-fp16"])
def test_a_file_answers_as_the_engine_does(format, recipe):
    """Also what no kernel computes: rounded activations are in the file, so that it gives what was measured."""
    made = make(asked(format, recipe))
    predictions = measured(recipe).metrics
    record = made.record
    assert record.images == len(load("digits").split("validation")) and record.bytes == len(made.data)
    assert record.run_top1 == pytest.approx(predictions["top1"]) and record.agreement >= (0.97 if format == "onnx-fp16" else 0.999)
    right = round(record.top1 * record.images / 100)
    assert (record.top1_low, record.top1_high) == wilson(right, record.images)


def test_the_labels_of_the_run_are_what_a_file_is_held_against():
    work = asked("onnx").work
    result = engine.run(work)
    other = ((np.frombuffer(result.predicted, "<u2") + 1) % 10).astype("<u2").tobytes()
    assert make(asked("onnx"), predicted=result.predicted).record.agreement >= 0.999
    with pytest.raises(BadInput, match=r"ONNX, float32 file of this run is refused: ONNX Runtime gives \d+ of \d+ pictures another label than"):
        make(asked("onnx"), predicted=other)
    assert make(asked("onnx-fp16"), predicted=other).record.agreement < 0.1, "float16 changes answers, so it is shown and not refused"


def test_one_picture_of_a_thousand_may_have_another_label_and_not_one_more(monkeypatch):
    """1 − 0.999 is more than 0.001 in floating point, so that pictures are counted."""
    digits, work = load("digits"), asked("onnx", "baseline").work
    own, repeated = np.frombuffer(engine.run(work).predicted, "<u2"), np.arange(5000) % len(digits.split("validation"))

    class FiveThousand:
        source = digits.source

        def split(self, name):
            return SimpleNamespace(labels=digits.split(name).labels[repeated])

        def batches(self, split, size, _batch_size):
            pictures = digits.prepare(digits.split(split).images, size)
            return ((pictures[part], None) for part in np.split(repeated, 20))

    monkeypatch.setattr("core.datasets.load", lambda name: FiveThousand())
    for differing in (5, 6):
        expected = own[repeated].copy()
        expected[:differing] = (expected[:differing] + 1) % 10
        refused = pytest.raises(BadInput, match=r" gives 6 of 5,000 pictures another label than the engine, and at most 0\.1 % may differ; ")
        with contextlib.nullcontext() if differing == 5 else refused:
            assert make(asked("onnx", "baseline"), predicted=expected.astype("<u2").tobytes()).record.agreement == 0.999


def test_int8_carries_the_very_grids_of_the_recipe():
    data = make(asked("onnx-int8")).data
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    subject = engine.compress(asked("onnx-int8").work)
    for name, weight in subject.weights.items():
        np.testing.assert_array_equal(np.abs(stored[f"{name}.codes"]), np.abs(weight.grid.codes.numpy()))
    assert make(asked("onnx-int8")).record.agreement >= 0.999


def test_float16_halves_the_file_and_keeps_float32_at_both_ends():
    wide, narrow = make(asked("onnx", "baseline")).data, make(asked("onnx-fp16", "baseline")).data
    onnx.checker.check_model(onnx.load_from_string(narrow), full_check=True)
    session = onnxruntime.InferenceSession(narrow, providers=["CPUExecutionProvider"])
    assert [each.type for each in (*session.get_inputs(), *session.get_outputs())] == ["tensor(float)"] * 2
    assert {one.data_type for one in onnx.load_from_string(narrow).graph.initializer if len(one.dims) > 1} == {onnx.TensorProto.FLOAT16}
    assert len(narrow) < 0.7 * len(wide)


def test_a_vision_transformer_in_float16_is_opened_by_onnxruntime():
    """Whose optimizer ends the process over its transposes in float16."""
    torch.manual_seed(0)
    module = torchvision.models.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=10).eval()
    torch.nn.init.normal_(module.heads.head.weight)
    subject, x = SimpleNamespace(module=module, activations={}, architecture=SimpleNamespace(model="tiny", input_size=32)), torch.randn(5, 3, 32, 32)
    data = FORMATS.get("onnx-fp16").write(subject, formats.Around(asked("onnx").work, 32))
    with torch.inference_mode():
        np.testing.assert_allclose(FORMATS.get("onnx-fp16").load(data)(x), module(x).numpy(), atol=0.05)


def test_safetensors_load_into_the_network_that_they_came_from():
    data = make(asked("safetensors", "pruned")).data
    module = five_layers.FiveLayers()
    module.load_state_dict(safetensors.torch.load(data))
    subject = engine.compress(asked("safetensors", "pruned").work)
    for name, value in subject.module.state_dict().items():
        assert torch.equal(value, module.state_dict()[name])


def test_the_packed_file_is_the_one_that_was_measured():
    data = make(asked("artifact", "pruned")).data
    assert len(data) == engine.run(asked("artifact", "pruned").work).metrics["artifact_bytes"]
    assert artifact.describe(data)["recipe"] == Recipe.from_json({"steps": RECIPES["pruned"]}).shortest()


def test_exporting_changes_nothing():
    before = engine.run(asked("onnx-int8").work)
    for format in QUICK:
        make(asked(format))
    after = engine.run(asked("onnx-int8").work)
    assert before.metrics == after.metrics and before.predicted == after.predicted


def test_what_goes_with_a_file():
    made = make(asked("onnx", "pruned"))
    given = made.files("small.onnx")
    assert list(given) == ["small.onnx", "small.onnx.json", "small.onnx.md", "small.onnx.py", "small.onnx.check.py"]
    sheet, card = json.loads(given["small.onnx.json"]), given["small.onnx.md"].decode()
    assert sheet["classes"] == list(load("digits").source.classes) and sheet["run"] == made.record.identity
    for figure in (
        f"{made.record.top1:.2f} %",
        f"{made.record.bytes:,} bytes",
        made.record.sha256,
        f"n = {made.record.images:,}",
        "--format onnx --output small.onnx",
    ):
        assert figure in card
    with zipfile.ZipFile(io.BytesIO(made.packed("small.onnx"))) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == given
    assert made.packed("small.onnx") == made.packed("small.onnx"), "the same bytes every time"
    packed = make(asked("artifact")).files("small.psc")
    assert [*packed] == ["small.psc", "small.psc.json", "small.psc.md", "small.psc.py", "small.psc.check.py"]
    assert "--paretoscope FOLDER" in packed["small.psc.md"].decode()


def test_what_was_made_is_kept():
    question = asked("onnx", "channels")
    assert question.found() is None and question.recorded() is None
    made = make(question)
    kept.put(question.shelf, question.kept_as(), made.kept())
    assert question.found() == made and question.recorded() == made.record
    kept.path_of(question.shelf, question.kept_as()).write_bytes(b"damaged")
    assert question.found() is None and not kept.path_of(question.shelf, question.kept_as()).exists()


def test_identities_tell_formats_and_runs_apart():
    identities = {asked(format, recipe).identity() for format in FORMATS for recipe in ("int8", "pruned")}
    assert len(identities) == 2 * len(FORMATS)
    assert Export.from_json(asked("onnx").to_json()) == asked("onnx")
    limited = Work(five_layers.NAME, "digits", Recipe(), "test", 10)
    assert Export(limited, "onnx").work == Work(five_layers.NAME, "digits", Recipe(), latency=False), "always the whole validation split"


@pytest.mark.parametrize("format", ["onnx-int8", "tflite-int8"])
@pytest.mark.parametrize("recipe", ["baseline", "pruned", "few-bit activations", "dynamic"])
def test_int8_is_only_for_8_bit_grids(format, recipe):
    if FORMATS.get(format).missing():
        pytest.skip("LiteRT is not here")
    with pytest.raises(BadInput, match=rf"{format} takes recipes .* append quantize\(weight_bits=8, activation_bits=8\)"):
        asked(format, recipe).check()
    with pytest.raises(BadInput, match="int8 files"):
        make(asked(format, recipe))


def test_an_operator_that_onnx_lacks_is_one_sentence(monkeypatch):
    from core.runtimes import onnx as runtime

    def lacking(*_):
        raise torch.onnx.errors.UnsupportedOperatorError("aten::fft_rfft", 17, None)

    monkeypatch.setattr(runtime, "export_float32", lacking)
    with pytest.raises(BadInput, match=r"^five_layers cannot be written as ONNX: .*aten::fft_rfft.*; take safetensors instead\.$"):
        make(asked("onnx", "baseline"))


def test_an_operator_that_onnxruntime_lacks_is_one_sentence():
    from onnx import TensorProto, helper

    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("pictures", "logits")]
    graph = helper.make_graph([helper.make_node("Unheard", ["pictures"], ["logits"], domain="nowhere")], "one", shape[:1], shape[1:])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)], ir_version=8).SerializeToString()
    with pytest.raises(BadInput, match=r"^ONNX Runtime cannot run this file: .*Unheard.*; take safetensors instead\.$"):
        FORMATS.get("onnx").load(data)


def failing_graph() -> bytes:
    """An .onnx file that ONNX Runtime loads and cannot run: 7 numbers are to be made of a picture's."""
    from onnx import TensorProto, helper, numpy_helper

    pictures = helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    shape = numpy_helper.from_array(np.array([7], np.int64), "shape")
    graph = helper.make_graph([helper.make_node("Reshape", ["pictures", "shape"], ["logits"], "odd")], "one", [pictures], [logits], [shape])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_a_graph_that_fails_only_while_it_runs_is_one_sentence(monkeypatch):
    from core.metrics.latency import FLOAT32
    from core.runtimes import timed

    work = asked("onnx", "baseline").work
    answer = FORMATS.get("onnx").load(failing_graph())
    with pytest.raises(BadInput, match=r"^ONNX Runtime cannot run this file: [^:]*Reshape node; take safetensors instead\.$"):
        answer(torch.zeros(2, 3, 8, 8))
    monkeypatch.setattr(timed, "onnx_file", lambda *_: failing_graph())
    with pytest.raises(BadInput, match=r"^ONNX Runtime cannot run five_layers: [^:]*Reshape node\.$"):
        timed.RUNTIMES.get(FLOAT32).ready(engine.loaded(work.model, work.dataset, work.checkpoint.hash), 1, 1)


@pytest.mark.skipif(FORMATS.get("tflite").missing() is not None, reason="LiteRT is not here")
def test_an_operator_that_litert_lacks_is_one_sentence():
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    def made(kind, **facts):
        one = kind()
        vars(one).update(facts)
        return one

    custom = schema.BuiltinOperator.CUSTOM
    tensors = [made(schema.TensorT, name=name, shape=[1, 3], type=schema.TensorType.FLOAT32, buffer=0) for name in ("pictures", "logits")]
    graph = made(schema.SubGraphT, name="main", tensors=tensors, inputs=[0], outputs=[1], operators=[made(schema.OperatorT, inputs=[0], outputs=[1])])
    codes = [made(schema.OperatorCodeT, builtinCode=custom, deprecatedBuiltinCode=custom, customCode="Unheard", version=1)]
    data = flatbuffer_utils.convert_object_to_bytearray(made(schema.ModelT, version=3, operatorCodes=codes, subgraphs=[graph], buffers=[schema.BufferT()]))
    with pytest.raises(BadInput, match=r"^LiteRT cannot run this file: [^.]*Unheard; take ONNX instead\.$"):
        FORMATS.get("tflite").load(bytes(data))


def test_a_missing_runtime_is_one_sentence(monkeypatch):
    monkeypatch.setattr(exports.tflite.litert.importlib.util, "find_spec", lambda name: None)
    sentence = str(FORMATS.get("tflite").missing())
    assert sentence.startswith("TensorFlow Lite is not here: ") and "requirements-litert.txt" in sentence and sentence.count(". ") <= 1


@pytest.mark.slow
@pytest.mark.skipif(FORMATS.get("tflite").missing() is not None, reason="LiteRT is not here")
def test_a_converter_that_fails_is_one_sentence():
    around = formats.Around(asked("tflite").work, 32)
    with pytest.raises(BadInput, match=r"^five_layers cannot be converted to TensorFlow Lite: .*holds no graph.*; take ONNX instead\.$"):
        tflite_formats.converted(safetensors.torch.save({"a": torch.zeros(1)}), around, formats.FLOAT32)
