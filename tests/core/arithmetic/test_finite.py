"""Weights that are no numbers are one sentence, wherever they come from, and not an error out of some library's depths."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from core import zoo
from core.__main__ import main
from core.arithmetic.finite import check_finite
from core.errors import BadInput
from core.models.checkpoints import train
from core.training import Plan, cross_entropy, fit
from tests import five_layers


@pytest.fixture
def damaged(home):
    """A checkpoint of squeezenet1_1 on digits of this test's own, with two numbers that are none."""
    there = zoo.checkpoint("squeezenet1_1", "digits")
    own = home / "checkpoints" / "digits" / "squeezenet1_1.safetensors"
    own.parent.mkdir(parents=True)
    tensors = load_file(there.path)
    tensors["features.3.squeeze.weight"].view(-1)[5:7] = torch.tensor([math.nan, -math.inf])
    save_file(tensors, own)
    own.with_suffix(".json").write_text(json.dumps(there.card))
    return own


@pytest.mark.parametrize("step", ["factorize", "share_weights", "quantize", None])
def test_a_checkpoint_that_holds_no_numbers_is_refused_before_any_work(step, damaged, tmp_path, capsys):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"steps": [{"step": step}] if step else []}))
    said = f"The checkpoint {damaged} has 2 numbers that are NaN or infinite in features.3.squeeze.weight, and takes finite ones only; put another"
    for command in ("run", "layers"):
        assert main([command, "--model", "squeezenet1_1", "--dataset", "digits", "--recipe", str(recipe)]) == 2
        told = capsys.readouterr().err.strip().splitlines()[-1]
        assert said in told and told.endswith(".") and "Traceback" not in told


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_one_number_is_enough_and_whole_numbers_are_not_asked(dtype):
    good = {"batches": torch.tensor(3), "none": torch.zeros(0, dtype=dtype), "largest": torch.full((2, 2), torch.finfo(dtype).max, dtype=dtype)}
    check_finite(good, "A network", "take another")
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(BadInput, match=r"^A network has 1 number that is NaN or infinite in fc, and takes finite ones only; take another\.$"):
            check_finite(good | {"fc": torch.tensor([1.0, bad], dtype=dtype)}, "A network", "take another")


def test_every_shipped_checkpoint_is_finite():
    for checkpoint in zoo.checkpoints():
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(checkpoint.path).values()), checkpoint.path


def test_a_training_that_comes_to_nothing_stops_at_once_and_names_its_rate(context):
    from core.datasets import load

    module, told = five_layers.FiveLayers(), []
    plan = Plan(epochs=50, learning_rate=1e30, images=256, batch_size=64, warm_up=0.0)
    with pytest.raises(BadInput, match=r"take a learning rate below 1e\+30\.$"):
        fit(module, load("digits"), 32, plan, cross_entropy(), report=told.append)
    assert not told or told[-1]["epoch"] <= 1


def test_what_float16_cannot_hold_is_no_checkpoint(five_layer_checkpoint, monkeypatch, tmp_path):
    """Written as float16, a variance of 10^5 would be infinite."""

    def blown_up(module, *_given, **_named):
        with torch.no_grad():
            module.features[1].running_var[3] = 1e5

    monkeypatch.setattr("core.training.fit", blown_up)
    with pytest.raises(BadInput, match=r"float16, has 1 number that is NaN or infinite in features\.1\.running_var"):
        train(five_layers.NAME, "digits", epochs=1, out=tmp_path)
    assert not any(tmp_path.iterdir())
