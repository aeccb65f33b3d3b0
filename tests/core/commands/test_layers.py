"""`python -m core layers` on a real tiny checkpoint: both tables, JSON, what is kept, and every refusal."""

from __future__ import annotations

import json

import pytest

from core.__main__ import main
from core.layers import facts as layers
from core.layers import sensitivity
from tests import five_layers


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"steps": [{"step": "magnitude_prune", "sparsity": 0.8, "scope": "layer"}, {"step": "quantize", "weight_bits": 4}]}))
    return path


@pytest.fixture
def call(capsys, five_layer_checkpoint):
    """Calls the command on the five-layer model; returns (exit status, standard output, standard error)."""

    def run(*more, model=five_layers.NAME, dataset="digits") -> tuple[int, str, str]:
        status = main(["layers", "--model", model, "--dataset", dataset, *(str(each) for each in more)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_a_recipe_is_listed_layer_by_layer(call, recipe_file):
    status, out, _err = call("--recipe", recipe_file)
    lines = out.splitlines()
    assert status == 0 and lines[0] == "five_layers on digits, Prune weights 80 % → Quantize 4 bits"
    assert [line.split()[0] for line in lines[3:10]] == ["features.0", "features.3", "features.6", "features.9", "fc", "rest", "total"]
    found = json.loads(call("--recipe", recipe_file, "--json")[1])
    assert list(found) == ["layers"] and found["layers"]["layers"][0]["after"]["nonzero"] == 43


def test_a_step_is_measured_layer_by_layer_and_kept(call, recipe_file, monkeypatch):
    given = ("--step", "quantize", "--values", "4,2", "--images", 100)
    status, out, _err = call(*given)
    assert status == 0 and "one layer at a time, weight bits" in out and "measured, paired, validation, n = 100" in out
    assert out.splitlines()[3].split() == ["layer", "4", "bits", "2", "bits"]
    monkeypatch.setattr(sensitivity, "measure", lambda *_, **__: pytest.fail("measured again"))
    monkeypatch.setattr(layers, "measure", lambda *_, **__: {"measured": "again"})
    assert list(json.loads(call(*given, "--json")[1])) == ["sensitivity"]
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        call(*given, "--recipe", recipe_file, "--images", 90)


def test_the_uncompressed_model_is_listed_when_nothing_is_asked(call):
    status, out, _err = call()
    assert status == 0 and out.startswith("five_layers on digits, Uncompressed") and "total" in out


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--step", "melt"), "There is no step named 'melt'; "),
        (("--step", "finetune"), "finetune cannot be measured layer by layer, because it takes no layers; "),
        (("--step", "quantize", "--values", "4,9"), "quantize.weight_bits cannot be 9; it takes one of 2, 3"),
        (("--step", "quantize", "--values", "few"), "quantize.weight_bits cannot be 'few'; "),
        (("--values", "4,2"), "--values are settings of a step's main field; name the step with --step."),
        (("--recipe", "/nowhere.json"), "The recipe '/nowhere.json' cannot be read "),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(call, given, sentence):
    status, out, err = call(*given)
    assert (status, out) == (2, "") and err.startswith(sentence) and err.count("\n") == 1 and err.endswith(".\n")


def test_names_that_do_not_exist(call):
    assert call(model="resnet")[0] == call(dataset="digit")[0] == 2
    assert "A checkpoint of resnet50 on digits is not here" in call(model="resnet50")[2]
