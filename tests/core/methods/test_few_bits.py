"""Binary, ternary, smaller floats, mixed precision, bias correction: each against its formula written out."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from core import artifact
from core.arithmetic import grids
from core.arithmetic.activations import measured
from core.errors import BadField
from core.keeping import prefixes
from core.methods import mixed_precision
from core.methods.apply import apply
from core.methods.binarize import Binarize
from core.methods.cast import Cast
from core.methods.correct_bias import CorrectBias
from core.methods.finetune import Finetune
from core.methods.magnitude_prune import MagnitudePrune
from core.methods.mixed_precision import MixedPrecision, allocate
from core.methods.quantize import Quantize
from core.methods.share_weights import ShareWeights
from core.methods.ternarize import Ternarize
from core.metrics.size import paper_bytes
from core.recipe import Recipe
from core.weights import Compressed, clone


@pytest.mark.parametrize("scaling", ["channel", "tensor"])
def test_binary_weights_are_signs_times_their_mean(subject, context, scaling):
    before = {name: subject.value(name).clone() for name in subject.weights}
    apply(Binarize(scaling=scaling), subject, context)
    first, *inner, last = subject.weights
    assert all(torch.equal(subject.value(name), before[name]) for name in (first, last))
    for name in inner:
        dims = (1, 2, 3) if scaling == "channel" else (0, 1, 2, 3)
        expected = torch.where(before[name] < 0, -1.0, 1.0) * before[name].abs().mean(dims, keepdim=True)
        torch.testing.assert_close(subject.value(name), expected)
        best = (before[name] * expected.sign()).mean(dims, keepdim=True)  # α = W·B / n minimises |W − αB|²
        torch.testing.assert_close(expected.abs(), best.expand_as(expected))


def test_binary_weights_take_a_bit_each_on_paper(subject, context):
    numbers = [subject.value(name).numel() for name in subject.weights]
    before = paper_bytes(subject)
    apply(Binarize(scaling="tensor", layers="all"), subject, context)
    assert before - paper_bytes(subject) == pytest.approx(sum(numbers) * 31 / 8 - 4 * len(numbers), abs=1)


def test_ternary_weights_follow_the_paper(subject, context):
    apply(MagnitudePrune(sparsity=0.2), subject, context)
    before = {name: subject.value(name).clone() for name in subject.weights}
    apply(Ternarize(layers="all"), subject, context)
    for name, value in before.items():
        for row, found in zip(value.flatten(1), subject.value(name).flatten(1)):
            kept = row != 0
            if not kept.any():
                assert not found.any()
                continue
            delta = 0.7 * row[kept].abs().mean()
            alpha = row.abs()[row.abs() > delta].mean()
            torch.testing.assert_close(found, torch.where(row.abs() > delta, row.sign() * alpha, torch.zeros(())))


@pytest.mark.parametrize("step", [Binarize(), Ternarize(), Ternarize(scaling="tensor"), Quantize(), Quantize(granularity="group", symmetric=False)])
def test_how_many_outputs_are_computed_at_once_changes_nothing(step, subject, context, monkeypatch):
    apply(MagnitudePrune(sparsity=0.2), subject, context)
    whole = dataclasses.replace(subject, module=clone(subject.module), weights=dict(subject.weights))
    apply(step, whole, context)
    monkeypatch.setattr(grids, "AT_ONCE", 300)  # a few outputs, or less than one
    apply(step, subject, context)
    for name, weight in subject.weights.items():
        assert torch.equal(subject.value(name), whole.value(name)), name
        assert weight.grid is None or torch.equal(weight.grid.codes, whole.weights[name].grid.codes)


@pytest.mark.parametrize("kind", [Binarize, Ternarize])
def test_binary_activations_take_two_values(kind, subject, context):
    apply(kind(activations=True), subject, context)
    assert subject.activations and {grid.bits for grid in subject.activations.values()} <= {1, 8}
    assert 1 in {grid.bits for grid in subject.activations.values()}
    read = []
    simulated = measured(subject)
    hook = simulated.get_submodule("features.6").register_forward_pre_hook(lambda _layer, inputs: read.append(inputs[0]))
    with torch.no_grad():
        assert torch.isfinite(simulated(torch.cat(list(context.calibration(20))))).all()
    hook.remove()
    assert len(read[0].unique()) == 2 and float(read[0].min()) == 0


def test_binary_activations_hold_while_ternary_weights_are_trained(subject, context, five_layer_checkpoint):
    """The grids stay, the weights stay on three values a channel, and the training makes up for much of the loss, through both."""
    from core.metrics.accuracy import evaluate

    right = lambda: float(evaluate(measured(subject), context.dataset, 32, "validation").right.mean())
    apply(Ternarize(activations=True), subject, context)
    grids, before = dict(subject.activations), right()
    apply(Finetune(epochs=3, images=1000, learning_rate=0.02), subject, context)
    assert subject.activations == grids and right() > before + 0.1
    assert all(len(row.unique()) <= 3 for row in subject.value("features.9.weight"))


def test_ternarize_without_activations_keeps_its_key():
    assert Recipe((Ternarize(),)).canonical() == '{"seed":0,"steps":[{"layers":"inner","scaling":"channel","step":"ternarize"}]}'
    assert Recipe((Ternarize(activations=True),)).key() != Recipe((Ternarize(),)).key()


@pytest.mark.parametrize("dtype,torch_type", [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_sixteen_bits_are_torchs_own_rounding(subject, context, dtype, torch_type):
    before = {name: subject.value(name).clone() for name in subject.weights}
    apply(Cast(dtype=dtype), subject, context)
    assert all(torch.equal(subject.value(name), value.to(torch_type).float()) for name, value in before.items())


def test_eight_bit_floats_are_the_nearest_of_all_there_are(subject, context):
    """E4M3 by its definition: 15 exponents and 8 mantissas, numbers below the least exponent, no infinity; scaled by a power of two."""
    table = torch.tensor([2.0 ** (exponent - 7) * (1 + mantissa / 8) for exponent in range(1, 16) for mantissa in range(8)][:-1])
    table = torch.cat([table, torch.arange(8) / 8 * 2.0**-6])
    table = torch.cat([-table, table]).sort().values
    before = {name: subject.value(name).clone() for name in subject.weights}
    apply(Cast(dtype="float8"), subject, context)
    for name, value in before.items():
        scale = float(subject.weights[name].grid.scale)
        assert 2.0 ** round(torch.log2(torch.tensor(scale)).item()) == scale and 224 < float(value.abs().max()) / scale <= 448
        scaled, found = value.flatten() / scale, subject.value(name).flatten() / scale
        assert torch.isin(found, table).all()
        assert torch.equal((found - scaled).abs(), (table - scaled[:, None]).abs().amin(1))


GRIDS = [
    Binarize(),
    Ternarize(),
    Cast(),
    Cast(dtype="float8"),
    ShareWeights(clusters=4, scope="model"),
    Quantize(granularity="group", group_size=16),
    Quantize(parameters="weights_and_biases"),
]


@pytest.mark.parametrize("step", GRIDS, ids=lambda step: step.name)
@pytest.mark.parametrize("train", [False, True], ids=["as it is", "trained"])
def test_every_grid_comes_back_from_the_file_and_from_a_kept_prefix(step, train, subject, context, home):
    apply(MagnitudePrune(sparsity=0.4, layers="inner"), subject, context)
    apply(step, subject, context)
    if train:
        apply(Finetune(epochs=1, images=200, learning_rate=0.01), subject, context)
    back = artifact.read(artifact.write(subject).data)
    prefixes.keep(f"grids-{step.name}", subject)
    kept = prefixes.recall(f"grids-{step.name}")
    for name in subject.weights:
        assert torch.equal(subject.value(name), back.value(name)) and torch.equal(subject.value(name), kept.value(name))
        assert torch.equal(subject.weights[name].value(), subject.value(name))
    assert artifact.write(kept).data == artifact.write(subject).data == artifact.write(back).data


@pytest.mark.parametrize("step", [Binarize(layers="all"), Ternarize(layers="all"), Cast(dtype="float8")], ids=lambda step: step.name)
def test_the_gradient_passes_straight_through(step, subject, context):
    from core.weights import trainable

    apply(step, subject, context)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    name = "features.3.weight"
    plain = torch.autograd.grad(subject.module(x).sum(), [subject.module.get_parameter(name)])[0]
    with trainable(subject) as module:
        module(x).sum().backward()
        torch.testing.assert_close(module.features[3].parametrizations.weight.original.grad, plain, rtol=1e-4, atol=1e-5)


def test_bits_are_given_as_a_search_over_all_would():
    lost = {"a": {2: 9.0, 4: 1.0, 8: 0.9}, "b": {2: 3.0, 4: 2.5, 8: 0.1}, "c": {2: 0.1, 4: 0.05, 8: 0.0}}
    sizes = {"a": 100, "b": 100, "c": 100}
    best = min(
        (sum(lost[name][bits] for name, bits in zip(lost, chosen)), chosen) for chosen in itertools.product((2, 4, 8), repeat=3) if sum(chosen) / 3 <= 14 / 3
    )
    assert tuple(allocate(lost, sizes, 14 / 3).values()) == best[1] == (4, 8, 2)


def test_mixed_precision_spends_at_most_the_average_where_it_matters(subject, context, monkeypatch):
    """By sensitivities that are scipy's divergences of the answers, with one layer rounded by a step of its own."""
    asked, events, whole = [], [], Compressed.of(subject.module, subject.architecture)
    monkeypatch.setattr(mixed_precision, "allocate", lambda lost, *given: asked.append(lost) or allocate(lost, *given))
    apply(MixedPrecision(average_bits=3.5, images=40), subject, dataclasses.replace(context, report=events.append))
    sizes = {name: subject.value(name).numel() for name in subject.weights}
    spent = sum(weight.grid.bits * sizes[name] for name, weight in subject.weights.items()) / sum(sizes.values())
    assert 3 < spent <= 3.5 and len({weight.grid.bits for weight in subject.weights.values()}) > 1
    assert any("mixed_precision gave" in note for note in subject.notes)
    fractions = [event["fraction"] for event in events]
    assert fractions == sorted(fractions) and fractions[-1] == 1 and len(fractions) == len(sizes) * 5
    x = torch.cat(list(context.calibration(40)))
    with torch.no_grad():
        for name, bits in (("features.3.weight", 2), ("fc.weight", 4)):
            alone = Compressed.of(whole.module, whole.architecture)
            apply(Quantize(weight_bits=bits, clipping="mse", layers=name.removesuffix(".weight")), alone, context)
            exact, moved = (state.module(x).double().softmax(1).numpy() for state in (whole, alone))
            assert asked[0][name][bits] == pytest.approx(float(entropy(exact, moved, axis=1).mean()), rel=1e-3, abs=1e-6)


