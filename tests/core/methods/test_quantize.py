"""Grids against hand-computed ones and torch's own fake quantization."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from core import artifact
from core.arithmetic import ranges
from core.arithmetic.activations import inputs_of, measured, rounded_by_picture
from core.arithmetic.ranges import fit
from core.errors import Cancelled
from core.methods.apply import apply
from core.methods.binarize import Binarize
from core.methods.magnitude_prune import MagnitudePrune
from core.methods.quantize import Quantize, _grid
from core.methods.round_adaptively import RoundAdaptively
from core.methods.ternarize import Ternarize
from core.recipe import Recipe
from core.runtimes.onnx import int8_possible
from core.work import Work


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_symmetric_channel_grid_equals_torch(bits):
    value = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    grid = _grid(value, Quantize(weight_bits=bits))
    scale = value.abs().amax((1, 2, 3)) / (2 ** (bits - 1) - 1)
    reference = torch.fake_quantize_per_channel_affine(value, scale, torch.zeros(6, dtype=torch.int32), 0, -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)
    torch.testing.assert_close(grid.value(), reference)
    assert grid.scale.shape == (6, 1, 1, 1) and len(grid.codes.unique()) <= 2**bits - 1


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_asymmetric_tensor_grid_equals_torch_and_holds_zero(bits):
    value = torch.rand(5, 7, generator=torch.Generator().manual_seed(2)) - 0.2
    grid = _grid(value, Quantize(weight_bits=bits, granularity="tensor", symmetric=False))
    least = -(2 ** (bits - 1))
    reference = torch.fake_quantize_per_tensor_affine(value, float(grid.scale), int(grid.zero_point), least, -least - 1)
    torch.testing.assert_close(grid.value(), reference)
    assert least <= int(grid.zero_point) <= -least - 1
    assert float(grid.round(torch.zeros(1, 1)).value()) == 0.0


def test_hand_computed_grid():
    grid = _grid(torch.tensor([[-1.0, 0.2, 0.5, 0.9]]), Quantize(weight_bits=3, granularity="tensor"))
    assert grid.codes.tolist() == [[-3, 1, 2, 3]] and float(grid.scale) == pytest.approx(1 / 3)


def test_clipping_by_error_is_never_worse_than_covering():
    rows = torch.randn(16, 400, generator=torch.Generator().manual_seed(3)) ** 3
    for bits in (2, 4):
        lost = {clipping: _squares(rows, *fit(rows, bits, True, clipping), 2 ** (bits - 1) - 1) for clipping in ("minmax", "mse")}
        assert (lost["mse"] <= lost["minmax"]).all() and (lost["mse"] < lost["minmax"]).any()
        widest = rows.abs().amax(1) / (2 ** (bits - 1) - 1)
        best = torch.stack([_squares(rows, share * widest, None, 2 ** (bits - 1) - 1) for share in torch.linspace(0.3, 1, 200)]).amin(0)
        assert (lost["mse"] <= 1.05 * best).all()  # of all ranges there are, it tries fifteen


def _squares(rows, scale, _zero, highest):
    return ((rows / scale[:, None]).round().clamp(-highest, highest) * scale[:, None] - rows).square().sum(1)


def test_percentile_leaves_out_the_outermost_and_keeps_short_rows_whole():
    rows = torch.arange(-5000.0, 5001).view(1, -1)
    assert float(fit(rows, 8, True, "percentile")[0]) == pytest.approx(float(rows.abs().flatten().sort().values[-11]) / 127)
    assert float(fit(rows[:, :100], 8, True, "percentile")[0]) == pytest.approx(5000 / 127)


def test_percentile_counts_what_is_left_and_not_what_was_pruned():
    generator = torch.Generator().manual_seed(8)
    rows = torch.randn(6, 40_000, generator=generator)
    rows *= torch.rand(rows.shape, generator=generator) > torch.tensor([0.0, 0.5, 0.95, 0.99, 0.9999, 1.0])[:, None]  # 40,000 … about 4, and none left
    scale, _zero = fit(rows, 8, True, "percentile")
    wide, zeros = fit(rows, 8, False, "percentile")
    for row, found, spread, zero in zip(rows.double().numpy(), scale, wide, zeros):
        left = row[row != 0]
        if not left.size:
            assert float(found) == float(spread) == 1
            continue
        below, above = (np.percentile(left, share, method="nearest") for share in (0.1, 99.9))
        assert float(found) == pytest.approx(np.percentile(np.abs(left), 99.9, method="nearest") / 127, rel=1e-5)
        assert float(spread) == pytest.approx((max(above, 0) - min(below, 0)) / 255, rel=1e-5)
        assert (-128 - float(zero)) * float(spread) == pytest.approx(min(below, 0), abs=float(spread))


def test_entropy_looks_at_rows_in_pieces_and_finds_the_same(monkeypatch):
    rows = torch.randn(50, ranges.BINS, generator=torch.Generator().manual_seed(9)) ** 3
    whole = fit(rows, 4, False, "entropy")
    seen, plain = [], ranges._divergence
    monkeypatch.setattr(ranges, "_divergence", lambda part, *given: seen.append(len(part)) or plain(part, *given))
    monkeypatch.setattr(ranges, "AT_ONCE", 8 * ranges.BINS)
    assert all(torch.equal(*pair) for pair in zip(fit(rows, 4, False, "entropy"), whole))
    assert seen == [8] * 6 + [2]


def test_sixteen_bits_are_not_clipped_by_entropy(monkeypatch):
    """A table of 65,535 levels for each of a layer's many rows would take gigabytes, and there is nothing to gain."""
    monkeypatch.setattr(ranges, "_divergence", lambda *_: pytest.fail("looked for what to clip"))
    rows = torch.randn(50, 64, generator=torch.Generator().manual_seed(9)) ** 3
    assert torch.equal(fit(rows, 16, True, "entropy")[0], fit(rows, 16, True)[0])


