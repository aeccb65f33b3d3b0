"""Batch norm folded into the convolution before it, for plain weights and for weights on grids.

What runs as int8 has no batch norm: its scale and shift become part of the convolution's weights and bias. On a grid the
codes stay as they are, the scales are multiplied by γ/σ, and the codes are negated where γ < 0. `core.arithmetic.activations` (to
measure accuracy) and `core.runtimes.onnx` (to write files) both take the integers from here, so they agree.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.arithmetic.grids import Uniform
from core.errors import BadInput
from core.recipe import digest

if TYPE_CHECKING:
    from core.weights import Compressed

LARGEST_BIAS = 2**30  # of an int32 accumulator, so that the sum of products has room beside it
SMALLEST_SCALE = 1e-15  # products of two must stay well inside float32


GRAPHS_KEPT = 16
_GRAPHS: dict[str, fx.Graph] = {}


def trace(module: nn.Module) -> fx.Graph:
    """The graph of `module` as it runs in eval mode; its node names do not depend on the weights. Copy it before you change it.

    Modules of equal structure share one graph, since tracing takes 0.1 s for a deep model. Raises `BadInput` when the
    module's Python cannot be followed symbolically.
    """
    key = digest(f"{type(module)} {module} {[tuple(parameter.shape) for parameter in module.parameters()]}")
    graph = _GRAPHS.pop(key, None) or _traced(module)
    made_here = any(node.op == "get_attr" and str(node.target).startswith("_tensor_constant") for node in graph.nodes)
    if made_here:  # tracing left these tensors on this very module
        return graph
    _GRAPHS[key] = graph
    while len(_GRAPHS) > GRAPHS_KEPT:
        _GRAPHS.pop(next(iter(_GRAPHS)))
    return graph


def _traced(module: nn.Module) -> fx.Graph:
    training = [layer for layer in module.modules() if layer.training]
    module.eval()
    try:
        return graph_of(module, "activations on grids need a model that torch.fx can trace")
    finally:
        for layer in training:
            layer.training = True


def graph_of(module: nn.Module, so: str) -> fx.Graph:
    """A graph of `module` in its present mode; raises `BadInput` that ends with what follows, `so`, when its Python cannot be followed symbolically."""
    try:
        return fx.Tracer().trace(module)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"{type(module).__name__} cannot be read as a graph ({reason}); {so}.") from None


def layer_of(node: fx.Node, module: nn.Module) -> nn.Module | None:
    """The layer that a node calls; None for functions, methods, inputs and the output."""
    return module.get_submodule(node.target) if node.op == "call_module" else None


def pairs(module: nn.Module, graph: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node]]:
    """(convolution, batch norm) wherever the batch norm reads that convolution's output, nothing else does, and both run once."""
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    once = {target for target, count in calls.items() if count == 1}
    for node in graph.nodes:
        if node.target not in once or not isinstance(layer_of(node, module), _BatchNorm):
            continue
        source, norm = node.args[0], layer_of(node, module)
        direct = isinstance(source, fx.Node) and source.target in once and len(source.users) == 1
        if direct and norm.running_mean is not None and isinstance(layer_of(source, module), nn.Conv2d):
            yield source, node


def fold(module: nn.Module) -> nn.Module:
    """The module without the batch norms that follow convolutions; `nn.Identity` keeps their places and node names.

    Other batch norms (before a convolution, after a concat) stay. Parameter names stay; folded convolutions get a bias.
    `module` keeps its mode and its values; what folding leaves alone is shared with it.
    """
    found = [(convolution.target, norm.target) for convolution, norm in pairs(module, trace(module))]
    folded = _shell(module, {}).eval()
    for path, norm_path in found:
        layer = folded.get_submodule(path)
        factor, shift = _affine(layer, folded.get_submodule(norm_path))
        layer.weight = _constant(layer.weight.detach() * factor.float().view(-1, 1, 1, 1))
        layer.bias = _constant(shift.float())
        owner, _, name = norm_path.rpartition(".")
        setattr(folded.get_submodule(owner), name, nn.Identity())
    return folded


def _shell(module: nn.Module, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """New modules around the same tensors: a hundred times cheaper than a deep copy."""
    if module not in made:
        twin = made[module] = copy.copy(module)
        twin._parameters, twin._buffers = dict(module._parameters), dict(module._buffers)
        twin._modules = {name: child if child is None else _shell(child, made) for name, child in module._modules.items()}
    return made[module]


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)


