"""Factors against numpy's SVD, tensorly's Tucker decomposition and the whole layer; then real models all the way to their files."""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorly.decomposition
import torch
import torch_pruning
from torch import nn

from core import artifact, engine, training, zoo
from core.arithmetic import channels, factors
from core.arithmetic.activations import measured
from core.arithmetic.folding import fold, pairs, trace
from core.datasets import load
from core.errors import BadField, BadRecipe
from core.keeping import prefixes
from core.methods.apply import Context, apply
from core.methods.calibrate_batchnorm import CalibrateBatchnorm
from core.methods.channel_prune import ChannelPrune
from core.methods.factorize import Factorize, _factors
from core.methods.magnitude_prune import MagnitudePrune
from core.methods.quantize import Quantize
from core.metrics import cost
from core.metrics.latency import EAGER, FLOAT32, signature
from core.models.architecture import Architecture, allocate
from core.recipe import Recipe
from core.runtimes import onnx as runtime
from core.weights import Compressed, Weight
from core.work import Work
from tests import five_layers

SHAPES = [(12, 20), (20, 12), (8, 3, 3, 3), (40, 2, 3, 3), (16, 24, 1, 1), (6, 10, 1, 3)]
KERNELS = [(16, 12, 3, 3), (24, 4, 5, 5), (8, 20, 1, 7)]