def test_entropy_clips_a_far_outlier_and_covers_an_even_spread():
    generator = torch.Generator().manual_seed(5)
    bell = torch.randn(1, 20_000, generator=generator)
    bell[0, 0] = 20.0
    assert float(fit(bell, 4, True, "entropy")[0]) < 0.7 * float(fit(bell, 4, True)[0])
    even = torch.rand(1, 20_000, generator=generator) - 0.5
    assert float(fit(even, 4, True, "entropy")[0]) > 0.85 * float(fit(even, 4, True)[0])


def slow_divergence(row: np.ndarray, scale: float, levels: int, nudge: float) -> float:
    """Of the clipped histogram of a row from what is left of it when the numbers of each level are spread over their bins: bin by bin.

    A clipped end may lie on the edge of two bins: `nudge` says which of them is meant.
    """
    most = np.abs(row).max()
    counts, edges = np.histogram(row, ranges.BINS, (-most, most))
    clipped, of_level = np.zeros(ranges.BINS), {}
    for place, centre in enumerate((edges[1:] + edges[:-1]) / 2):
        inside = min(max(centre, -levels * scale), levels * scale)
        clipped[np.clip(np.searchsorted(edges, inside * (1 + nudge), "right") - 1, 0, ranges.BINS - 1)] += counts[place]
        if inside == centre and counts[place]:
            of_level.setdefault(int(np.rint(inside / scale)), []).append(place)
    left = np.zeros(ranges.BINS)
    for places in of_level.values():
        left[places] = counts[places].mean()
    return float(entropy(clipped, np.maximum(left / left.sum(), 1e-6)))


@pytest.mark.parametrize("bits", [2, 4])
def test_entropy_takes_the_range_that_a_slow_second_look_finds_least(bits):
    rows = torch.randn(6, 2000, generator=torch.Generator().manual_seed(3))
    rows[3:] = rows[3:] ** 3
    levels = 2 ** (bits - 1) - 1
    for row, scale in zip(rows.double().numpy(), fit(rows, bits, True, "entropy")[0].tolist(), strict=True):
        divergences = lambda at, row=row: [slow_divergence(row, at, levels, nudge) for nudge in (-1e-6, 1e-6)]
        assert min(divergences(scale)) <= min(max(divergences(share * np.abs(row).max() / levels)) for share in ranges.SHRINK) + 0.02


@pytest.mark.parametrize("symmetric", [True, False])
def test_short_rows_are_shrunk_alike_by_the_histogram_of_them_all(symmetric):
    generator = torch.Generator().manual_seed(3)
    spread = torch.rand(400, 1, generator=generator) + 0.1
    rows = spread * torch.randn(400, 64, generator=generator) ** 3
    scale, _zero = fit(rows, 4, symmetric, "entropy")
    shares = scale / fit(rows, 4, symmetric)[0]
    assert float(shares.max() - shares.min()) < 1e-6 and float(shares[0]) < 0.9
    if symmetric:
        together = (rows / rows.abs().amax(1, keepdim=True)).flatten().double().numpy()
        lost = {share: np.mean([slow_divergence(together, share / 7, 7, nudge) for nudge in (-1e-6, 1e-6)]) for share in ranges.SHRINK}
        assert lost[min(lost, key=lambda share: abs(share - float(shares[0])))] <= min(lost.values()) + 0.02


