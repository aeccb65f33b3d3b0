"""What ships in assets/: checkpoints with their cards, presets, and the gallery, each held to what it claims."""

from __future__ import annotations

import json

import numpy as np
import pytest

import core.methods  # noqa: F401
from core import engine, zoo
from core.datasets import DATASETS
from core.home import ASSETS
from core.recipe import Recipe
from core.studies import gallery
from core.studies.points import family
from core.work import Work

LEAST = {  # top-1 on the test split, percent
    ("fashion_mnist", "resnet18"): 92, ("fashion_mnist", "mobilenet_v3_small"): 91, ("fashion_mnist", "squeezenet1_1"): 90,
    ("fashion_mnist", "shufflenet_v2_x0_5"): 90, ("fashion_mnist", "lenet_300_100"): 88.5, ("fashion_mnist", "lenet_5"): 90,
    ("digits", "mobilenet_v3_small"): 97, ("digits", "squeezenet1_1"): 97, ("digits", "shufflenet_v2_x0_5"): 97,
}  # fmt: skip


def presets() -> list[dict]:
    return json.loads((ASSETS / "presets.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("place", "least"), LEAST.items(), ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value))
def test_checkpoints_are_as_good_as_they_must_be(place, least):
    card = json.loads((ASSETS / "checkpoints" / place[0] / f"{place[1]}.json").read_text())
    assert card["test"]["top1"] >= least
    assert card["test"]["images"] in (400, 5000) and card["test"]["top1_low"] < card["test"]["top1"] < card["test"]["top1_high"]
    assert card["stem"] == zoo.stem(place[1], 32) and card["command"].startswith(f"python -m core train --model {place[1]} ")
    assert card["trained_on"] == (60_000 if place[0] == "fashion_mnist" else 997)
    assert {"epochs", "seed", "validation", "date", "versions"} <= set(card)


@pytest.mark.parametrize(("family_name", "model"), [place for place in LEAST if place[1] != "resnet18"])
def test_a_card_says_what_its_weights_do(family_name, model):
    from core.datasets import load
    from core.metrics.accuracy import evaluate

    checkpoint = zoo.checkpoint(model, family_name)
    seen = evaluate(checkpoint.load(), load(family_name), 32, "test", 1000)
    whole = checkpoint.card["test"]
    assert abs(100 * float(np.mean(seen.right)) - whole["top1"]) < 4  # the first thousand of a stratified order


def test_presets_are_known_runs():
    found = presets()
    assert len({preset["name"] for preset in found}) == len({preset["title"] for preset in found}) == len(found) >= 5
    everywhere = {recipe.key() for recipe in gallery.recipes()}
    for preset in found:
        models = preset.get("models", ())
        assert set(models) <= {*gallery.MODELS, *gallery.TEACHING} and (Recipe.from_json(preset["recipe"]).key() in everywhere) != bool(models)
    assert all(preset["help"] for preset in found)


# The classics that a preset must be, by what it must hold: a step, and fields of it.
CLASSICS = {
    "deep_compression": [("magnitude_prune", {}), ("finetune", {}), ("share_weights", {}), ("finetune", {})],
    "xnor": [("binarize", {"scaling": "channel", "layers": "inner"}), ("finetune", {})],
    "xnor_net": [("binarize", {"activations": True, "layers": "inner"}), ("finetune", {})],
    "two_four": [("nm_prune", {"n": 2, "m": 4})], "int8": [("quantize", {"weight_bits": 8, "activation_bits": 8})],
    "qat": [("quantize", {"weight_bits": 4}), ("finetune", {})], "slimming": [("channel_prune", {"importance": "bn_scale"}), ("finetune", {})],
    "iterative": [("magnitude_prune", {"sparsity": 0.6}), ("finetune", {}), ("magnitude_prune", {"sparsity": 0.8}), ("finetune", {}),
                  ("magnitude_prune", {"sparsity": 0.9}), ("finetune", {})],
    "student": [("student", {}), ("distill", {})], "low_rank": [("factorize", {}), ("quantize", {"weight_bits": 8, "activation_bits": 8})],
    "smallest": [("magnitude_prune", {}), ("quantize", {})],
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSICS)
def test_every_classic_has_a_preset_and_a_run_of_it(name):
    recipe = Recipe.from_json(next(preset["recipe"] for preset in presets() if preset["name"] == name))
    wanted = list(CLASSICS[name])
    for step in recipe.steps:
        if wanted and step.name == wanted[0][0] and all(getattr(step, field) == value for field, value in wanted[0][1].items()):
            wanted.pop(0)
    assert not wanted, f"{name} lacks {wanted}"
    assert any(row["key"] == recipe.key() for row in gallery.runs())


def test_the_gallery_covers_four_models_and_every_family():
    rows = gallery.runs()
    assert len(rows) >= 80 and {row["model"] for row in rows} == {*gallery.MODELS, *gallery.TEACHING}
    for model in gallery.MODELS:
        own = [row for row in rows if row["model"] == model]
        assert {row["identity"] for row in own} == {work.identity() for work in gallery.works(model)}, f"python -m core gallery --build --model {model}"
        families = {family(Recipe.from_json(row["recipe"])) for row in own}
        assert families >= {"Baseline", "Weights pruned", "Channels removed", "Fewer bits", "int8", "Distilled"}
        temperatures = {step["temperature"] for row in own for step in row["recipe"]["steps"] if step["step"] == "distill"}
        assert temperatures >= set(gallery.TEMPERATURES)
    for row in rows:
        assert row["machine"]["id"] and row["machine"]["cpu"] and row["date"] and len(row["predicted"]) == 2 * row["metrics"]["images"] == 10_000
        assert row["metrics"]["latencies"] and row["metrics"]["deployed_bytes"] and row["baseline"]["latencies"]


@pytest.mark.parametrize("model", gallery.TEACHING)
def test_the_gallery_shows_the_teaching_models_on_both_sizes_of_their_set(model):
    rows = [row for row in gallery.runs() if row["model"] == model]
    for dataset in (gallery.DATASET, gallery.FULL):
        if DATASETS.get(dataset).missing() is None:
            wanted = {work.identity() for work in gallery.works(model) if work.dataset == dataset}
            assert {row["identity"] for row in rows if row["dataset"] == dataset} == wanted, f"python -m core gallery --build --model {model}"
        assert any(row["key"] == gallery.preset("deep_compression").key() for row in rows if row["dataset"] == dataset)


def test_something_shipped_is_distinguishably_faster_by_channels_and_by_int8():
    faster = {"onnxruntime-float32": 0, "onnxruntime-int8": 0}
    for row in gallery.runs():
        steps = {step["step"] for step in row["recipe"]["steps"]}
        for latency in row["metrics"]["latencies"]:
            by_it = "channel_prune" in steps if latency["runtime"] == "onnxruntime-float32" else "channel_prune" not in steps  # one cause at a time
            if latency["runtime"] in faster and row["model"] in gallery.MODELS and by_it and not latency.get("disturbed"):
                faster[latency["runtime"]] += latency["ratio_high"] < 1
    assert faster["onnxruntime-float32"] and faster["onnxruntime-int8"]


def test_a_preset_reaches_a_fiftieth_at_half_a_point():
    wanted = {Recipe.from_json(preset["recipe"]).key() for preset in presets()}
    rows = [row for row in gallery.runs() if row["model"] == "resnet18" and row["key"] in wanted]
    assert any(50 * row["metrics"]["artifact_bytes"] <= 4 * row["baseline"]["parameters"] and row["difference"]["top1"] >= -0.5 for row in rows)


@pytest.mark.parametrize(
    ("preset", "model", "share", "points"),
    [("smallest", "resnet18", 150, 1), ("thirtieth", "mobilenet_v3_small", 30, 1), ("three_bits", "squeezenet1_1", 8, 1), ("fastest", "resnet18", 40, 1)],
)
def test_a_preset_is_as_small_as_it_says_at_a_point_lost(preset, model, share, points):
    """`share`: float32 bytes over the download. Of `three_bits` the accuracy matters: recovered by quantization-aware distillation."""
    key = next(Recipe.from_json(each["recipe"]).key() for each in presets() if each["name"] == preset)
    row = next(row for row in gallery.runs() if (row["model"], row["key"]) == (model, key))
    assert share * row["metrics"]["artifact_bytes"] <= 4 * row["baseline"]["parameters"] and row["difference"]["top1"] >= -points


@pytest.mark.slow
def test_a_shipped_run_is_measured_again_as_it_was():
    recipe = Recipe.from_json({"steps": [{"step": "quantize", "weight_bits": 4, "clipping": "mse"}, {"step": "calibrate_batchnorm"}]})
    work = Work("squeezenet1_1", "fashion_mnist", recipe, latency=False)
    row = next(row for row in gallery.runs() if row["identity"] == work.identity())
    again = engine.run(work)
    assert again.metrics["artifact_bytes"] == row["metrics"]["artifact_bytes"]
    assert abs(again.metrics["top1"] - row["metrics"]["top1"]) <= 0.2  # another processor may round a tie the other way
