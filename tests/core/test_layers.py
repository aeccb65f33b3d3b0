"""The layers of a run: figures that add up to the run's own, and pictures against numpy and torch."""

from __future__ import annotations

import base64
import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from core import engine, zoo
from core.arithmetic.grids import Codebook, Floats, Signs, Uniform
from core.layers import facts as layers
from core.layers import values as layer_values
from core.layers.facts import FIGURES, Layers, measure, pattern
from core.recipe import Recipe, choose
from core.weights import Weight
from core.work import Work
from tests import five_layers

PRUNE, BITS = {"step": "magnitude_prune", "sparsity": 0.8, "scope": "layer"}, {"step": "quantize", "weight_bits": 4, "granularity": "tensor"}


def measured(*steps) -> tuple[dict, engine.Result]:
    recipe = Recipe.from_json({"steps": list(steps)})
    work = Work(five_layers.NAME, "digits", recipe, latency=False)
    return measure(Layers(work)), engine.run(work)


@pytest.mark.parametrize(
    "steps",
    [
        [], [PRUNE], [PRUNE, BITS], [BITS | {"parameters": "weights_and_biases"}], [{"step": "share_weights", "scope": "model"}],
        [{"step": "factorize", "energy": 0.5}], [{"step": "channel_prune", "sparsity": 0.5, "round_to": 1, "importance": "l2"}, BITS],
    ],
)  # fmt: skip
def test_the_figures_add_up_to_the_runs_own(five_layer_checkpoint, steps):
    found, run = measured(*steps)
    for when, metrics in (("before", run.baseline), ("after", run.metrics)):
        for figure in FIGURES:
            if figure != "artifact_bytes":  # the header of a run's file tells more
                assert found["total"][when][figure] == metrics[figure]
            parts = sum(entry[when][figure] for entry in found["layers"]) + found["rest"][when][figure]
            assert parts == pytest.approx(found["total"][when][figure]) and found["rest"][when][figure] >= -1e-6
        assert found["rest"][when]["macs"] == 0
    assert [entry["layer"] for entry in found["layers"]] == [name.rpartition(".")[0] for name in five_layers.FACTS["weights"]]


def test_pruned_and_rounded_layers_say_so(five_layer_checkpoint):
    found, _run = measured(PRUNE, BITS)
    first = found["layers"][0]
    weight = engine.loaded(five_layers.NAME, "digits", zoo.checkpoint(five_layers.NAME, "digits").hash).value("features.0.weight")
    threshold, grid = first["weight"]["marks"]
    cut = weight.abs().flatten().sort().values[round(0.8 * weight.numel())]
    assert threshold["kind"] == "threshold" and threshold["values"] == [pytest.approx(-float(cut)), pytest.approx(float(cut))]
    assert grid["kind"] == "grid" and len(grid["values"]) == 15 and grid["said"] == "15 levels of 4 bits"
    told = first["weight"]["histogram"]
    assert sum(told["before"]) == weight.numel() and sum(told["after"]) + told["zeros"][1] == weight.numel() and told["zeros"][1] >= round(0.8 * weight.numel())
    assert first["before"]["artifact_bytes"] == 4 * weight.numel() > 4 * first["after"]["artifact_bytes"]
    kept = np.frombuffer(base64.b64decode(first["weight"]["picture"]["shares"]), np.uint8)
    assert set(kept.tolist()) == {0, 255} and int((kept == 0).sum()) == told["zeros"][1]
    assert first["form"] == "3×3 convolution, 3 → 8" and found["layers"][-1]["form"] == "linear, 32 → 10"
    assert found["layers"][2]["form"] == "depthwise 3×3 convolution, 16 → 16"


def test_factors_are_multiplied_out(five_layer_checkpoint):
    found, _run = measured({"step": "factorize", "energy": 0.5, "layers": "features.3"})
    entry = found["layers"][1]
    assert entry["layer"] == "features.3" and "2 factors" in entry["notes"][0] and entry["weight"]["after_shape"] == entry["weight"]["before_shape"]
    before, after = (np.array(entry["weight"]["singular_values"][when]) for when in ("before", "after"))
    rank = int((after > 1e-4 * after[0]).sum())
    assert 1 <= rank < len(before) and after[:rank] == pytest.approx(before[:rank], rel=1e-3)
    parts = torch.nn.Sequential(torch.nn.Conv2d(4, 2, 1, bias=False), torch.nn.Conv2d(2, 3, 3, bias=False), torch.nn.Conv2d(3, 6, 1, bias=False))
    x, whole = torch.randn(1, 4, 5, 5), layer_values.effective(parts)
    assert whole.shape == (6, 4, 3, 3) and torch.allclose(torch.nn.functional.conv2d(x, whole), parts(x), atol=1e-5)


def test_a_student_of_another_model_leaves_no_layer(five_layer_checkpoint):
    """Its figures are all in the rest."""
    from core.models.architecture import Architecture
    from core.weights import Compressed

    base = engine.loaded(five_layers.NAME, "digits", zoo.checkpoint(five_layers.NAME, "digits").hash)
    other = Compressed.of(zoo.build("squeezenet1_1", 10, 32), Architecture.plain("squeezenet1_1", 10, 32))
    told, _notes = layers._weight(base, other, "features.0", contextlib.nullcontext)
    assert told["after_shape"] is None and told["picture"] is None and told["histogram"]["after"] is None


