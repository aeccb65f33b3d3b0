"""Grids against hand-computed ones and torch's own fake quantization."""

from __future__ import annotations

import pytest
import torch

from core.methods.apply import apply
from core.methods.magnitude_prune import MagnitudePrune
from core.methods.quantize import Quantize, _error, _fit, _grid


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
        full, clipped = Quantize(weight_bits=bits), Quantize(weight_bits=bits, clipping="mse")
        assert (_error(rows, *_fit(rows, clipped), clipped) <= _error(rows, *_fit(rows, full), full)).all()


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
    step = Quantize(weight_bits=4, clipping="mse")
    whole, sampled = _fit(rows, step)[0], _fit(rows, step, 20_000)[0]
    assert (whole < 12 / 7).all()
    torch.testing.assert_close(sampled, whole, rtol=0.35, atol=0)  # it tries ranges three times as far apart