def test_powers_of_two_cover_and_are_powers_of_two():
    rows = torch.randn(8, 100, generator=torch.Generator().manual_seed(4))
    free, fixed = fit(rows, 4, True)[0], fit(rows, 4, True, power_of_two=True)[0]
    assert torch.equal(fixed, torch.exp2(torch.log2(fixed).round())) and (fixed >= free).all() and (fixed < 2 * free).all()


@pytest.mark.parametrize("shape,size", [((6, 20), 16), ((5, 4, 3, 3), 16), ((3, 7), 128)])
def test_groups_of_inputs_have_a_scale_each(shape, size):
    value = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    grid = _grid(value, Quantize(weight_bits=4, granularity="group", group_size=size))
    slow = value.reshape(shape[0], -1).clone()
    for row in slow:
        for start in range(0, len(row), size):
            part = row[start : start + size]
            scale = part.abs().max() / 7
            part.copy_((part / scale).round() * scale)
    torch.testing.assert_close(grid.value(), slow.view(shape))


def test_rows_of_one_number_share_a_scale(subject, context):
    """As convnext's layer_scale (C, 1, 1): a scale for each would take more than the numbers themselves."""
    value = torch.randn(40, 1, 1, generator=torch.Generator().manual_seed(6))
    for granularity in ("channel", "group"):
        assert _grid(value, Quantize(weight_bits=8, granularity=granularity)).scale.shape == (1, 1, 1)


def test_a_layer_is_not_quantized_in_one_turn(subject, context):
    turns = []

    @contextlib.contextmanager
    def turn():
        turns.append(1)
        if len(turns) > 20:
            raise Cancelled("The run was cancelled.")
        yield

    with pytest.raises(Cancelled):
        apply(Quantize(clipping="mse"), subject, replace(context, turn=turn))
    assert all(weight.grid is None for weight in subject.weights.values())


def test_every_parameter_can_be_rounded_and_comes_back_from_the_file(subject, context):
    apply(Quantize(weight_bits=8, granularity="tensor", parameters="weights_and_biases"), subject, context)
    named = dict(subject.module.named_parameters())
    assert set(subject.weights) == set(named)
    assert all(len(value.detach().unique()) <= 255 for value in named.values())
    back = artifact.read(artifact.write(subject).data)
    assert all(torch.equal(value, back.module.get_parameter(name)) for name, value in named.items())


