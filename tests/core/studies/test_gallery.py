"""The gallery's command: what it measures, what it leaves as it is, and the table of it. On a tiny model, with two recipes."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest

from core import engine
from core.__main__ import main
from core.datasets import load
from core.metrics import latency
from core.recipe import STEPS, Recipe
from core.studies import gallery
from core.work import Work
from tests import five_layers

RECIPES = [Recipe(), Recipe.from_json({"steps": [{"step": "magnitude_prune", "sparsity": 0.5}]})]


@pytest.fixture
def tiny(five_layer_checkpoint, tmp_path, monkeypatch):
    """A gallery of one model and two recipes, in a folder that is empty; latencies are measured in a few short blocks."""
    for name, value in (("FOLDER", tmp_path), ("DATASET", "digits"), ("MODELS", (five_layers.NAME,)), ("TEACHING", ()), ("recipes", lambda: list(RECIPES))):
        monkeypatch.setattr(gallery, name, value)
    monkeypatch.setattr(latency, "measure", functools.partial(latency.measure, blocks=6, block_seconds=0.003, others=lambda: lambda: 0.0))
    monkeypatch.setattr(latency, "UNEVEN", 1e9)  # nothing here counts as disturbed
    gallery.runs.cache_clear()
    yield tmp_path / f"{five_layers.NAME}.json"
    gallery.runs.cache_clear()


def test_build_measures_what_is_missing_and_nothing_twice(tiny, capsys, monkeypatch):
    assert main(["gallery", "--build", "--no-latency"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said] == ["five_layers 1 of 2", "five_layers 2 of 2"] and "magnitude_prune" in said[1]
    stored = json.loads(tiny.read_text())
    assert [row["identity"] for row in stored] == [Work(five_layers.NAME, "digits", recipe).identity() for recipe in RECIPES]
    assert all(row["metrics"]["latencies"] == [] and row["machine"]["cpu"] and row["date"] for row in stored)

    monkeypatch.setattr(engine, "run", lambda *_, **__: pytest.fail("measured again"))
    assert main(["gallery", "--build", "--model", five_layers.NAME]) == 0  # the latencies alone
    again = json.loads(tiny.read_text())
    for row, before in zip(again, stored, strict=True):
        assert [entry["runtime"] for entry in row["metrics"]["latencies"]] == ["onnxruntime-float32", "pytorch-float32"]
        assert row["metrics"]["deployed_bytes"] > 0 and row["baseline"]["latencies"]
        for side in ("metrics", "baseline"):
            assert {key: value for key, value in row[side].items() if key not in ("latencies", "deployed_bytes")}.items() <= before[side].items()
    unchanged = tiny.read_bytes()
    monkeypatch.setattr(engine, "timed", lambda *_, **__: pytest.fail("timed again"))
    assert main(["gallery", "--build"]) == 0 and tiny.read_bytes() == unchanged

    again[1]["metrics"]["latencies"][0]["disturbed"] = True
    gallery.write(tiny, again)
    timed = []
    monkeypatch.setattr(engine, "timed", lambda work, **_hooks: timed.append(work.recipe) or {"latencies": [{"ratio": 1.0}]})
    assert main(["gallery", "--build", "--no-latency"]) == 0 and not timed
    gallery.build(five_layers.NAME)
    assert timed == [RECIPES[1], Recipe()] and not any("disturbed" in row for row in json.loads(tiny.read_text())[1]["metrics"]["latencies"])


def test_a_row_of_another_edition_is_measured_again_and_keeps_the_latencies_of_its_graph(tiny, monkeypatch):
    assert main(["gallery", "--build"]) == 0
    stored = json.loads(tiny.read_text())
    monkeypatch.setattr(STEPS.get("magnitude_prune"), "edition", "another", raising=False)
    monkeypatch.setattr(engine, "timed", lambda *_, **__: pytest.fail("timed again"))
    assert main(["gallery", "--build"]) == 0
    baseline, pruned = json.loads(tiny.read_text())
    assert baseline == stored[0]
    assert pruned["identity"] not in {row["identity"] for row in stored}
    assert [pruned[part] for part in ("metrics", "baseline", "predicted")] == [stored[1][part] for part in ("metrics", "baseline", "predicted")]
    assert pruned["metrics"]["latencies"]


def test_what_was_built_is_what_is_read_and_listed(tiny, capsys):
    assert main(["gallery", "--build", "--no-latency"]) == 0
    capsys.readouterr()
    baseline, pruned = gallery.runs()
    labels = load("digits").split("validation").labels
    for row in (baseline, pruned):
        assert row["metrics"]["top1"] == pytest.approx(100 * float(np.mean(np.frombuffer(row["predicted"], "<u2") == labels)))
    assert main(["gallery", "--model", five_layers.NAME]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["Model", "Recipe", "Top-1"] and "uncompressed" in first and "+0.00 (" in first
    assert f"magnitude_prune 0.5  {pruned['metrics']['top1']:.2f} %" in second
    assert f"{4 * baseline['metrics']['parameters'] / pruned['metrics']['artifact_bytes']:.1f} ×" in second
    assert main(["gallery", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["runs"]
    assert [row["identity"] for row in listed] == [baseline["identity"], pruned["identity"]] and not any("predicted" in row for row in listed)


def test_sizes_are_remade_where_weights_lie_on_a_grid_and_the_model_is_the_same(tiny, capsys, monkeypatch):
    bits = Recipe.from_json({"steps": [{"step": "quantize", "weight_bits": 4}]})
    monkeypatch.setattr(gallery, "recipes", lambda: [*RECIPES, bits])
    assert main(["gallery", "--build", "--no-latency"]) == 0
    right = json.loads(tiny.read_text())
    wrong = json.loads(tiny.read_text())
    for row in wrong:
        row["metrics"]["artifact_bytes"] += 1000
    gallery.write(tiny, wrong)
    assert main(["gallery", "--sizes"]) == 0
    remade = json.loads(tiny.read_text())
    assert remade[2] == right[2] and remade[:2] == wrong[:2]  # what lies on no grid is not packed again
    capsys.readouterr()
    wrong[2]["metrics"]["paper_bytes"] += 1
    gallery.write(tiny, wrong)
    assert main(["gallery", "--sizes"]) == 0 and "another model" in capsys.readouterr().err
    assert json.loads(tiny.read_text()) == wrong


def test_another_model_is_refused(tiny, capsys):
    assert main(["gallery", "--model", "resnet50"]) == 2
    assert capsys.readouterr().err == "There is no model in the gallery named 'resnet50'; it takes one of five_layers.\n"