def test_fewer_bits_on_average_than_any_candidate_are_refused():
    with pytest.raises(BadField, match="4 bits, the fewest of the candidates"):
        MixedPrecision(average_bits=2.5, candidates="4, 8")


def test_correcting_biases_restores_the_mean_of_every_channel(subject, context):
    """With all but one layer left whole, the mean output of that layer is again what it was, up to the border of the pictures."""
    name, path = "features.9.weight", "features.9"  # a 1×1 convolution: no border
    means = []

    def watch(module):
        outputs = []
        following = module.features[10]
        hook = following.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output.detach().clone()))  # a ReLU in place follows
        with torch.no_grad():
            for x in context.calibration(500, 100):
                module(x)
        hook.remove()
        return torch.cat(outputs).mean((0, 2, 3))

    means.append(watch(subject.module))
    apply(Quantize(weight_bits=2, layers=path), subject, context)
    means.append(watch(subject.module))
    apply(CorrectBias(images=500), subject, context)
    means.append(watch(subject.module))
    assert subject.weights[name].grid is not None
    assert float((means[1] - means[0]).abs().max()) > 0.05
    torch.testing.assert_close(means[2], means[0], atol=2e-3, rtol=1e-2)


def test_training_leaves_no_stale_latent_behind_a_codebook(subject, context):
    apply(ShareWeights(clusters=4), subject, context)
    apply(Finetune(epochs=1, images=300, learning_rate=0.05), subject, context)
    assert all(torch.equal(weight.latent, weight.value()) for weight in subject.weights.values())


