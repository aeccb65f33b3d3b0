"""Flat rows and words: families, units, signs, and what a result's JSON becomes."""

import subprocess
import sys

import pytest

import core.methods  # noqa: F401
from core.recipe import STEPS, Recipe
from core.studies import points
from core.studies.points import FAMILIES, FIGURES, bytes_words, count_words, family, indistinct, point, signed, step_words, times_words, words


def recipe(*steps):
    return Recipe.from_json({"steps": list(steps)})


PRUNE, BITS = {"step": "magnitude_prune", "sparsity": 0.8}, {"step": "quantize", "weight_bits": 4}
BIASES = {"step": "quantize", "weight_bits": 8, "parameters": "biases"}


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([], "Baseline"),
        ([PRUNE], "Weights pruned"),
        ([BITS], "Fewer bits"),
        ([{"step": "quantize", "weight_bits": 8, "activation_bits": 8}], "int8"),
        ([{"step": "quantize", "weight_bits": 8, "activation_bits": 8}, BIASES], "int8"),
        ([{"step": "quantize", "weight_bits": 8, "activation_bits": 8, "activation_scale": "dynamic"}], "Fewer bits"),
        ([{"step": "quantize", "weight_bits": 8, "activation_bits": 8, "symmetric": False}], "Fewer bits"),
        ([{"step": "quantize", "weight_bits": 8, "activation_bits": 8}, {"step": "cast"}], "Fewer bits"),
        ([PRUNE, BITS], "Pruned, fewer bits"),
        ([PRUNE, {"step": "finetune"}], "Fine-tuned"),
        ([PRUNE, {"step": "distill"}, BITS], "Distilled"),
        ([{"step": "calibrate_batchnorm"}], "Other steps"),
    ],
)
def test_a_recipe_belongs_to_one_family(steps, name):
    assert family(recipe(*steps)) == name and name in FAMILIES


def test_words_carry_units():
    assert words(recipe(PRUNE, BITS, {"step": "calibrate_batchnorm"})) == "Prune weights 80 % → Quantize 4 bits → Repair batch norm"
    assert words(recipe()) == "Uncompressed"
    assert words(recipe(BITS, BIASES)) == "Quantize 4 bits → Quantize biases 8 bits"
    assert step_words(recipe({"step": "distill", "temperature": 8}).steps[0]) == "Distill, temperature 8"


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (BITS | {"layers": "fc"}, "Quantize 4 bits on fc"),
        (PRUNE | {"layers": "layer1.*, fc"}, "Prune weights 80 % on layer1.*, fc"),
        (BITS | {"layers": "layer1.0.conv1, layer1.0.conv2, fc"}, "Quantize 4 bits on layer1.0.conv1, layer1.…"),
        ({"step": "magnitude_prune", "threshold": 0.01, "layers": "inner"}, "Prune weights below 0.01 on inner layers"),
        ({"step": "binarize"}, "Binarize"),
        ({"step": "binarize", "layers": "all"}, "Binarize on all layers"),
    ],
)
def test_chosen_layers_stand_behind_the_step(step, said):
    assert step_words(recipe(step).steps[0]) == said


def test_every_step_has_words():
    for step_type in (kind for _, kind in STEPS.items()):
        assert step_words(step_type()).startswith(step_type.title)


def test_figures_in_words():
    assert [bytes_words(n) for n in (None, 999, 98_400, 1_234_567, 44_700_000)] == ["–", "999 B", "98.4 kB", "1.23 MB", "44.7 MB"]
    assert [count_words(n) for n in (None, 12, 37_220_000, 1_820_000_000)] == ["–", "12", "37.2 M", "1.82 G"]
    assert [times_words(n) for n in (None, 0.523, 36.84, 120.2)] == ["–", "0.52 ×", "36.8 ×", "120 ×"]
    assert [signed(n) for n in (1.4, -1.4, 0.0, -0.001)] == ["+1.40", "−1.40", "0.00", "0.00"]


def result(**metrics):
    figures = dict.fromkeys(FIGURES, 1) | {"latencies": [], "provenance": {"top1": "measured"}} | metrics
    return {
        "model": "resnet18", "dataset": "fashion_mnist", "recipe": {"seed": 0, "steps": [PRUNE]}, "split": "validation",
        "metrics": figures, "difference": {"top1": -0.4, "low": -0.9, "high": 0.1}, "machine": {"cpu": "a CPU"},
    }  # fmt: skip


def test_a_row_is_flat_and_prefers_real_int8():
    runtimes = ("pytorch-float32", "onnxruntime-int8", "onnxruntime-float32")
    entries = [{"runtime": name, "ratio": at, "ratio_low": at, "ratio_high": at} for at, name in enumerate(runtimes)]
    row = point(result(latencies=entries), elsewhere=True)
    assert (row["runtime"], row["ratio"], row["elsewhere"]) == ("onnxruntime-int8", 1, True)
    assert row["id"] == f"resnet18/{recipe(PRUNE).key()}" and row["gained"] == -0.4 and row["family"] == "Weights pruned"
    assert point(result())["ratio"] is None


def test_nothing_distinguishable():
    row = point(result())
    assert indistinct(row, "gained_low", "gained_high", 0) and not indistinct(row, "ratio_low", "ratio_high", 1)


def test_imports_no_torch():
    script = "import sys, core.studies.points, core.charts; assert not {'torch', 'plotly', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("steps", "possible"),
    [
        ([{"weight_bits": 8, "activation_bits": 8}], True),
        ([{"weight_bits": 4, "layers": "inner"}, {"weight_bits": 8, "activation_bits": 8, "layers": "inner"}], True),
        ([{"weight_bits": 8, "activation_bits": 8}, {"weight_bits": 8, "layers": "fc"}], True),
        ([{"weight_bits": 8}, {"weight_bits": 8, "activation_bits": 8, "layers": "fc"}], True),
        ([{"weight_bits": 4, "layers": "fc"}, {"weight_bits": 8, "activation_bits": 8, "layers": "layer1.*"}], False),
        ([{"weight_bits": 8, "activation_bits": 8}, {"parameters": "biases", "activation_bits": 4}], False),
        ([{"weight_bits": 8, "activation_bits": 8}, {"parameters": "biases"}], True),
        ([{"weight_bits": 8, "activation_bits": 8, "activation_scale": "dynamic"}], False),
        ([{"weight_bits": 8, "activation_bits": 8, "symmetric": False}], False),
        ([{"weight_bits": 8}], False),
    ],
)
def test_a_recipe_tells_whether_integers_can_run_it(steps, possible):
    recipe = Recipe.from_json({"steps": [{"step": "quantize"} | step for step in steps]})
    assert points.int8(recipe) == possible
