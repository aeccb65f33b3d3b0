"""What a network costs to run and to hold: parameters, non-zeros, and multiply-adds for one picture.

One fused multiply-add counts as one. Convolutions, linear layers and the products inside attention are counted, on the
shapes that a forward pass really has; normalisation, activations, pooling and additions are not, as is usual (fvcore,
torch-pruning). The pass runs on the meta device: shapes only, so vgg16 takes milliseconds.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil

from torch import Tensor, nn
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention, SwapAxes, WindowDepartition, WindowPartition
from torchvision.models.swin_transformer import ShiftedWindowAttention
from torchvision.ops import Permute, StochasticDepth

from core.keeping.remembered import Remembered
from core.models.architecture import probe
from core.weights import nonzeros

REMEMBERED = 256  # networks

# Layers without a product of two tensors, or with element-wise ones only
FREE = (
    nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Identity, nn.Flatten, nn.Softmax, Permute, StochasticDepth,
    SwapAxes, WindowDepartition, WindowPartition,
)  # fmt: skip


@dataclass(frozen=True)
class Count:
    """`uncounted` names the types of layers that ran and whose cost is not known here, sorted; `layers` has the multiply-adds of each path."""

    macs: int
    uncounted: tuple[str, ...]
    layers: dict[str, int] = field(default_factory=dict, compare=False)


def parameters(module: nn.Module) -> int:
    """How many numbers are learned; running statistics of batch norm are not."""
    return sum(parameter.numel() for parameter in module.parameters())


def nonzero(module: nn.Module, known: Mapping[str, int] | None = None) -> int:
    """How many of the parameters are not zero; `known` has the counts of some of them by name."""
    known = known or {}
    return sum(known[name] if name in known else nonzeros(parameter) for name, parameter in module.named_parameters())


def macs(module: nn.Module, input_size: int) -> int:
    """Fused multiply-adds for one picture of `input_size` × `input_size`."""
    return count(module, input_size).macs


def count(module: nn.Module, input_size: int) -> Count:
    """Multiply-adds for one picture, and what could not be counted. Remembered by the shapes of the network."""
    return _COUNTS.get((repr(module), input_size), lambda: _count(module, input_size))


_COUNTS: Remembered[Count] = Remembered(REMEMBERED)


def _count(module: nn.Module, input_size: int) -> Count:
    layers, uncounted = Counter(), set()

    def watch(path: str, layer: nn.Module, inputs: tuple, output: object) -> None:
        cost = next((function for kind, function in _COSTS.items() if isinstance(layer, kind)), None)
        if cost is not None:
            layers[path] += cost(layer, inputs[0], output)
        elif not isinstance(layer, FREE) and not any(layer.children()):
            uncounted.add(type(layer).__name__)

    hooks = [layer.register_forward_hook(functools.partial(watch, path)) for path, layer in module.named_modules()]
    try:
        probe(module, input_size)
    finally:
        for hook in hooks:
            hook.remove()
    return Count(layers.total(), tuple(sorted(uncounted)), dict(layers))


def _convolution(layer: nn.Conv2d, _x: Tensor, y: Tensor) -> int:
    """y (B, C, H, W): every number is a sum over in/groups · kernel height · kernel width products."""
    return y.numel() * layer.weight[0].numel()


def _linear(layer: nn.Linear, _x: Tensor, y: Tensor) -> int:
    """y (…, out): every number is a sum over the inputs."""
    return y.numel() * layer.weight.shape[1]


def _attention(layer: nn.MultiheadAttention, x: Tensor, _y: object) -> int:
    """x (B, L, E): queries, keys, values and output take 4·L·E², scores and their weighted sum 2·L²·E. Self-attention only."""
    batch, length, width = x.shape if layer.batch_first else (x.shape[1], x.shape[0], x.shape[2])
    return batch * (4 * length * width**2 + 2 * length**2 * width)


def _window_attention(layer: ShiftedWindowAttention, x: Tensor, _y: Tensor) -> int:
    """x (B, H, W, C), padded to whole windows of t tokens each: 4·C² + 2·t·C a token. Its two linear layers are called as functions."""
    batch, height, width, channels = x.shape
    tall, wide = layer.window_size
    tokens = batch * ceil(height / tall) * tall * ceil(width / wide) * wide
    return tokens * (4 * channels**2 + 2 * tall * wide * channels)


def _grid_attention(_layer: RelativePositionalMultiHeadAttention, x: Tensor, _y: Tensor) -> int:
    """x (B, groups, P, D): scores and their weighted sum; its linear layers are counted by themselves."""
    return 2 * x.numel() * x.shape[2]


_COSTS: dict[type[nn.Module], Callable] = {
    nn.Conv2d: _convolution, nn.Linear: _linear, nn.MultiheadAttention: _attention, ShiftedWindowAttention: _window_attention,
    RelativePositionalMultiHeadAttention: _grid_attention,
}  # fmt: skip