def weight_of(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Random, with singular values that fall by a fifth each, as those of trained layers do."""
    generator = torch.Generator().manual_seed(seed)
    sides = [torch.linalg.qr(torch.randn(length, length, generator=generator)).Q * 0.8 ** torch.arange(length) for length in shape[:2]]
    return torch.einsum("oi...,po,qi->pq...", torch.randn(shape, generator=generator), *sides)


def product(parts: list[torch.Tensor]) -> np.ndarray:
    """The one weight that factors in a row compute, by einsum in float64."""
    arrays = [part.double().numpy() for part in parts]
    if arrays[0].ndim == 2:
        return arrays[1] @ arrays[0]
    if len(arrays) == 2:
        return np.einsum("rihw,or->oihw", arrays[0], arrays[1][:, :, 0, 0])
    return np.einsum("ai,bahw,ob->oihw", arrays[0][:, :, 0, 0], arrays[1], arrays[2][:, :, 0, 0])


def svd_of(weight: torch.Tensor, rank: int) -> list[torch.Tensor]:
    return factors.svd(weight, rank, factors.spectrum(weight, factors.shorter))


def tucker_of(kernel: torch.Tensor, ranks: list[int], rounds: int = 3) -> list[torch.Tensor]:
    return factors.tucker(kernel, ranks, factors.spectrum(kernel, factors.by_input), factors.spectrum(kernel, factors.by_output), rounds)


def relative_error(parts: list[torch.Tensor], weight: torch.Tensor) -> float:
    whole = weight.double().numpy()
    return float(np.linalg.norm(product(parts) - whole) / np.linalg.norm(whole))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_what_svd_factors_lose_is_numpys_discarded_singular_values(shape, rank):
    weight = weight_of(shape)
    values = np.linalg.svd(weight.double().numpy().reshape(shape[0], -1), compute_uv=False)
    parts = svd_of(weight, rank)
    assert [tuple(part.shape) for part in parts] == factors.factor_shapes(["svd", rank], shape)
    assert relative_error(parts, weight) == pytest.approx(np.sqrt((values[rank:] ** 2).sum() / (values**2).sum()), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_the_rank_is_the_smallest_that_keeps_the_share_of_numpys_squares(shape, share):
    weight = weight_of(shape)
    squares = np.linalg.svd(weight.double().numpy().reshape(shape[0], -1), compute_uv=False) ** 2
    expected = next(rank for rank in range(1, len(squares) + 1) if squares[:rank].sum() >= share * squares.sum() * (1 - 1e-12))
    assert factors.spectrum(weight, factors.shorter).rank_keeping(share) == expected


@pytest.mark.parametrize("shape", KERNELS)
@pytest.mark.parametrize("ranks", [[1, 1], [2, 3], [4, 6], [3, 8]])
def test_tucker_factors_are_as_good_as_tensorlys(shape, ranks):
    kernel = weight_of(shape)
    (core, (out, into)), _errors = tensorly.decomposition.partial_tucker(kernel.double().numpy(), [ranks[1], ranks[0]], modes=[0, 1], n_iter_max=200, tol=1e-10)
    theirs = np.linalg.norm(np.einsum("bahw,ob,ia->oihw", core, out, into) - kernel.double().numpy()) / np.linalg.norm(kernel.double().numpy())
    parts = tucker_of(kernel, ranks)
    assert [tuple(part.shape) for part in parts] == factors.factor_shapes(["tucker", *ranks], shape)
    assert relative_error(parts, kernel) == pytest.approx(theirs, rel=2e-3, abs=1e-6)
    assert relative_error(parts, kernel) <= relative_error(tucker_of(kernel, ranks, rounds=0), kernel) + 1e-6


@pytest.mark.parametrize("energy", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("method", ["svd", "tucker"])
def test_all_factors_together_keep_the_energy_that_was_asked_for(method, energy):
    for shape in [(32, 48, 3, 3), (48, 24, 5, 5)]:
        for rounds in (0, 3):
            kernel = weight_of(shape)
            _form, parts = _factors(Factorize(method=method, energy=energy), kernel, rounds, contextlib.nullcontext)
            assert relative_error(parts, kernel) ** 2 <= (1 - energy) * (1 + 1e-5)


@pytest.mark.parametrize("find", [lambda weight: svd_of(weight, 3), lambda weight: tucker_of(weight, [2, 3])])
def test_a_weight_of_low_rank_is_found_again_and_what_it_ignores_is_ignored_exactly(find):
    kernel = torch.from_numpy(product(tucker_of(weight_of((8, 6, 3, 3)), [2, 3]))).float()
    kernel[4], kernel[:, 1] = 0, 0
    parts = find(kernel)
    assert relative_error(parts, kernel) < 1e-5
    assert not parts[0][:, 1].any() and not parts[-1][4].any() and parts[-1][:4].all()
    assert all(not part.any() for part in find(torch.zeros(8, 6, 3, 3)))


def test_a_channel_between_factors_is_made_and_read_with_one_norm():
    first, last = svd_of(weight_of((20, 12)), 5)
    np.testing.assert_allclose(first.norm(dim=1), last.norm(dim=0), rtol=1e-4)


@pytest.mark.parametrize("form", [["svd", 5], ["tucker", 3, 4]])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"padding": (2, 1), "dilation": 2}, {"bias": False, "padding": 1}, {"padding": 1, "padding_mode": "reflect"}]
)
def test_factors_in_a_row_are_the_convolution_by_their_product(form, options):
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(6, 10, 3, **options), nn.Linear(3, 3)).eval()
    parts = svd_of(whole[0].weight.detach(), 5) if form[0] == "svd" else tucker_of(whole[0].weight.detach(), form[1:])
    factored = copy.deepcopy(whole)
    made = factors.put_factors(factored, "0", form)
    allocate(made)
    with torch.no_grad():
        for layer, part in zip(made, parts, strict=True):
            layer.weight.copy_(part)
        whole[0].weight.copy_(torch.from_numpy(product(parts)))
    x = torch.randn(2, 6, 9, 9)
    torch.testing.assert_close(made(x), whole[0](x), rtol=1e-4, atol=1e-5)
    assert [layer.bias is not None for layer in made] == [False] * (len(made) - 1) + [options.get("bias", True)]
    assert not made.training and all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in made)


def baseline(model: str, dataset: str = "fashion_mnist") -> tuple[Compressed, Context]:
    checkpoint = zoo.checkpoint(model, dataset)
    subject = Compressed.of(checkpoint.load(), Architecture(model, checkpoint.classes, checkpoint.input_size))
    return subject, Context(checkpoint, load(dataset))


def random_model(model: str) -> tuple[Compressed, Context]:
    torch.manual_seed(0)
    plain = Architecture.plain(model, 10, 32)
    return Compressed.of(zoo.build(model, 10, 32), plain), Context(SimpleNamespace(input_size=32), None)


def pictures(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=torch.channels_last)


def answers(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module(x)


REAL = ["squeezenet1_1", *(pytest.param(model, marks=pytest.mark.slow) for model in ("mobilenet_v3_small", "resnet18"))]


@pytest.fixture(scope="module")
def factored():
    """Model and method → a factored checkpoint and its context, made once; the state is the test's own."""
    made: dict = {}

    def give(model: str, method: str) -> tuple[Compressed, Context]:
        if (model, method) not in made:
            subject, context = baseline(model)
            apply(Factorize(method=method, energy=0.8), subject, context)
            made[model, method] = subject, context
        subject, context = made[model, method]
        return Compressed(Compressed.of(subject.module, subject.architecture).module, subject.architecture, dict(subject.weights)), context

    return give


@pytest.mark.parametrize("method", ["svd", "tucker"])
@pytest.mark.parametrize("model", REAL)
class TestARealModel:
    def test_is_smaller_by_torch_prunings_count(self, model, method, factored):
        (subject, _context), (whole, _) = factored(model, method), baseline(model)
        macs, parameters = torch_pruning.utils.count_ops_and_params(subject.module, pictures(1))
        assert cost.parameters(subject.module) == parameters < 0.9 * cost.parameters(whole.module)
        assert cost.count(subject.module, 32).uncounted == cost.count(whole.module, 32).uncounted
        plain = torch_pruning.utils.count_ops_and_params(whole.module, pictures(1))[0]
        assert cost.macs(subject.module, 32) - cost.macs(whole.module, 32) == pytest.approx(macs - plain, rel=0.01)
        assert signature(subject, FLOAT32) != signature(whole, FLOAT32)

    def test_comes_back_from_its_file_and_from_a_kept_prefix_bit_for_bit(self, model, method, factored, home):
        subject, _context = factored(model, method)
        data = artifact.write(subject, None, Recipe((Factorize(method=method, energy=0.8),))).data
        prefixes.keep("factored", subject)
        for back in (artifact.read(data), prefixes.recall("factored")):
            assert back.architecture == subject.architecture and back.architecture.factors
            assert list(back.weights) == list(subject.weights) and repr(back.module) == repr(subject.module)
            assert all(torch.equal(tensor, subject.module.state_dict()[name]) for name, tensor in back.module.state_dict().items())
            assert all(one.stride() == other.stride() for one, other in zip(back.module.parameters(), subject.module.parameters(), strict=True))
            assert torch.equal(answers(back.module, pictures(2)), answers(subject.module, pictures(2)))
            assert signature(back, EAGER) == signature(subject, EAGER)
        assert artifact.describe(data)["architecture"] == json.loads(json.dumps(subject.architecture.to_json()))

    def test_folds_batch_norm_into_the_last_factor_and_exports(self, model, method, factored):
        (subject, _context), (whole, _) = factored(model, method), baseline(model)
        graph = trace(subject.module)
        folded = [convolution.target for convolution, _norm in pairs(subject.module, graph)]
        norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in subject.module.modules())
        assert len(folded) == norms
        normed = {convolution.target for convolution, _norm in pairs(whole.module, trace(whole.module))}
        for path, form in subject.architecture.factors.items():
            *inner, last = (f"{path}.{number}" for number in range(len(form)))
            assert not set(inner) & set(folded)
            assert (path in normed) == (last in folded)
        expected = answers(subject.module, pictures(3))
        torch.testing.assert_close(answers(fold(subject.module), pictures(3)), expected, rtol=1e-3, atol=1e-3)
        session = runtime.session(runtime.export_float32(subject.module, 32))
        np.testing.assert_allclose(runtime.logits(session, pictures(3)), expected.numpy(), rtol=1e-3, atol=1e-3)

    def test_loses_channels_afterwards_also_those_between_factors(self, model, method, factored):
        subject, context = factored(model, method)
        before = {name: tuple(parameter.shape) for name, parameter in subject.module.named_parameters()}
        apply(ChannelPrune(sparsity=0.3, importance="l2", round_to=1), subject, context)
        narrower = {name for name, shape in before.items() if tuple(subject.module.get_parameter(name).shape) != shape}
        assert any(f"{path}.0.weight" in narrower for path in subject.architecture.factors)
        back = artifact.read(artifact.write(subject).data)
        assert back.architecture == subject.architecture and back.architecture.shapes
        assert torch.equal(answers(back.module, pictures(2)), answers(subject.module, pictures(2)))

    def test_runs_as_int8_with_the_answers_of_the_simulation(self, model, method, factored):
        subject, context = factored(model, method)
        few = replace(context, images_at_most=100)
        apply(CalibrateBatchnorm(), subject, few)
        apply(Quantize(weight_bits=8, activation_bits=8), subject, few)
        assert runtime.int8_possible(subject) is None
        batches = [x for x, _labels in context.dataset.batches("validation", 32, 250, 500)]
        expected = np.concatenate([answers(measured(subject), x).argmax(1).numpy() for x in batches])
        found = runtime.predict(runtime.session(runtime.export_int8(subject)), batches)
        assert (found == expected).mean() >= 0.99


