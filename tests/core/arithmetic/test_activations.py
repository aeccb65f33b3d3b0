"""Activation grids: where they sit, their ranges, and the rounded model against integer arithmetic done by hand."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.arithmetic import activations
from core.arithmetic.folding import LARGEST_BIAS, fold, integers, trace
from core.errors import BadInput
from core.methods.apply import Context
from core.methods.quantize import Quantize
from core.methods.quantize import apply as quantize
from core.models.architecture import Architecture
from core.weights import ActivationGrid, Compressed, Weight
from tests import five_layers

MODELS = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "densenet121"]


def lively(name: str) -> nn.Module:
    """A torchvision model with random batch-norm statistics, some of its factors negative."""
    torch.manual_seed(0)
    module = torchvision.models.get_model(name, num_classes=10).eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            layer.weight.data[::5] *= -1
            nn.init.normal_(layer.bias, 0, 0.1)
    return module


def pictures(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
def test_folding_changes_neither_the_answers_nor_the_sites_nor_the_module(name):
    module = lively(name)
    before = copy.deepcopy(module.state_dict())
    folded = fold(module)
    with torch.inference_mode():
        torch.testing.assert_close(folded(pictures()), module(pictures()), rtol=1e-4, atol=1e-4)
    assert activations.sites(folded) == activations.sites(module)
    assert [node.name for node in trace(folded).nodes] == [node.name for node in trace(module).nodes]
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_batch_norm_before_its_convolution_is_left_alone():
    folded = fold(lively("densenet121")).get_submodule("features")
    assert isinstance(folded.norm0, nn.Identity)  # conv0 → norm0
    assert isinstance(folded.denseblock1.denselayer1.norm1, nn.BatchNorm2d)  # concat → norm1 → conv1
    assert isinstance(folded.denseblock1.denselayer1.norm2, nn.Identity)  # conv1 → norm2
    assert isinstance(folded.norm5, nn.BatchNorm2d)


def test_folding_keeps_the_mode_of_the_module():
    module = lively("resnet18").train()
    assert not fold(module).training
    assert all(layer.training for layer in module.modules())


def test_the_sites_of_a_residual_block_are_behind_its_batch_norms_and_relus():
    found = activations.sites(torchvision.models.resnet18(num_classes=10))
    assert found[:5] == ["x", "relu", "layer1_0_relu", "layer1_0_bn2", "layer1_0_relu_1"]
    assert found[-1] == "avgpool"  # read by fc through flatten; the logits have no grid
    assert "layer1_0_conv1" not in found
    assert "layer1_0_bn1" not in found


def test_both_sides_of_a_concat_have_sites():
    found = activations.sites(torchvision.models.squeezenet1_1(num_classes=10))
    assert {"features_3_expand1x1_activation", "features_3_expand3x3_activation", "cat"} <= set(found)


def test_sites_of_some_layers_leave_out_the_others():
    module = five_layers.FiveLayers()
    assert "x" in activations.sites(module)
    assert "x" not in activations.sites(module, ["features.3.weight", "fc.weight"])


def test_a_module_that_branches_on_its_values_is_refused_in_one_sentence():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(BadInput, match=r"^Branching cannot be read as a graph .*torch\.fx can trace\.$"):
        activations.sites(Branching())


@pytest.mark.parametrize(
    ("low", "scale", "zero_point", "bits"), [(0.0, 0.1, 0, 8), (-1.28, 0.01, 128, 8), (-25.5, 0.1, 255, 8), (0.0, 0.5, 0, 4), (-3.0, 0.5, 6, 4)]
)
def test_values_that_lie_on_a_grid_get_that_grid(low, scale, zero_point, bits):
    values = torch.arange(2**bits, dtype=torch.float64).mul(scale).add(low).float().repeat(50)
    grid = activations.grid_of(values, bits)
    assert grid.scale == pytest.approx(scale, rel=1e-5)
    assert (grid.zero_point, grid.bits) == (zero_point, bits)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.sampled_from([4, 5, 6, 7, 8]))
def test_every_grid_holds_zero_and_starts_there_for_values_that_are_never_negative(values, bits):
    tensor = torch.tensor(values)
    grid = activations.grid_of(tensor, bits)
    assert 0 <= grid.zero_point <= 2**bits - 1
    assert grid.scale > 0
    assert float(np.float32(grid.scale)) == grid.scale
    with torch.inference_mode():
        assert activations.rounded(torch.zeros(3), grid.scale, grid.zero_point, bits).eq(0).all()
    assert activations.grid_of(tensor.relu(), bits).zero_point == 0


def test_outliers_are_clipped_at_few_bits():
    torch.manual_seed(0)
    values = torch.cat([torch.rand(100_000), torch.tensor([3.0])])
    grid = activations.grid_of(values, 4)
    assert grid.scale * 15 < 2
    error = lambda scale: float((torch.fake_quantize_per_tensor_affine(values, scale, 0, 0, 15) - values).square().mean())
    assert error(grid.scale) <= 1.01 * min(error(3 * shrink / 15) for shrink in activations.SHRINK)  # of the values themselves; the grid saw a histogram


def test_the_network_runs_once_over_the_pictures_and_what_is_seen_does_not_depend_on_the_memory_order():
    module, runs = five_layers.FiveLayers().eval(), []
    module.features[0].register_forward_hook(lambda *_: runs.append(1))
    batches = pictures(8).split(4)
    grids = activations.observe(module, batches, 4)
    assert len(runs) == len(batches)
    moved = [batch.contiguous(memory_format=torch.channels_last) for batch in batches]
    other = activations.observe(module.to(memory_format=torch.channels_last), moved, 4)
    assert {name: (pytest.approx(grid.scale, rel=1e-4), grid.zero_point) for name, grid in grids.items()} == {
        name: (grid.scale, grid.zero_point) for name, grid in other.items()
    }


def test_what_a_hardswish_does_not_tell_apart_is_clipped():
    torch.manual_seed(0)
    values = torch.cat([torch.rand(100_000) * 4 - 2, torch.full((100_000,), -13.0)])
    grid = activations.grid_of(values, 8, nn.Hardswish())
    assert -6 < -grid.zero_point * grid.scale < -1.9


def test_rounding_is_numpys_and_torchs_and_its_gradient_stops_outside_the_range():
    value = torch.linspace(-3, 3, 1001)
    scale, zero_point, bits = 0.05, 40, 6
    by_hand = (np.clip(np.rint(value.numpy() / np.float32(scale)) + zero_point, 0, 63) - zero_point) * np.float32(scale)
    with torch.inference_mode():
        fast = activations.rounded(value.clone(), scale, zero_point, bits)
    np.testing.assert_allclose(fast, by_hand, atol=1e-6)
    assert torch.equal(fast, torch.fake_quantize_per_tensor_affine(value, scale, zero_point, 0, 63))
    learning = value.clone().requires_grad_()
    activations.rounded(learning, scale, zero_point, bits).sum().backward()
    code = np.rint(value.numpy() / np.float32(scale)) + zero_point
    assert torch.equal(learning.grad, torch.from_numpy((code >= 0) & (code <= 63)).float())


@given(st.floats(2**-20, 8.0, width=32), st.integers(1, 8), st.integers(0, 255), st.integers(0, 2**31))
def test_rounding_written_out_is_the_kernels_to_the_bit_and_so_is_its_gradient(scale, bits, zero_point, seed):
    """Which a device computes that lacks the kernel; halves, what lies beside them and what lies outside the range among it."""
    generator = torch.Generator().manual_seed(seed)
    highest = 2**bits - 1
    zero_point = min(zero_point, highest)
    halves = torch.arange(-2 * highest, 2 * highest + 1) * (scale / 2)
    beside = [torch.nextafter(halves, torch.tensor(side)) for side in (-torch.inf, torch.inf)]
    value = torch.cat([halves, *beside, torch.randn(500, generator=generator) * scale * highest, torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e6, -1e6]) * scale])
    weight = torch.randn(value.shape, generator=generator)
    found = []
    for rounding in (
        lambda x: activations.Rounded.apply(x, scale, -zero_point, highest - zero_point),
        lambda x: activations.rounded(x, scale, zero_point, bits),
    ):
        leaf = value.clone().requires_grad_()
        out = rounding(leaf)
        (out * weight).sum().backward()
        found.append((out.detach().view(torch.int32), leaf.grad.view(torch.int32)))
    assert all(torch.equal(own, kernels) for own, kernels in zip(*found))


@pytest.mark.parametrize("name", MODELS)
def test_very_fine_grids_hardly_change_a_model(name):
    """Rounding in the wrong place, or of a tensor that a later operation changes in place, would show."""
    module = lively(name)
    with torch.inference_mode():
        expected = module(pictures())
        grids = activations.observe(module, [pictures()], 16)
        torch.testing.assert_close(activations.simulated(module, grids)(pictures()), expected, rtol=0.01, atol=0.01 * float(expected.abs().max()))
    assert set(grids) == set(activations.sites(module))


def test_simulating_does_not_change_the_shared_graph():
    module = five_layers.FiveLayers().eval()
    names = [node.name for node in trace(module).nodes]
    grids = activations.observe(module, [pictures()], 8)
    activations.simulated(module, grids)
    assert [node.name for node in trace(module).nodes] == names


def test_pictures_and_what_only_floating_point_reads_keep_eight_bits():
    grids = activations.observe(lively("mobilenet_v3_small"), [pictures()], 4)
    assert grids["x"].bits == 8
    assert grids["features_0_1"].bits == 8  # convolution → hardswish
    assert grids["features_0_2"].bits == 4  # hardswish → convolution


def test_only_the_named_sites_are_observed():
    assert list(activations.observe(five_layers.FiveLayers().eval(), [pictures()], 8, ["x", "pool"])) == ["x", "pool"]


def test_the_rounded_model_trains_the_layers_of_the_module():
    module = five_layers.FiveLayers()
    rounded = activations.simulated(module, activations.observe(module.eval(), [pictures()], 8)).train()
    assert module.features[0].training
    rounded(pictures()).square().sum().backward()
    assert module.features[0].weight.grad.abs().sum() > 0
    assert {name for name, _ in rounded.named_parameters()} == {name for name, _ in module.named_parameters()}


def quantized(module: nn.Module, **fields) -> Compressed:
    subject = Compressed.of(module, Architecture("resnet18", 10, 32))
    quantize(Quantize(weight_bits=8, **fields), subject, Context(None, None))
    return subject


@pytest.mark.parametrize("granularity", ["model", "tensor", "channel"])
def test_folding_a_grid_keeps_its_codes_and_negates_them_where_the_factor_is_negative(granularity):
    module = five_layers.FiveLayers().eval()
    nn.init.uniform_(module.features[1].weight, 0.5, 1.5)
    module.features[1].weight.data[2] *= -1
    subject = quantized(module, granularity=granularity)
    folded = fold(subject.module)
    layer = integers(subject, folded, {"features.0": 0.02})["features.0"]
    grid = subject.weights["features.0.weight"].grid
    sign = torch.ones(8, dtype=torch.int16)
    sign[2] = -1
    assert torch.equal(layer.codes, grid.codes * sign.view(-1, 1, 1, 1))
    torch.testing.assert_close(layer.weight, folded.features[0].weight, rtol=1e-5, atol=1e-7)
    assert layer.bias_codes.dtype == torch.int32
    assert ((layer.bias - folded.features[0].bias).abs() <= layer.bias_scale).all()


def test_masked_weights_are_zero_in_the_integers():
    subject = quantized(five_layers.FiveLayers().eval())
    state = subject.weights["features.0.weight"]
    keep = torch.rand(state.latent.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    subject.set("features.0.weight", state.pruned(keep))
    layer = integers(subject, fold(subject.module), {"features.0": 0.02})["features.0"]
    assert not layer.codes[~keep].any()


def test_a_channel_too_small_for_its_bias_gets_a_coarser_scale():
    module = five_layers.FiveLayers().eval()
    module.features[1].weight.data[0], module.features[1].bias.data[0] = 1e-12, 3.0
    module.features[1].weight.data[1] = 0.0
    subject = quantized(module)
    layer = integers(subject, fold(subject.module), {"features.0": 0.02})["features.0"]
    assert layer.bias_codes.abs().max() <= LARGEST_BIAS + 1
    torch.testing.assert_close(layer.bias[:2], fold(subject.module).features[0].bias[:2], rtol=1e-6, atol=1e-6)
    assert torch.isfinite(layer.weight).all()


def test_the_measured_module_is_exact_integer_arithmetic():
    """convolution → ReLU → 1×1 convolution, done again in 64-bit integers from the codes alone."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    subject = quantized(module)
    x = pictures(8, 6)
    subject.activations = activations.observe(subject.module, [x], 8)
    grids = list(subject.activations.values())
    layers = list(integers(subject, fold(subject.module), activations.input_scales(subject.module, subject.activations)).values())
    codes = np.clip(np.rint(x.numpy().astype(np.float64) / grids[0].scale) + grids[0].zero_point, 0, 255).astype(np.int64)
    for number, layer in enumerate(layers):
        weight = layer.codes.numpy().astype(np.int64)[:, :, 0, 0]
        sums = np.einsum("oi,bihw->bohw", weight, codes - grids[number].zero_point) + layer.bias_codes.numpy()[None, :, None, None]
        real = sums * layer.bias_scale.numpy().astype(np.float64)[None, :, None, None]
        if number + 1 < len(grids):
            codes = np.clip(np.rint(real / grids[number + 1].scale) + grids[number + 1].zero_point, 0, 255).astype(np.int64)
    with torch.inference_mode():
        answer = activations.measured(subject)(x).numpy()
    step = np.abs(layers[-1].weight.numpy()).max() * grids[-1].scale
    np.testing.assert_allclose(answer, real, atol=1.01 * step)  # a tie may fall to the other side once
    assert (np.abs(answer - real) < 1e-5).mean() > 0.99


def test_without_activation_grids_the_plain_module_is_measured():
    subject = quantized(five_layers.FiveLayers().eval())
    assert activations.measured(subject) is subject.module


def test_measuring_leaves_the_subject_as_it_is():
    subject = quantized(five_layers.FiveLayers().eval())
    subject.activations = activations.observe(subject.module, [pictures()], 8)
    before = copy.deepcopy(subject.module.state_dict())
    activations.measured(subject)
    for key, value in subject.module.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_grid_for_a_tensor_that_is_gone_is_ignored():
    module = five_layers.FiveLayers().eval()
    with torch.inference_mode():
        assert torch.equal(activations.simulated(module, {"gone": ActivationGrid(0.1, 0, 8)})(pictures()), module(pictures()))


def test_a_weight_state_without_a_grid_has_no_integers():
    subject = quantized(five_layers.FiveLayers().eval())
    state = subject.weights["features.0.weight"]
    subject.set("features.0.weight", Weight(state.value()))
    assert integers(subject, fold(subject.module), {"features.0": 0.02}) == {}