def test_no_layer_of_another_model_is_taken_for_one_of_the_same_name(five_layer_checkpoint):
    """resnet18 has an `fc`, too."""
    found, _run = measured({"step": "student", "model": "resnet18", "width": 0.25})
    assert all(entry["after"] is None for entry in found["layers"]) and found["rest"]["after"] == found["total"]["after"]


def test_singular_values_are_torchs():
    for shape in ((6, 3, 3, 3), (40, 5), (5, 40)):
        value = torch.randn(shape)
        expected = torch.linalg.svdvals(value.flatten(1))
        assert layer_values.singular_values(value) == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)
    assert layer_values.singular_values(torch.empty(3000, 3000)) is None


def test_a_large_picture_is_the_share_that_is_kept():
    value = torch.zeros(512, 64, 3, 3)
    value[:256] = 1.0
    told = layer_values.picture(value)
    shares = np.frombuffer(base64.b64decode(told["shares"]), np.uint8).reshape(told["rows"], told["columns"])
    assert shares.shape == (128, 128) and (shares[:64] == 255).all() and (shares[64:] == 0).all()


def test_a_threshold_is_drawn_only_where_size_decided():
    value = torch.tensor([[0.1, -0.2, 0.3, -0.4]])
    by_size = layer_values.marks(value, Weight(value, torch.tensor([[False, False, True, True]])))
    assert by_size == [{"kind": "threshold", "values": [pytest.approx(-0.3), pytest.approx(0.3)], "said": "pruned below 0.3"}]
    assert layer_values.marks(value, Weight(value, torch.tensor([[True, False, False, True]]))) == []
    assert layer_values.marks(value, Weight(value, torch.ones(1, 4, dtype=torch.bool))) == []


def test_a_grid_of_many_scales_shows_the_middle_one():
    scale = torch.tensor([[0.1], [0.2], [0.4]])
    grid = Uniform(torch.zeros(3, 2, dtype=torch.int16), scale, torch.zeros(3, 1, dtype=torch.int16), 3, True)
    (mark,) = layer_values.marks(torch.ones(3, 2), Weight(torch.ones(3, 2), None, grid))
    assert mark["values"] == pytest.approx([-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6]) and "middle one of 3 scales" in mark["said"]


def test_shared_values_and_signs_are_drawn_too():
    book = Codebook(torch.ones(1, 2, dtype=torch.int16), torch.tensor([0.0, -0.5, 0.25]))
    assert layer_values.marks(torch.ones(1, 2), Weight(torch.ones(1, 2), None, book)) == [
        {"kind": "centroids", "values": [-0.5, 0.25], "said": "2 shared values"}
    ]
    for bits, levels in ((1, [-0.5, 0.5]), (2, [-0.5, 0.0, 0.5])):
        signs = Signs(torch.empty(0), torch.tensor([[0.5]]), torch.zeros(1, 1), bits).round(torch.ones(1, 2))
        (mark,) = layer_values.marks(torch.ones(1, 2), Weight(torch.ones(1, 2), None, signs))
        assert (mark["kind"], mark["values"]) == ("grid", levels)


@pytest.mark.parametrize(
    ("dtype", "values", "said"),
    [("float8", [-0.875, 0.875], "float8_e4m3, scale 0.00195, up to ±0.875"), ("float16", [], "float16, unscaled"), ("bfloat16", [], "bfloat16, unscaled")],
)
def test_a_smaller_float_is_named_and_its_ends_are_drawn_where_it_is_scaled_to_the_weights(dtype, values, said):
    value = torch.tensor([[0.5, -0.25]])
    assert layer_values.marks(value, Weight(value, None, Floats.of(value, dtype))) == [{"kind": "grid", "values": values, "said": said}]


@given(some.sampled_from(["resnet18", "mobilenet_v3_small", "densenet121"]), some.data())
def test_a_pattern_means_exactly_the_chosen_layers(model, data):
    names = zoo.models()[model]["weights"]
    paths = [name.rpartition(".")[0] for name in names]
    chosen = data.draw(some.lists(some.sampled_from(paths), min_size=1, unique=True))
    block = data.draw(some.sampled_from(sorted({path.partition(".")[0] for path in paths})))
    for wanted in (chosen, [path for path in paths if path.partition(".")[0] == block]):
        meant = choose(names, pattern(wanted, paths))
        assert {name.rpartition(".")[0] for name in meant} == set(wanted)


def test_patterns_are_short():
    paths = [name.rpartition(".")[0] for name in zoo.models()["resnet18"]["weights"]]
    assert pattern(paths, paths) == "all"
    assert pattern(["fc", *(path for path in paths if path.startswith("layer1."))], paths) == "layer1.*, fc"
    assert pattern(["layer2.0.downsample.0"], paths) == "layer2.0.downsample.0"
