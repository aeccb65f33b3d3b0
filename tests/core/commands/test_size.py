"""`python -m core size` on a real tiny checkpoint: the table, one layer, JSON, what is kept, and every refusal."""

from __future__ import annotations

import json

import pytest

from core.__main__ import main
from core.packed import size_parts
from tests import five_layers


@pytest.fixture
def call(capsys, tmp_path, five_layer_checkpoint):
    """Calls the command on the five-layer model; returns (exit status, standard output, standard error)."""
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"steps": [{"step": "magnitude_prune", "sparsity": 0.8, "scope": "layer"}, {"step": "quantize", "weight_bits": 4}]}))

    def run(*more, model=five_layers.NAME) -> tuple[int, str, str]:
        status = main(["size", "--model", model, "--dataset", "digits", "--recipe", str(recipe), *(str(each) for each in more)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_a_file_is_told_byte_for_byte_and_kept(call, monkeypatch):
    status, out, _err = call()
    lines = out.splitlines()
    assert status == 0 and lines[0] == "five_layers on digits, Prune weights 80 % → Quantize 4 bits"
    assert [line.split()[0] for line in lines[4:11]] == ["features.0", "features.3", "features.6", "features.9", "fc", "batch", "header"]
    monkeypatch.setattr(size_parts, "measure", lambda *_, **__: pytest.fail("measured again"))
    found = json.loads(call("--json")[1])
    assert f"{found['bytes']:,}" in lines[1] and sum(sum(row["file"].values()) for row in (*found["layers"], *found["rest"])) == found["bytes"]


def test_one_layer_is_followed(call):
    status, out, _err = call("--layer", "fc")
    (entry,) = json.loads(call("--layer", "fc", "--json")[1])["layers"]
    assert entry["layer"] == "fc" and 0 < entry["file"]["biases"] <= 4 * 10  # of what the float32 of all layers take together
    assert status == 0 and "linear, 32 → 10" in out.splitlines()[0] and "In the file" in out and f"biases take {entry['file']['biases']} bytes more" in out


@pytest.mark.parametrize(
    ("given", "sentence"),
    [(("--layer", "conv9"), "There is no layer named 'conv9'; it takes one of features.0"), (("--recipe", "nowhere.json"), "'nowhere.json' cannot be read")],
)
def test_what_cannot_be_is_one_sentence(call, given, sentence):
    status, out, err = call(*given)
    assert (status, out) == (2, "") and sentence in err.splitlines()[-1]
