"""Cost figures against two counters that others wrote: torch's FlopCounterMode and torch-pruning's own."""

import copy

import pytest
import torch
import torch_pruning
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from core.metrics import cost
from core.models.architecture import Architecture


def by_torch(module, input_size):
    """Multiply-adds of one picture: torch counts floating point operations, two for each."""
    tensors = {name: torch.empty_like(tensor, device="meta") for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        torch.func.functional_call(module, tensors, torch.empty(1, 3, input_size, input_size, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("model", "input_size"),
    [
        ("resnet18", 32), ("mobilenet_v3_small", 32), ("squeezenet1_1", 32), ("shufflenet_v2_x0_5", 32), ("resnext50_32x4d", 64), ("regnet_y_400mf", 32),
        ("convnext_tiny", 64), ("googlenet", 64), ("vit_b_32", 64), ("swin_t", 40),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("vgg11_bn", 32), ("densenet121", 32), ("swin_v2_t", 40), ("maxvit_t", 224))),
    ],
)  # fmt: skip
def test_macs_agree_with_torchs_own_counter(model, input_size):
    module = Architecture.plain(model, 10, input_size).build()
    counted = cost.count(module, input_size)
    assert counted.macs == cost.macs(module, input_size) == by_torch(module, input_size)
    assert counted.uncounted == ()


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_parameters_and_macs_agree_with_torch_pruning(model):
    module = Architecture.plain(model, 10, 32).build()
    x = torch.zeros(1, 3, 32, 32)
    assert cost.parameters(module) == torch_pruning.utils.count_ops_and_params(module, x)[1]
    # torch-pruning counts the addition of a bias too, and what normalisation, activations and pooling do
    products = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for layer in products:
        layer.bias = None
    by_layer = torch_pruning.utils.count_ops_and_params(module, x, layer_wise=True)[2]
    assert cost.macs(module, 32) == sum(by_layer[layer] for layer in products)


def test_a_chain_counted_by_hand():
    chain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, groups=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Flatten(), nn.Linear(72, 5))
    assert cost.macs(chain, 8) == 8 * 8 * 8 * 27 + 3 * 3 * 8 * 9 + 72 * 5
    assert cost.parameters(chain) == (3 * 8 * 9 + 8) + (8 * 9 + 8) + (72 * 5 + 5)


def test_what_is_unknown_is_reported_and_not_counted():
    class Odd(nn.Module):
        def forward(self, x):
            return x @ x

    assert cost.count(nn.Sequential(nn.Conv2d(3, 4, 1), Odd()), 8) == cost.Count(4 * 3 * 64, ("Odd",))


def test_nonzero_counts_every_parameter_that_is_not_zero():
    module = nn.Linear(10, 3)
    with torch.no_grad():
        module.weight.fill_(2)
        module.weight[0, :4] = 0
        module.bias.zero_()
    assert (cost.parameters(module), cost.nonzero(module)) == (33, 26)


def test_counting_remembers_shapes_not_objects():
    module = Architecture.plain("squeezenet1_1", 10, 32).build()
    first = cost.count(module, 32)
    assert cost.count(copy.deepcopy(module), 32) is first
    assert cost.count(module, 64) != first
    module.classifier[1] = nn.Conv2d(512, 7, 1)
    assert cost.macs(module, 32) < first.macs