def test_channels_that_fall_after_factoring_fall_as_if_nothing_read_them(factored):
    subject, _context = factored("mobilenet_v3_small", "tucker")
    found = channels.groups(subject.module, 32)
    chosen = [(group, torch.arange(0, group.units, 2)[: max(1, group.units // 2)]) for group in found if group.units > 1]
    whole = copy.deepcopy(subject.module).double()
    smaller = copy.deepcopy(whole)
    channels.disconnect(whole, chosen)
    channels.remove(smaller, chosen)
    x = pictures(2).double()
    expected = answers(whole, x)
    torch.testing.assert_close(answers(smaller, x), expected, rtol=1e-9, atol=1e-9 * float(expected.std()))


def test_factors_of_a_narrowed_network_come_back_too():
    subject, context = random_model("squeezenet1_1")
    apply(ChannelPrune(sparsity=0.5, importance="l2"), subject, context)
    apply(Factorize(method="tucker", rank=0.4), subject, context)
    assert subject.architecture.factors and subject.architecture.shapes
    back = artifact.read(artifact.write(subject).data)
    assert back.architecture == subject.architecture and repr(back.module) == repr(subject.module)
    assert torch.equal(answers(back.module, pictures(2)), answers(subject.module, pictures(2)))


@pytest.mark.parametrize(
    ("model", "layers", "made", "whole"),
    [
        pytest.param(
            "vit_b_32", "encoder.layers.encoder_layer_0.*, heads*", {"mlp.0", "mlp.3"}, {"self_attention", "self_attention.out_proj"}, marks=pytest.mark.slow
        ),
        ("swin_t", "features.1.0.*", {"mlp.0", "mlp.3"}, {"attn.qkv", "attn.proj"}),
        ("shufflenet_v2_x0_5", "stage2.0.*", {"branch1.2", "branch2.0"}, {"branch1.0", "branch2.3"}),
    ],
)
def test_what_is_grouped_or_not_called_stays_whole_with_a_note(model, layers, made, whole):
    subject, context = random_model(model)
    apply(Factorize(rank=0.2, layers=layers), subject, context)
    assert all(any(path.endswith(end) for path in subject.architecture.factors) for end in made)
    assert not any(path.endswith(end) for path in subject.architecture.factors for end in whole)
    (note,) = (note for note in subject.notes if "grouped" in note)
    assert f"left {len(whole)} of" in note and all(end in note for end in whole)
    assert torch.isfinite(answers(subject.module, pictures(1))).all()
    assert Architecture.from_json(json.loads(json.dumps(subject.architecture.to_json()))) == subject.architecture
    assert channels.groups(subject.module, 32)


def test_layers_whose_factors_would_be_larger_are_named_in_one_note(subject, context):
    before = copy.deepcopy(subject.module.state_dict())
    apply(Factorize(energy=1.0), subject, context)
    assert subject.architecture.factors == {}
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.module.state_dict().items())
    assert subject.notes == [
        "factorize left 4 of 5 layers whole, because their factors would be larger: features.0, features.3, features.9, fc.",
        "factorize left 1 of 5 layers whole, because they are grouped convolutions, attention or factors already: features.6.",
    ]


@pytest.mark.parametrize("method", ["svd", "tucker"])
def test_more_energy_never_makes_a_smaller_model(method, five_layer_checkpoint, context):
    sizes = []
    for energy in (0.2, 0.5, 0.8, 0.9, 0.99):
        state = Compressed.of(five_layer_checkpoint.load(), Architecture("five_layers", 10, five_layer_checkpoint.input_size))
        apply(Factorize(method=method, energy=energy), state, context)
        sizes.append(cost.parameters(state.module))
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_scattered_zeros_are_filled_with_a_note_and_empty_channels_stay_empty(subject, context):
    name = "features.3.weight"
    keep = torch.ones_like(subject.value(name), dtype=torch.bool)
    keep[2], keep[:, 3], keep[5, 5, 0, 0] = False, False, False
    subject.set(name, Weight(subject.value(name), keep))
    apply(MagnitudePrune(sparsity=0.5, layers="features.9"), subject, context)
    apply(Factorize(rank=0.25, layers="features.3, features.9"), subject, context)
    first, last = (subject.weights[f"features.3.{number}.weight"] for number in (0, 1))
    assert not first.mask[:, 3].any() and first.mask[:, 2].all() and not last.mask[2].any() and last.mask[3].all()
    assert subject.weights["features.9.0.weight"].mask is None or subject.weights["features.9.0.weight"].mask.any()
    assert any("zeros of 2 layers" in note and "prune after it" in note for note in subject.notes)


def test_factors_go_by_the_name_of_their_layer_too(subject, context):
    apply(Factorize(rank=0.25, layers="features.0, features.3, fc"), subject, context)
    assert set(subject.architecture.factors) == {"features.0", "features.3", "fc"}
    factors_of = lambda path: [f"{path}.0.weight", f"{path}.1.weight"]
    assert subject.chosen("features.3") == subject.chosen("features.3.weight") == factors_of("features.3")
    assert subject.chosen("features.3.1") == ["features.3.1.weight"]
    assert subject.chosen("inner") == [*factors_of("features.3"), "features.6.weight", "features.9.weight"]  # first and last layer stay whole
    assert subject.chosen("fc, features.9") == ["features.9.weight", *factors_of("fc")]


@pytest.mark.parametrize("layers", ["features.3", "features.3.0", "inner", "features.6, features.3.1"])
@pytest.mark.parametrize("step", [{"step": "quantize"}, {"step": "entropy_prune"}], ids=lambda step: step["step"])
def test_a_step_behind_can_name_a_layer_or_a_factor_of_it(step, layers, five_layer_checkpoint):
    recipe = Recipe.from_json({"steps": [{"step": "factorize", "rank": 0.25, "layers": "features.3"}, step | {"layers": layers}]})
    subject = engine.compress(Work(five_layers.NAME, "digits", recipe, latency=False))
    assert "features.3" in subject.architecture.factors
    with pytest.raises(BadField, match=r"a layer, such as 'features\.0' or 'fc'"):
        Work(five_layers.NAME, "digits", Recipe.from_json({"steps": [{"step": "factorize", "layers": "features.3"}, step | {"layers": "features.9.0"}]}))


def test_factors_are_not_factored_again(subject, context):
    apply(Factorize(rank=0.25, layers="features.3"), subject, context)
    with pytest.raises(BadRecipe, match="finds no layer to factor"):
        apply(Factorize(rank=0.1, layers="features.3*"), subject, context)
    apply(Factorize(rank=0.1), subject, context)
    assert set(subject.architecture.factors) == {"features.0", "features.3", "features.9", "fc"}
    assert any("factors already: features.3.0, features.3.1" in note for note in subject.notes)
    assert torch.isfinite(answers(subject.module, torch.zeros(1, 3, 32, 32))).all()


@pytest.mark.parametrize("method", ["svd", "tucker"])
def test_a_preview_has_the_shapes_of_the_run_and_progress_reaches_the_end(method, five_layer_checkpoint, context):
    made, events, turns = [], [], []

    @contextlib.contextmanager
    def turn():
        turns.append(1)
        yield

    for images in (None, 100):
        state = Compressed.of(five_layer_checkpoint.load(), Architecture("five_layers", 10, five_layer_checkpoint.input_size))
        apply(Factorize(method=method, rank=0.3), state, Context(five_layer_checkpoint, context.dataset, 0, images, turn, events.append))
        made.append(state)
    assert made[0].architecture == made[1].architecture and made[0].architecture.factors
    fractions = [event["fraction"] for event in events[: len(events) // 2]]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and len(turns) > 8


def test_factors_are_trained_and_what_training_made_is_kept(five_layer_checkpoint, monkeypatch):
    steps = [{"step": "factorize", "rank": 0.3}, {"step": "finetune", "images": 200}]

    def work(bits: int) -> Work:
        return Work(five_layers.NAME, "digits", Recipe.from_json({"steps": [*steps, {"step": "quantize", "weight_bits": bits}]}), latency=False)

    first = engine.run(work(8))
    assert first.metrics["parameters"] < first.baseline["parameters"] and first.metrics["macs"] < first.baseline["macs"]
    before = engine.compress(work(8)).module.state_dict()
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.compress(work(8)).module.state_dict().items())
    assert engine.run(work(4)).metrics["artifact_bytes"] < first.metrics["artifact_bytes"]


def test_what_cannot_be_factored_is_refused_in_a_sentence(subject, context):
    with pytest.raises(BadRecipe, match=r"layers 'features\.6' of five_layers, because grouped") as caught:
        apply(Factorize(layers="features.6"), subject, context)
    assert str(caught.value).endswith(".")
    with pytest.raises(BadRecipe, match="before quantize"):
        Recipe((Quantize(), Factorize()))


@pytest.mark.parametrize("fields", [{"energy": 1.1}, {"energy": -0.1}, {"energy": float("nan")}, {"rank": 0.0}, {"rank": 2}, {"method": "cp"}])
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(BadField):
        Factorize(**fields)
