"""Operators and peak activation memory: two networks worked out by hand, and multiply-adds against torch's own counter."""

import pytest
import torch
from torch import nn

from core.metrics import cost
from core.metrics.operators import record
from core.models.architecture import Architecture
from core.targets.roofline import CONVOLUTION, DEPTHWISE, ELEMENTWISE, LINEAR, MOVE, POOLING


class Residual(nn.Module):
    """For pictures of 8 × 8: 192 numbers in, four channels of 64 numbers throughout, ten logits."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.wide = nn.Conv2d(4, 8, 1)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(12, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))  # 256
        y = x + self.conv2(x)  # 256 more; the sum takes the place of either
        return self.fc(self.pool(torch.cat([y, self.wide(y)], 1)).flatten(1))  # 256, 512, and 768 for both together


def test_a_residual_network_by_hand():
    found = record(Residual().eval(), 8)
    assert [(each.layer, each.kind, each.macs, each.weights, each.inputs, each.outputs) for each in found.operators] == [
        ("conv1", CONVOLUTION, 256 * 27, 112, 192, 256), ("conv2", DEPTHWISE, 256 * 9, 40, 256, 256), ("", ELEMENTWISE, 0, 0, 512, 256),
        ("wide", CONVOLUTION, 512 * 4, 40, 256, 512), ("", MOVE, 0, 0, 768, 768), ("pool", POOLING, 0, 0, 768, 12), ("fc", LINEAR, 120, 130, 12, 10),
    ]  # fmt: skip
    assert found.peak == 256 + 512 + 768  # while both are copied into one


@pytest.mark.parametrize(
    ("floats", "most"),
    [
        ({"conv1", "fc"}, 4 * (192 + 256)),  # the picture and what the first layer makes of it; it is rounded afterwards, to 256 beside 1024 bytes
        ({"wide"}, 256 + 4 * (256 + 512)),  # the sum, which is read again later, its widened copy, and what is made of it
        ({"conv2"}, 256 + 4 * (256 + 256)),  # what the sum reads too, its widened copy, and what is made of it
        ({"fc"}, 256 + 512 + 768), (set(), 256 + 512 + 768),
    ],
)  # fmt: skip
def test_a_residual_network_of_both_types_by_hand(floats, most):
    found = record(Residual().eval(), 8)
    operators, told = found.partly_int8({"conv1", "conv2", "wide", "fc"} - floats, floats)
    assert told == most
    assert {each.layer for each in operators if not each.int8} == floats
    assert [(each.macs, each.inputs, each.outputs) for each in operators] == [(each.macs, each.inputs, each.outputs) for each in found.operators]


def test_what_follows_a_float32_layer_stays_float32_until_it_is_rounded():
    chain = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Hardswish(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 5)).eval()
    operators, most = record(chain, 8).partly_int8({"4"}, {"0"})
    assert [each.int8 for each in operators] == [False, False, True, True]
    assert most == 4 * 1024 + 1024  # hard swish writes over its input, and its values are rounded before they are pooled


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small", "densenet121", "swin_t"])
def test_bytes_of_one_type_are_the_numbers_times_its_size(model):
    found = record(Architecture.plain(model, 10, 32).build(), 32)
    layers = {each.layer for each in found.operators}
    for gridded, floats, size in ((layers, set(), 1), (set(), layers, 4)):
        operators, most = found.partly_int8(gridded, floats)
        assert most == size * found.peak and all(each.int8 == (size == 1) for each in operators)


def test_a_chain_by_hand():
    chain = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Hardswish(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 5)).eval()
    found = record(chain, 8)
    assert [each.kind for each in found.operators] == [CONVOLUTION, ELEMENTWISE, POOLING, LINEAR]
    assert found.peak == 1024 + 256  # hard swish writes over its input; the pool reads 1024 and writes 256, more than 192 + 1024


def test_a_tensor_that_is_read_later_is_not_written_over():
    class Later(nn.Module):
        def forward(self, x):
            y = torch.sigmoid(x)
            return (x * y).mean((2, 3))

    assert record(Later(), 4).peak == 2 * 48


@pytest.mark.parametrize(("model", "size"), [("resnet18", 32), ("mobilenet_v3_small", 32), ("shufflenet_v2_x0_5", 32), ("swin_t", 32), ("vit_b_32", 32)])
def test_the_operators_multiply_as_often_as_the_layers(model, size):
    module = Architecture.plain(model, 10, size).build()
    found = record(module, size)
    assert sum(each.macs for each in found.operators) == cost.macs(module, size)
    assert record(module, size) is found  # remembered
    largest = max(each.inputs + each.outputs for each in found.operators if each.kind == CONVOLUTION)
    assert largest <= found.peak <= sum(each.outputs for each in found.operators)


def test_resnet18_holds_most_while_it_pools():
    found = record(Architecture.plain("resnet18", 10, 32).build(), 32)
    assert found.peak == 16 * 16 * 64 + 8 * 8 * 64
    inner = {each.layer for each in found.operators if each.weights} - {"conv1", "fc"}
    assert found.partly_int8(inner, {"conv1", "fc"})[1] == 16 * 16 * 64 * (4 + 1)  # while what the first layer made is rounded, four times what all int8 takes
