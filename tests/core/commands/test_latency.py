"""`python -m core latency` on a real tiny checkpoint: the table, JSON, the store, and every refusal."""

from __future__ import annotations

import json

import pytest

from core import engine, zoo
from core.__main__ import main
from core.machine import machine
from core.metrics import latency
from core.store import Store
from tests import five_layers


@pytest.fixture
def call(capsys, tmp_path, five_layer_checkpoint, monkeypatch):
    """Calls the command on the five-layer model with short blocks; returns (exit status, standard output, standard error)."""
    for name, value in [("WARM_UP_SECONDS", 0.002), ("LEAST_BLOCKS", 2), ("TRIES", 1)]:
        monkeypatch.setattr(latency, name, value)
    monkeypatch.setattr(latency.measure, "__kwdefaults__", latency.measure.__kwdefaults__ | {"blocks": 2, "block_seconds": 0.002})
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"steps": [{"step": "magnitude_prune", "sparsity": 0.8}]}))

    def run(*more) -> tuple[int, str, str]:
        status = main(["latency", "--model", five_layers.NAME, "--dataset", "digits", "--recipe", str(recipe), *(str(each) for each in more)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_a_table_with_reasons_and_operators(call):
    status, out, _err = call("--batch", 8, "--operators")
    assert status == 0 and "8 pictures a pass, 1 thread" in out and "1.000 ×" in out and "not distinguishable" in out and "not possible" in out
    assert "zeros scattered among the weights run on dense kernels" in out and "by its profiler" in out and "Conv" in out
    base = engine.loaded(five_layers.NAME, "digits", zoo.checkpoint(five_layers.NAME, "digits").hash)
    graph = latency.signature(base, latency.FLOAT32, 1, 8)
    store = Store()
    kept = store.latency(graph, graph, machine()["id"], latency.FLOAT32, 1, 8)
    store.close()
    assert kept["batch"] == 8 and kept["blocks"]  # where the explorer and the next run look first


def test_one_runtime_as_json_says_why(call):
    status, out, _err = call("--runtime", "onnxruntime-float32", "--json")
    found = json.loads(out)
    assert status == 0 and list(found["cells"]) == list(found["why"]) == ["onnxruntime-float32"] and found["cells"]["onnxruntime-float32"]["blocks"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--runtime", "tensorrt"), "There is no runtime named 'tensorrt'; it takes one of onnxruntime-float32, "),
        (("--batch", "many"), "batch cannot be 'many'; it takes a whole number from 1 to 256"),
        (("--threads", "1000"), "threads cannot be 1000; it takes a whole number from 1 to "),
        (("--recipe", "nowhere.json"), "'nowhere.json' cannot be read"),
    ],
)
def test_what_cannot_be_is_one_sentence(call, given, sentence):
    status, out, err = call(*given)
    assert (status, out) == (2, "") and sentence in err.splitlines()[-1] and len(err.splitlines()) == 1