@torch.no_grad()
def _affine(convolution: nn.Conv2d, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """γ/σ (C,) that multiplies the weights, and the bias (C,) of the two layers together, both float64."""
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    factor = (norm.weight.double() if norm.weight is not None else 1.0) / deviation
    bias = convolution.bias.double() if convolution.bias is not None else 0.0
    shift = (bias - norm.running_mean.double()) * factor
    return factor, shift if norm.bias is None else shift + norm.bias.double()


@dataclass(frozen=True)
class Integers:
    """One layer as integer kernels see it: weight = codes · scale, bias = bias_codes · bias_scale, the zero point 0.

    codes int16, shape of the weight; scale float32 (C,), all positive; bias_codes int32 (C,), or None without a bias.
    """

    codes: Tensor
    scale: Tensor
    bias_codes: Tensor | None
    bias_scale: Tensor | None

    @property
    def weight(self) -> Tensor:
        return self.codes * self.scale.view((-1,) + (1,) * (self.codes.dim() - 1))

    @property
    def bias(self) -> Tensor | None:
        return None if self.bias_codes is None else self.bias_codes.float() * self.bias_scale


def integers(subject: Compressed, folded: nn.Module, input_scales: dict[str, float]) -> dict[str, Integers]:
    """The layers of `folded` (made from `subject.module`) whose weight has a grid and whose input has a scale, by layer path.

    `input_scales` maps layer paths to the scale of the grid their input is on. Biases are rounded to 32 bits at input
    scale × weight scale, as integer kernels need them.
    """
    module = subject.module
    graph = trace(module)
    norms = {convolution.target: layer_of(norm, module) for convolution, norm in pairs(module, graph)}
    found = {}
    for name, state in subject.weights.items():
        path, _, kind = name.rpartition(".")
        if not isinstance(state.grid, Uniform) or state.grid.group is not None or kind != "weight" or path not in input_scales:
            continue
        codes, scale = _codes(state.grid, state.mask)
        if path in norms:
            factor = _affine(module.get_submodule(path), norms[path])[0]
            codes = torch.where((factor < 0).view((-1,) + (1,) * (codes.dim() - 1)), -codes, codes)
            scale = scale * factor.abs()
        found[path] = _with_bias(codes, scale, folded.get_submodule(path).bias, input_scales[path])
    return found


def install(folded: nn.Module, layers: dict[str, Integers]) -> None:
    """Give the layers of `folded` exactly the values that the integers stand for."""
    for path, layer in layers.items():
        target = folded.get_submodule(path)
        target.weight = _constant(layer.weight)
        if layer.bias is not None:
            target.bias = _constant(layer.bias)


def _codes(grid: Uniform, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Codes less the zero point (int32, 0 where masked), and one scale an output channel (C,) float64."""
    codes = grid.codes.int() - grid.zero_point.int()
    scale = grid.scale.reshape(-1).double().expand(codes.shape[0]).clone()
    return codes if mask is None else codes * mask, scale


def _with_bias(codes: Tensor, scale: Tensor, bias: Tensor | None, input_scale: float) -> Integers:
    """Round the bias; a channel whose weights are too small for its bias to be an int32 at their scale gets a coarser scale.

    Such a channel is as good as constant: what its weights lose is below 2^-30 of the bias for each code of the input.
    """
    rows = (-1,) + (1,) * (codes.dim() - 1)
    scale = torch.where(codes.reshape(len(codes), -1).any(1), scale, torch.ones_like(scale))
    least = torch.full_like(scale, SMALLEST_SCALE)
    if bias is not None:
        least = torch.maximum(least, bias.detach().double().abs() / (LARGEST_BIAS * input_scale))
    coarser = scale < least
    if coarser.any():
        shrunk = torch.round(codes.double() * (scale / least).view(rows)).int()
        codes, scale = torch.where(coarser.view(rows), shrunk, codes), torch.where(coarser, least, scale)
    layer = Integers(codes, scale.float(), None, None)
    if bias is None:
        return layer
    bias_scale = torch.tensor(input_scale, dtype=torch.float32) * layer.scale  # as onnxruntime multiplies them
    return replace(layer, bias_codes=torch.round(bias.detach().double() / bias_scale.double()).to(torch.int32), bias_scale=bias_scale)