def test_dynamic_ranges_are_each_pictures_own(subject, context):
    apply(Quantize(weight_bits=8, activation_bits=8, activation_scale="dynamic"), subject, context)
    module = measured(subject)
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    x[1] *= 100
    with torch.no_grad():
        together, alone = module(x), torch.cat([module(picture[None]) for picture in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert "dynamic" in int8_possible(subject)
    for picture, found in zip(x, rounded_by_picture(x, 4), strict=True):
        scale = float(picture.max() - picture.min()) / 15
        torch.testing.assert_close(found, torch.fake_quantize_per_tensor_affine(picture, scale, round(-float(picture.min()) / scale), 0, 15))


def test_model_granularity_uses_one_scale(subject, context):
    apply(Quantize(weight_bits=6, granularity="model"), subject, context)
    assert len({float(weight.grid.scale) for weight in subject.weights.values()}) == 1


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_survive_rounding(subject, context, symmetric):
    apply(MagnitudePrune(sparsity=0.7), subject, context)
    masks = {name: weight.mask for name, weight in subject.weights.items()}
    apply(Quantize(weight_bits=3, symmetric=symmetric), subject, context)
    assert all(not weight.value()[~masks[name]].any() for name, weight in subject.weights.items())


def test_a_later_grid_bakes_the_earlier_one(subject, context):
    apply(Quantize(weight_bits=4), subject, context)
    first = {name: weight.value() for name, weight in subject.weights.items()}
    apply(Quantize(weight_bits=8), subject, context)
    assert all(torch.equal(weight.latent, first[name]) and weight.grid.bits == 8 for name, weight in subject.weights.items())


def test_activation_grids_are_set_from_calibration_pictures(subject, context):
    apply(Quantize(weight_bits=8, activation_bits=8), subject, context)
    assert subject.activations and all(grid.bits == 8 and grid.scale > 0 and 0 <= grid.zero_point <= 255 for grid in subject.activations.values())


def test_a_preview_clips_by_a_sample_and_a_run_by_all():
    rows = torch.randn(8, 50_000, generator=torch.Generator().manual_seed(3))
    rows[:, 0] = 12.0  # far out, so that clipping pays
    whole, sampled = fit(rows, 4, True, "mse")[0], fit(rows, 4, True, "mse", sample=20_000)[0]
    assert (whole < 12 / 7).all()
    torch.testing.assert_close(sampled, whole, rtol=0.35, atol=0)  # it tries ranges three times as far apart


def test_a_preview_of_short_rows_loses_hardly_more_than_the_run():
    rows = torch.randn(4096, 64, generator=torch.Generator().manual_seed(3))
    lost = [float(_squares(rows, *fit(rows, 4, True, "mse", sample=sample), 7).sum()) for sample in (None, 1 << 15)]
    assert lost[0] < lost[1] < 1.1 * lost[0]  # looking at every 8th number loses three times as much


def test_biases_have_a_grid_of_their_own_beside_the_weights(subject, context):
    recipe = Recipe((Quantize(weight_bits=3), Quantize(weight_bits=8, parameters="biases")))
    assert not recipe.warnings()
    apply(recipe.steps[0], subject, context)
    before = {name: subject.value(name).clone() for name in subject.weights}
    apply(recipe.steps[1], subject, context)
    bits = {name: weight.grid.bits for name, weight in subject.weights.items()}
    assert {bits[name] for name in before} == {3} and all(torch.equal(subject.value(name), value) for name, value in before.items())
    rest = {name: parameter for name, parameter in subject.module.named_parameters() if name not in before}
    assert rest and {bits[name] for name in rest} == {8} and all(len(parameter.unique()) <= 255 for parameter in rest.values())


def activation_bits(subject) -> dict[str, int]:
    return {name: grid.bits for name, grid in subject.activations.items()}


def test_values_around_other_layers_keep_the_grids_that_an_earlier_step_gave_them(subject, context):
    apply(Binarize(activations=True, layers="features.3, features.6"), subject, context)
    binary = {name for name, bits in activation_bits(subject).items() if bits == 1}
    assert binary
    apply(Quantize(weight_bits=8, activation_bits=8, layers="features.0, fc"), subject, context)
    after = activation_bits(subject)
    assert {name for name, bits in after.items() if bits == 1} == binary and {bits for name, bits in after.items() if name not in binary} == {8}
    apply(Quantize(weight_bits=4, activation_bits=4), subject, context)
    assert set(activation_bits(subject)) == set(after) and 1 not in activation_bits(subject).values()


def test_the_values_around_each_part_have_its_bits(subject, context):
    apply(Quantize(weight_bits=8, activation_bits=8, layers="features.0, features.3"), subject, context)
    before = activation_bits(subject)
    apply(Quantize(weight_bits=4, activation_bits=4, layers="fc"), subject, context)
    after = activation_bits(subject)
    assert {name for name in after if before.get(name) != after[name]} == set(inputs_of(subject.module, ["fc.weight"]))


def test_a_second_rounding_of_activations_is_warned_of_and_biases_undo_no_rounding(five_layer_checkpoint):
    warned = lambda *steps: Work("resnet18", "digits", Recipe(steps)).warnings()
    twice = warned(Quantize(weight_bits=8, activation_bits=8), Quantize(parameters="biases", activation_bits=4))
    assert len(twice) == 1 and "rounds the values between layers anew" in twice[0]
    assert warned(Quantize(weight_bits=8, activation_bits=8), Quantize(parameters="biases")) == []
    assert warned(Quantize(), RoundAdaptively(), Quantize(parameters="biases")) == []


def test_what_sets_ranges_is_not_taken_for_a_run_of_another_edition():
    editions = [step.edition for step in (Quantize(activation_bits=8), Binarize(activations=True), Ternarize(activations=True))]
    assert len(set(editions)) == 1 and editions[0]
    clipped = Quantize(clipping="entropy").edition, Quantize(clipping="entropy", activation_bits=8).edition
    assert all(clipped) and len({*editions, *clipped}) == 3
    assert Quantize().edition == Quantize(activation_bits=8, activation_scale="dynamic").edition == Binarize().edition == ""
