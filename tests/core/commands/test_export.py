"""`python -m core export` on a real tiny checkpoint: both ways to name a run, what is written, what is kept, and every refusal."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from core import engine, zoo
from core.__main__ import main
from core.exports import export as exporting
from core.recipe import Recipe
from core.runtimes import litert
from core.store import COMPLETE, Store
from core.work import Work
from tests import five_layers

INT8 = {"steps": [{"step": "quantize", "weight_bits": 8, "activation_bits": 8}]}
PRUNED = {"steps": [{"step": "magnitude_prune", "sparsity": 0.37}]}


@pytest.fixture
def call(capsys, five_layer_checkpoint):
    """Calls the command; returns (exit status, standard output, standard error)."""

    def run(*given) -> tuple[int, str, str]:
        status = main(["export", *(str(each) for each in given)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def by_recipe(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(INT8))
    return ("--model", five_layers.NAME, "--dataset", "digits", "--recipe", tmp_path / "recipe.json")


def measured(recipe: dict) -> dict:
    """A complete run in the store."""
    work = Work(five_layers.NAME, "digits", Recipe.from_json(recipe), latency=False)
    result, store = engine.run(work), Store()
    store.complete(result.identity, result.to_json(), result.predicted, origin="here")
    store.close()
    return result.to_json()


def test_a_recipe_is_written_with_all_that_goes_with_it(call, by_recipe, tmp_path, monkeypatch):
    status, out, _err = call(*by_recipe, "--format", "onnx-int8", "--output", tmp_path / "small.onnx")
    assert status == 0 and out.startswith("five_layers on digits, ONNX, int8\n") and "the same label on 100.00 % of the pictures" in out
    suffixes = ("", ".json", ".md", ".py", ".check.py")
    assert all((tmp_path / f"small.onnx{suffix}").exists() for suffix in suffixes)
    monkeypatch.setattr(exporting, "make", lambda *_, **__: pytest.fail("made again"))
    status, out, _err = call(*by_recipe, "--format", "onnx-int8", "--output", tmp_path / "again.onnx", "--json")
    told = json.loads(out)
    assert status == 0 and told["format"] == "onnx-int8" and told["agreement"] >= 0.999 and len(told["files"]) == 5
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()


@pytest.mark.parametrize("format", ["onnx", "onnx-int8"])
def test_what_a_file_takes_on_a_device_is_taken_though_its_recipe_was_never_run_before(call, by_recipe, tmp_path, capsys, format):
    """Measured there by the script that goes with the file; a recipe that is exported becomes a run."""
    status, _out, err = call(*by_recipe, "--format", format, "--output", tmp_path / "small.onnx")
    assert status == 0, err
    command = [sys.executable, "small.onnx.py", "--time"]
    timed = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True, timeout=120, env={"PATH": os.environ["PATH"]})
    (tmp_path / "lines").write_text(timed.stdout)
    assert main(["devices", "--measured", str(tmp_path / "lines"), "--device", "raspberry_pi_5"]) == 0, capsys.readouterr().err
    assert "1 latency is kept, of raspberry_pi_5." in capsys.readouterr().err
    status, out, _err = call("--run", Work(five_layers.NAME, "digits", Recipe.from_json(INT8)).identity(), "--format", format, "--output", tmp_path / "x.onnx")
    assert status == 0 and out.startswith("five_layers on digits")


def test_a_run_is_named_by_its_identity_or_its_recipes_key(call, tmp_path):
    result = measured(PRUNED)
    for number, key in enumerate((result["identity"], result["key"])):
        status, out, err = call("--run", key, "--format", "safetensors", "--output", tmp_path / f"{number}.safetensors", "--json")
        assert status == 0, err
        told = json.loads(out)
        assert told["run_top1"] == pytest.approx(result["metrics"]["top1"]) and told["identity"] == result["identity"]


def test_a_run_over_fewer_pictures_or_another_split_is_exported_over_the_whole_validation_split(call, tmp_path):
    work = Work(five_layers.NAME, "digits", Recipe.from_json(PRUNED), latency=False)
    limited, tested = engine.run(dataclasses.replace(work, images=64)), engine.run(dataclasses.replace(work, split="test"))
    whole = measured(PRUNED)
    assert dataclasses.replace(work, images=1_000_000).identity() == work.identity() != limited.identity  # a limit beyond the split's end is none
    store = Store()
    for result in (limited, tested):
        store.complete(result.identity, result.to_json(), result.predicted, origin="here")
    store.close()
    for number, key in enumerate((limited.identity, tested.identity, whole["key"])):
        status, out, err = call("--run", key, "--format", "safetensors", "--output", tmp_path / f"{number}.safetensors", "--json")
        assert status == 0, err
        assert json.loads(out)["identity"] == whole["identity"]


def test_exporting_a_run_over_fewer_pictures_makes_one_over_all_of_them(call, tmp_path):
    """Which the line of its script names."""
    limited, store = engine.run(Work(five_layers.NAME, "digits", Recipe.from_json(PRUNED), images=64, latency=False)), Store()
    store.complete(limited.identity, limited.to_json(), limited.predicted, origin="here")
    status, out, err = call("--run", limited.identity, "--format", "safetensors", "--output", tmp_path / "x.safetensors", "--json")
    assert status == 0, err
    assert store.find(json.loads(out)["identity"])["state"] == COMPLETE
    store.close()


def test_a_run_whose_checkpoint_is_gone_or_another_is_refused(call, tmp_path, monkeypatch):
    result = measured(PRUNED)
    given = ("--run", result["identity"], "--format", "onnx", "--output", tmp_path / "x.onnx")
    with monkeypatch.context() as patch:
        patch.setattr(zoo, "folders", lambda: [])
        status, out, err = call(*given)
        assert (status, out) == (2, "") and err.startswith("A checkpoint of five_layers on digits is not here: ") and err.count("\n") == 1
    monkeypatch.setattr(zoo.Checkpoint, "hash", "0123456789abcdef")
    status, out, err = call(*given)
    assert (status, out) == (2, "") and "was measured with another checkpoint of five_layers" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--run", "nothing"), "There is no complete run 'nothing'; --run takes the identity of a complete run"),
        (("--run", "x", "--model", "resnet18"), "--run names a run by itself; "),
        ((), "An export wants a run: "),
        (("--model", "resnet18", "--dataset", "digits"), "An export wants a run: "),
        (("--model", "resnet1", "--dataset", "digits", "--recipe", "{recipe}"), "There is no model named 'resnet1'; "),
        (("--model", five_layers.NAME, "--dataset", "digits", "--recipe", "{pruned}", "--format", "onnx-int8"), "onnx-int8 takes recipes whose weights and "),
        (("--format", "onyx"), "There is no format named 'onyx'; it takes one of artifact, safetensors, onnx, "),
        (("--output", "{folder}/beside.onnx"), "{folder}/beside.onnx.json is a folder; --output takes the name of a file."),
        (("--output", "{folder}"), "{folder} is a folder; --output takes the name of a file."),
        (("--output", "/nowhere/x.onnx"), "The folder /nowhere does not exist; --output takes a file in one that does."),
        (("--output", "/proc/x.onnx"), "The folder /proc cannot be written ("),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(call, tmp_path, given, sentence):
    (tmp_path / "beside.onnx.json").mkdir()
    (tmp_path / "recipe.json").write_text(json.dumps(INT8))
    (tmp_path / "pruned.json").write_text(json.dumps(PRUNED))
    words = {"folder": str(tmp_path), "recipe": str(tmp_path / "recipe.json"), "pruned": str(tmp_path / "pruned.json")}
    usual = {"--format": "onnx", "--output": "{folder}/x.onnx"}
    more = [part for name, value in usual.items() if name not in given for part in (name, value)]
    status, out, err = call(*(part.format(**words) for part in (*given, *more)))
    assert (status, out) == (2, "") and err.startswith(sentence.format(**words)) and err.count("\n") == 1 and err.endswith(".\n")


def test_without_litert_one_sentence_says_how_to_get_it(call, by_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(litert.importlib.util, "find_spec", lambda name: None)
    status, out, err = call(*by_recipe, "--format", "tflite-int8", "--output", tmp_path / "x.tflite")
    assert (status, out) == (2, "") and err.startswith("TensorFlow Lite is not here: ") and "--requirement requirements-litert.txt" in err