def test_correct_bias_says_when_there_is_nothing_to_correct(subject, context):
    apply(CorrectBias(), subject, context)
    assert any("puts weights on a grid" in note for note in subject.notes)


def test_adaptive_rounding_moves_codes_by_one_and_loses_less_than_nearest(subject, context):
    from core.methods.round_adaptively import RoundAdaptively

    before = {name: subject.value(name).clone() for name in subject.weights}
    apply(Quantize(weight_bits=3, granularity="tensor"), subject, context)
    nearest = {name: weight.grid.codes.clone() for name, weight in subject.weights.items()}
    x = torch.cat(list(context.calibration(200)))

    def lost():
        """How far the second convolution's outputs are from those of its exact weight, on what it reads now."""
        with torch.no_grad():
            read = subject.module.features[:3](x)
            return float(
                torch.nn.functional.conv2d(read, subject.value("features.3.weight") - before["features.3.weight"], stride=2, padding=1).square().mean()
            )

    rounded, events = lost(), []
    apply(RoundAdaptively(iterations=200), subject, dataclasses.replace(context, report=events.append))
    assert [event["fraction"] for event in events] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])  # a layer each
    moved = {name: (weight.grid.codes - nearest[name]).abs() for name, weight in subject.weights.items()}
    assert all(int(change.max()) <= 1 for change in moved.values()) and any(bool(change.any()) for change in moved.values())
    assert lost() < 0.8 * rounded


