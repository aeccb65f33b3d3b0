"""`python -m core floor` on a real tiny checkpoint: against measuring every position, from the store, and every refusal."""

from __future__ import annotations

import json

import pytest

from core import floor
from core.__main__ import main
from core.commands import floor as command
from core.errors import BadInput
from core.recipe import Recipe
from core.work import Work
from tests import five_layers

STEPS = [{"step": "magnitude_prune", "sparsity": 0.2}, {"step": "quantize", "weight_bits": 4}, {"step": "calibrate_batchnorm", "images": 200}]


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"steps": STEPS}))
    return path


@pytest.fixture
def call(capsys, recipe_file):
    """Calls the command on the five-layer model; returns (exit status, standard output, standard error)."""

    def run(*more, vary="quantize.weight_bits", top1=50.0, model=five_layers.NAME, dataset="digits") -> tuple[int, str, str]:
        given = ["--model", model, "--dataset", dataset, "--recipe", recipe_file, "--vary", vary, "--min-top1", top1, *more]
        status = main(["floor", *(str(each) for each in given)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def top1_of_bits(five_layer_checkpoint) -> dict[int, float]:
    """Every position, measured one after the other."""
    from core import engine

    recipes = {bits: Recipe.from_json({"steps": [STEPS[0], STEPS[1] | {"weight_bits": bits}, STEPS[2]]}) for bits in (16, 8, 7, 6, 5, 4, 3, 2)}
    return {bits: engine.run(Work(five_layers.NAME, "digits", each, latency=False)).metrics["top1"] for bits, each in recipes.items()}


def test_the_pair_is_what_measuring_every_position_gives(call, five_layer_checkpoint, top1_of_bits):
    limit = (top1_of_bits[4] + top1_of_bits[3]) / 2
    status, out, _err = call("--json", top1=limit)
    result = json.loads(out)
    assert status == 0 and out.count("\n") == 1
    assert list(result) == ["model", "dataset", "split", "vary", "min_top1", "recipe", "holds", "fails", "evaluations", "seconds"]
    order = list(top1_of_bits)
    holds, fails = result["holds"], result["fails"]
    assert order.index(fails["value"]) == order.index(holds["value"]) + 1 and holds["top1"] >= limit > fails["top1"]
    assert all(look["top1"] == pytest.approx(top1_of_bits[look["value"]]) and look["images"] == 400 for look in result["evaluations"])
    assert len(result["evaluations"]) <= floor.most_probes(len(order))
    assert Recipe.from_json(result["recipe"]).steps[1].weight_bits == holds["value"] and holds["artifact_bytes"] < fails["artifact_bytes"] * 2


def test_the_same_question_again_measures_nothing(call, five_layer_checkpoint, monkeypatch):
    from core import engine

    first = json.loads(call("--json", top1=60)[1])
    monkeypatch.setattr(engine, "run", lambda *_, **__: pytest.fail("measured again"))
    again = json.loads(call("--json", top1=60)[1])
    assert {name: value for name, value in again.items() if name != "seconds"} == {name: value for name, value in first.items() if name != "seconds"}


def test_the_ends_are_sentences(call, five_layer_checkpoint, top1_of_bits):
    status, out, _err = call(top1=0)
    assert status == 0 and "Even the hardest position, 2 bits, holds" in out and '{"seed": 0, "steps"' in out
    assert max(top1_of_bits.values()) < 100
    status, out, _err = call(top1=100)
    assert status == 0 and "Already the mildest position, 16 bits, fails" in out and '"steps"' not in out
    assert out.splitlines()[2].split()[:2] == ["quantize.weight_bits", "top-1"] and "400" in out


def test_clear_positions_are_seen_on_the_first_pictures_alone(call, five_layer_checkpoint, monkeypatch):
    monkeypatch.setattr(floor, "SCREEN_IMAGES", 50)
    monkeypatch.setattr(command, "WORTH_SCREENING", 200)
    _status, out, err = call("--json", vary="magnitude_prune.sparsity", top1=55)
    result = json.loads(out)
    assert {look["images"] for look in result["evaluations"]} == {50, 400}
    assert result["holds"]["images"] == result["fails"]["images"] == 400
    assert result["fails"]["value"] == pytest.approx(result["holds"]["value"] + 0.01)
    assert "five_layers on digits, sparsity" in err
    table = call(vary="magnitude_prune.sparsity", top1=55)[1]
    assert table.count(" %  ") or "sparsity" in table
    assert {look["images"] for look in json.loads(call("--json", "--images", "100", vary="magnitude_prune.sparsity", top1=55)[1])["evaluations"]} == {100}


def test_a_temperature_is_looked_for_from_the_top_and_from_its_own_value(call, five_layer_checkpoint, recipe_file):
    """Trained on a few pictures: at its own value, not at the top, where accuracy is another one; and the same again from the store."""
    step = {"step": "distill", "temperature": 2, "alpha": 1.0, "learning_rate": 0.2, "images": 100}
    recipe_file.write_text(json.dumps({"steps": [step]}))
    asked = {"vary": "distill.temperature", "top1": 100}
    status, out, err = call("--json", "--images", "100", **asked)
    result = json.loads(out)
    values = [look["value"] for look in result["evaluations"]]
    assert status == 0 and values[:3] == [20, 2, 1] and "five_layers on digits, temperature 20" in err
    assert result["vary"] == "distill.temperature" and result["holds"] is None and result["recipe"] is None
    best = max(result["evaluations"], key=lambda look: (look["top1"], look["value"]))
    assert result["fails"] == best and len(values) == floor.most_seeks(39)
    said = call("--images", "100", **asked)[1]
    assert f"None of the {len(values)} positions looked at keeps at least 100 % top-1; the best of them, temperature {best['value']:g}, " in said
    status, out, _err = call("--json", "--images", "100", **asked | {"top1": best["top1"]})
    result = json.loads(out)
    assert status == 0 and result["holds"]["top1"] >= best["top1"] and Recipe.from_json(result["recipe"]).steps[0].temperature == result["holds"]["value"]
    assert result["fails"] is None or result["fails"]["value"] == result["holds"]["value"] + 0.5


def test_a_learning_rate_that_leads_nowhere_is_a_line_of_the_table(call, five_layer_checkpoint, recipe_file, monkeypatch):
    from core import training

    def check(loss: float, plan) -> None:
        if plan.learning_rate > 0.05:
            raise BadInput("The loss became nan while training, and takes finite values only; take a learning rate below 0.05.")

    monkeypatch.setattr(training, "_check_loss", check)
    recipe_file.write_text(json.dumps({"steps": [{"step": "finetune", "learning_rate": 0.001, "images": 100}]}))
    asked = {"vary": "finetune.learning_rate", "top1": 0}
    status, out, _err = call("--images", "100", **asked)
    reason = "The loss became nan while training, and takes finite values only"
    assert status == 0 and f"refused: {reason}\n" in out and f"; 0.07 was refused ({reason})." in out
    result = json.loads(call("--json", "--images", "100", **asked)[1])
    assert (result["holds"]["value"], result["fails"]["value"]) == (0.05, 0.07) and result["evaluations"][0]["refused"].startswith(reason)


def test_a_search_by_halves_goes_on_past_what_is_refused_among_the_pictures_there_are(call, five_layer_checkpoint, recipe_file, monkeypatch):
    from core import training

    least = [600]

    def check(loss: float, plan) -> None:
        if plan.images < least[0]:
            raise BadInput("The loss became nan while training, and takes finite values only; take more pictures.")

    monkeypatch.setattr(training, "_check_loss", check)
    recipe_file.write_text(json.dumps({"steps": [{"step": "finetune", "learning_rate": 0.0007}]}))
    asked = {"vary": "finetune.images", "top1": 0}
    reason = "The loss became nan while training, and takes finite values only"
    status, out, _err = call("--images", "100", **asked)
    assert status == 0 and f"refused: {reason}\n" in out and f"; 500 pictures was refused ({reason})." in out
    result = json.loads(call("--json", "--images", "100", **asked)[1])
    assert (result["holds"]["value"], result["fails"]["value"]) == (600, 500) and {look["value"] for look in result["evaluations"]} <= set(range(100, 901, 100))

    least[0] = 1000  # more than there are
    recipe_file.write_text(json.dumps({"steps": [{"step": "finetune", "learning_rate": 0.0008}]}))
    status, out, err = call("--images", "100", **asked)
    assert (status, out) == (2, "") and err.endswith(f"None of the 3 positions looked at could be measured: {reason}; take more pictures.\n")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"vary": "melt.heat"}, "There is no step named 'melt'; "),
        ({"vary": "weight_bits"}, "vary cannot be 'weight_bits'; it takes a step and a field, "),
        ({"vary": "quantize.bits"}, "quantize has no field named 'bits'; "),
        ({"vary": "quantize.clipping"}, "quantize.clipping cannot be varied, "),
        ({"vary": "channel_prune.sparsity"}, "The recipe has no step channel_prune; it has magnitude_prune, quantize, calibrate_batchnorm."),
        ({"top1": 101}, "min_top1 cannot be '101'; it takes a number from 0, at most 100."),
        ({"top1": -1}, "min_top1 cannot be '-1'; "),
        ({"top1": "nan"}, "min_top1 cannot be 'nan'; "),
        ({"model": "resnet"}, "There is no model named 'resnet'; "),
        ({"dataset": "digit"}, "There is no dataset named 'digit'; "),
        ({"model": "resnet50"}, "A checkpoint of resnet50 on digits is not here"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(call, five_layer_checkpoint, given, sentence):
    status, out, err = call(**given)
    assert (status, out) == (2, "") and err.startswith(sentence) and err.count("\n") == 1 and err.endswith(".\n")


def test_help_explains_it(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["floor", "--help"])
    assert ended.value.code == 0 and "python -m core floor" in capsys.readouterr().out
