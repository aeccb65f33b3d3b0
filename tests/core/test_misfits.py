"""Steps that do not fit: refused before training and measuring begin, or noted as soon as they are done, in the engine and on the command line."""

from __future__ import annotations

import json

import pytest

from core import engine
from core.__main__ import main
from core.errors import BadField, BadRecipe
from core.recipe import Recipe
from core.work import Work
from tests import five_layers

TRAIN = {"step": "finetune", "images": 200}


@pytest.fixture(autouse=True)
def _checkpoint(five_layer_checkpoint):
    return five_layer_checkpoint


def work(*steps) -> Work:
    return Work(five_layers.NAME, "digits", Recipe.from_json({"steps": list(steps)}), latency=False)


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([TRAIN, {"step": "channel_prune", "layers": "fc"}], "channel_prune finds no channels to remove in layers 'fc' of five_layers, because"),
        ([TRAIN, {"step": "factorize", "layers": "features.6"}], "factorize finds no layer to factor in layers 'features.6' of five_layers, because grouped"),
        (
            [{"step": "channel_prune"}, TRAIN, {"step": "factorize", "layers": "features.6"}],
            "factorize finds no layer to factor in layers 'features.6' of five_layers, because grouped",
        ),
        (
            [{"step": "student", "width": 0.5}, TRAIN, {"step": "factorize", "layers": "features.6"}],
            "factorize finds no layer to factor in layers 'features.6' of five_layers, because grouped",
        ),
        (
            [{"step": "student", "model": "squeezenet1_1", "width": 1.0}, TRAIN, {"step": "channel_prune", "layers": "classifier.1"}],
            "channel_prune finds no channels to remove in layers 'classifier.1' of squeezenet1_1, because",
        ),
        ([TRAIN, {"step": "quantize", "parameters": "biases", "layers": "features.0"}], "quantize finds no biases or batch norms in layers 'features.0'"),
    ],
)
def test_what_finds_nothing_to_do_is_refused_before_training_or_measuring(steps, sentence, monkeypatch):
    for name in ("measured_baseline", "compress"):
        monkeypatch.setattr(engine, name, lambda *_: pytest.fail("long work has begun"))
    with pytest.raises(BadRecipe) as caught:
        engine.run(work(*steps))
    assert str(caught.value).startswith(sentence) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("step", "note"),
    [
        ({"step": "magnitude_prune", "sparsity": 0.99, "scope": "layer", "layers": "features.6"}, None),
        (
            {"step": "magnitude_prune", "threshold": 10.0, "layers": "features.3"},
            "magnitude_prune set every weight of features.3 to zero: what is put out there",
        ),
        ({"step": "share_weights", "clusters": 256, "layers": "features.6"}, "share_weights found fewer than 256 distinct weights in features.6.weight."),
    ],
)
def test_a_layer_that_is_emptied_or_too_small_is_told_before_training_begins(step, note, monkeypatch):
    events = []
    monkeypatch.setattr("core.training.fit", lambda *_, **__: events.append("training"))
    engine.compress(work(step, TRAIN), engine.Hooks(report=events.append))
    told = [said for event in events[: events.index("training")] for said in event.get("notes", ())]
    assert [said.startswith(note) for said in told] == ([True] if note else [])
    looked = engine.preview(work(step))["metrics"]["notes"]
    assert [said.startswith(note) for said in looked] == ([True] if note else [])


@pytest.mark.parametrize(
    ("step", "note"),
    [
        ({"step": "magnitude_prune", "threshold": 10.0, "layers": "features.3"}, "magnitude_prune sets every weight of features.3 to zero, unless training"),
        ({"step": "share_weights", "clusters": 256, "layers": "features.6"}, "share_weights found fewer than 256 distinct weights in features.6.weight."),
        ({"step": "magnitude_prune", "threshold": 0.001}, None),
        ({"step": "nm_prune"}, "nm_prune left inputs of features.0 and features.6 dense, because their number does not divide by 4."),
        ({"step": "nm_prune", "layers": "features.3"}, None),
        (
            {"step": "magnitude_prune", "sparsity": 0.99},
            "magnitude_prune sets every weight of features.0, features.3, features.6 and 1 more to zero, unless training raises the",
        ),
        ({"step": "magnitude_prune", "sparsity": 0.5}, None),
        ({"step": "magnitude_prune", "sparsity": 0.99, "scope": "layer"}, None),
    ],
)
def test_what_a_step_behind_a_training_will_note_is_told_before_it(step, note, monkeypatch):
    events = []

    def train(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("core.training.fit", train)
    with pytest.raises(KeyboardInterrupt):
        engine.run(work(TRAIN, step), report=events.append)
    told = [said for event in events for said in event.get("notes", ())]
    assert [said.startswith(note) for said in told] == ([True] if note else [])


def test_patterns_that_match_nothing_are_refused_at_once():
    with pytest.raises(BadField, match=r"layers cannot be 'layr\*'"):
        work({"step": "magnitude_prune", "layers": "layr*"})


def run(tmp_path, capsys, *steps) -> tuple[int, str, list[str]]:
    (tmp_path / "recipe.json").write_text(json.dumps({"steps": list(steps)}))
    asked = ["run", "--model", five_layers.NAME, "--dataset", "digits", "--recipe", str(tmp_path / "recipe.json"), "--no-latency", "--images", "50", "--json"]
    status = main(asked)
    printed = capsys.readouterr()
    return status, printed.out, printed.err.splitlines()


def test_the_command_line_warns_first_and_runs(tmp_path, capsys, home, five_layer_checkpoint, monkeypatch):
    monkeypatch.setattr("core.zoo.folders", lambda: [five_layer_checkpoint.path.parents[1]])
    status, out, said = run(tmp_path, capsys, {"step": "share_weights", "clusters": 256, "layers": "features.6"}, {"step": "quantize"})
    assert status == 0 and json.loads(out)["metrics"]["images"] == 50
    assert said[0].startswith("Warning: share_weights is undone by quantize, because") and said[0].endswith(".")
    assert said[1] == "Note: share_weights found fewer than 256 distinct weights in features.6.weight."


def test_the_command_line_refuses_in_one_sentence(tmp_path, capsys):
    for step, sentence in [
        ({"step": "channel_prune", "layers": "fc"}, "channel_prune finds no channels to remove in layers 'fc'"),
        ({"step": "magnitude_prune", "layers": "layr*"}, "layers cannot be 'layr*'; it takes all, inner, or patterns"),
    ]:
        status, out, said = run(tmp_path, capsys, step)
        assert (status, out) == (2, "") and len(said) == 1 and said[0].startswith(sentence)