def test_adaptive_rounding_comes_near_the_best_of_all_roundings(context):
    """Of ten inputs a layer's 2^10 roundings of each output can all be tried (arXiv:2004.10568, section 3.1)."""
    from core.methods.quantize import _grid
    from core.methods.round_adaptively import RoundAdaptively, _rounded
    from core.weights import Weight

    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=10)))  # (1024, 10)
    left = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(400, 10, generator=generator) @ torch.randn(10, 10, generator=generator)
        value = torch.randn(6, 10, generator=generator)
        weight = Weight(value, None, _grid(value, Quantize(weight_bits=3)))
        found = _rounded(RoundAdaptively(), weight, torch.nn.functional.linear, x, torch.Generator().manual_seed(0), context) or weight
        scale = weight.grid.scale.view(-1, 1, 1)
        changed = ((value[:, None] / scale).floor().clamp(-3, 2) + every) * scale - value[:, None]  # (6, 1024, 10)
        moment = x.T @ x / len(x)
        lost = lambda changed, moment=moment: ((changed @ moment) * changed).sum(-1)
        best, nearest, mine = lost(changed).amin(1).mean(), lost(weight.value() - value).mean(), lost(found.value() - value).mean()
        assert best <= mine * 1.0001 and mine <= nearest
        left.append(float((mine - best) / (nearest - best)))
    assert sum(left) / len(left) < 0.4  # of what rounding to nearest loses beyond the best


class Attending(torch.nn.Module):
    """A picture's 32 lines of 96 numbers attend to each other; the attention reads its projection's weight itself."""

    def __init__(self):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(96, 2, batch_first=True)
        self.fc = torch.nn.Linear(96, 10)

    def forward(self, x):
        lines = x.transpose(1, 2).flatten(2)
        return self.fc(self.attention(lines, lines, lines)[0].mean(1))


def test_adaptive_rounding_leaves_what_attention_runs_itself_with_a_note(subject, context):
    from core.methods.round_adaptively import RoundAdaptively

    torch.manual_seed(0)
    state = Compressed.of(Attending(), subject.architecture)
    apply(Quantize(weight_bits=3, granularity="tensor"), state, context)
    before = state.value("attention.out_proj.weight").clone()
    apply(RoundAdaptively(images=50, iterations=20), state, context)
    assert torch.equal(state.value("attention.out_proj.weight"), before)
    assert any("left attention.out_proj rounded to nearest, because attention" in note for note in state.notes)


def test_equalizing_changes_ranges_and_not_the_function(subject, context):
    from core.methods.equalize import Equalize

    with torch.no_grad():
        subject.module.features[3].weight[::2] *= 50  # what a batch norm can hide
        subject.module.features[4].running_mean[::2] *= 50
        subject.module.features[4].running_var[::2] *= 2500
    for name in list(subject.weights):
        from core.weights import Weight

        subject.set(name, Weight(subject.value(name)))
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = subject.module(x)
        spread = subject.value("features.3.weight").flatten(1).abs().amax(1)
        apply(Equalize(), subject, context)
        evened = subject.value("features.3.weight").flatten(1).abs().amax(1)
        torch.testing.assert_close(subject.module(x), before, rtol=1e-3, atol=1e-3)
    assert float(spread.max() / spread.min()) > 40 and float(evened.max() / evened.min()) < 1.5


def test_a_pair_of_layers_is_balanced_as_the_paper_does(subject):
    """s_i = √(r1_i / r2_i), in numpy (Nagel et al. 2019, arXiv:1906.04721, equation 11), of a convolution with the batch norm behind it and its reader."""
    from core.arithmetic.equalizing import balance, pairs

    pair = next(pair for pair in pairs(subject.module) if pair.readers == ("features.3",))
    norm = subject.module.get_submodule(pair.norm)
    first, second = (subject.value(f"{path}.weight").numpy().copy() for path in (pair.first, pair.readers[0]))
    gain, shift, deviation = (each.detach().numpy().copy() for each in (norm.weight, norm.bias, (norm.running_var + norm.eps).sqrt()))
    made = np.abs(first).max((1, 2, 3)) * np.abs(gain / deviation)
    scale = np.sqrt(made / np.abs(second).max((0, 2, 3)))
    balance(subject, pair)
    np.testing.assert_allclose(norm.weight.detach(), gain / scale, rtol=1e-5)
    np.testing.assert_allclose(norm.bias.detach(), shift / scale, rtol=1e-5)
    np.testing.assert_allclose(subject.value("features.3.weight"), second * scale[None, :, None, None], rtol=1e-5)


def test_equalizing_after_a_grid_is_refused():
    from core.errors import BadRecipe
    from core.methods.equalize import Equalize
    from core.recipe import Recipe

    with pytest.raises(BadRecipe, match="equalize cannot follow quantize"):
        Recipe((Quantize(), Equalize()))
