"""Activation grids: which tensors of a model's graph are rounded, their ranges, and the model with them rounded.

A site is a node of the module's torch.fx graph: the inputs of convolutions and linear layers, both sides of add, concat
and pool, and the outputs of convolutions. Where the value passes through a folded batch norm or a ReLU next, the site
is behind it, since integer kernels do those together; operations that only move or select values have the grid of what
they read. Sites have the same names before and after folding. Called by the steps that set grids, by training, by
the engine to measure accuracy, and by `core.runtimes.onnx` to write int8 files.
"""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.ops import StochasticDepth, stochastic_depth

from core import device
from core.arithmetic.folding import SMALLEST_SCALE, fold, install, integers, layer_of, pairs, trace
from core.weights import ActivationGrid, flat

if TYPE_CHECKING:
    from core.weights import Compressed

WEIGHTED = (nn.Conv2d, nn.Linear)
ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}
CONCAT = {torch.cat, torch.concat, torch.concatenate}
MEAN = {nn.AvgPool2d, nn.AdaptiveAvgPool2d, F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, "mean"}
LARGEST = {nn.MaxPool2d, nn.AdaptiveMaxPool2d, F.max_pool2d, torch.max_pool2d}  # select values, so the grid stays
MOVE = {
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, StochasticDepth, stochastic_depth, F.dropout,
    torch.flatten, torch.transpose, torch.permute, torch.reshape, "flatten", "transpose", "permute", "reshape", "view", "contiguous",
}  # fmt: skip
POINTWISE = (nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.Sigmoid, nn.GELU)
SPLIT = {torch.chunk, torch.split, "chunk", "split"}
CLIP = {nn.ReLU, nn.ReLU6, F.relu, F.relu6, torch.relu, "relu", "relu_"}  # what a grid that ends at 0 (and 6) does by itself

SAMPLE = 20_000  # values kept of each site and batch
BINS = 2_048
SHRINK = tuple(0.5 ** (step / 5) for step in range(15))  # 1 … 0.14 of the full range, tried when clipping by error
WIDE_BITS = 8  # at least, of pictures, and of what is rounded only on its way to a function in floating point


def sites(module: nn.Module, layers: Collection[str] | None = None) -> list[str]:
    """The node names of all sites, in the order in which they are computed.

    With `layers` (weight names such as "layer1.0.conv1.weight"), only those convolutions and linear layers count.
    Raises `BadInput` for a module that cannot be traced.
    """
    return _Reading(module, layers).sites


def inputs_of(module: nn.Module, layers: Collection[str]) -> list[str]:
    """Of `sites`, only what the layers (weight names) read; never the pictures themselves."""
    reading = _Reading(module, layers)
    found = {reading._end(reading.source(node.args[0])) for node in reading.graph.nodes if reading.weighted(node)}
    return [node.name for node in reading.graph.nodes if node in found and node.op != "placeholder"]


class _Reading:
    """What each node of a module's graph is, and which of them are sites."""

    def __init__(self, module: nn.Module, layers: Collection[str] | None = None):
        self.graph = trace(module)
        self.module = module
        self.layers = layers
        self.called = {node: layer_of(node, module) for node in self.graph.nodes}
        self.norms = {norm for _convolution, norm in pairs(module, self.graph)}
        found = {site for node in self.graph.nodes for site in self._around(node)}
        self.sites = [node.name for node in self.graph.nodes if node in found and not self._only_leads_out(node)]

    def is_a(self, node: fx.Node, kinds: Collection) -> bool:
        layer = self.called[node]
        return (type(layer) if layer is not None else node.target) in kinds

    def weighted(self, node: fx.Node) -> bool:
        """A convolution or linear layer that is to run on integers; also while its weight is parametrized."""
        chosen = self.layers is None or f"{node.target}.weight" in self.layers
        return chosen and isinstance(self.called[node], WEIGHTED)

    def moves(self, node: fx.Node) -> bool:
        part = node.target is operator.getitem and (self.is_a(node.args[0], SPLIT) or _is_crop(node.args[1]))
        return part or self.is_a(node, MOVE) or self.is_a(node, LARGEST) or self.is_a(node, SPLIT)

    def source(self, node: fx.Node) -> fx.Node:
        """The node whose values `node` holds, moved or selected."""
        while self.moves(node) and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        return node

    def wide(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The sites that keep `WIDE_BITS`, each with the function that reads it: pictures, and what only floating point reads.

        The second kind are sites because integer kernels round what convolutions hand on, say to a hardswish; where that
        function is flat, as below −3, rounding costs nothing.
        """
        read = {site for node in self.graph.nodes for site in self._around(node, outputs=False)}
        found = {}
        for node in self.graph.nodes:
            if node.op == "placeholder" or node.name in self.sites and node not in read:
                reader = self.called[next(iter(node.users))] if len(node.users) == 1 else None
                found[node.name] = reader if isinstance(reader, POINTWISE) else _same
        return found

    def _around(self, node: fx.Node, outputs: bool = True) -> Iterator[fx.Node]:
        """The sites that a node needs: its inputs, and its output where that is not just its input selected."""
        adds = self.is_a(node, ADD) and all(isinstance(arg, fx.Node) and arg.op != "get_attr" for arg in node.args[:2])
        if self.weighted(node):
            yield self._end(self.source(node.args[0]))
            if outputs and isinstance(self.called[node], nn.Conv2d):
                yield self._end(node)
        elif adds or self.is_a(node, CONCAT) or self.is_a(node, MEAN):
            for source in node.all_input_nodes:
                yield self._end(self.source(source))
            if outputs:
                yield self._end(node)
        elif self.is_a(node, LARGEST):
            yield self._end(self.source(node))

    def _end(self, node: fx.Node) -> fx.Node:
        """Where the value of `node` is after the batch norm and the ReLU that integer kernels apply together with it."""
        if self.is_a(node, MEAN) or self.is_a(node, CONCAT):
            return node
        for kinds in ({nn.Identity}, CLIP):
            while len(node.users) == 1:
                user = next(iter(node.users))
                if not self.is_a(user, kinds) and not (kinds == {nn.Identity} and user in self.norms):
                    break
                node = user
        return node

    def _only_leads_out(self, node: fx.Node) -> bool:
        """Whether nothing but the output reads the value: the logits stay as they are."""
        return all(user.op == "output" or self.moves(user) and self._only_leads_out(user) for user in node.users)


@torch.no_grad()
def observe(
    module: nn.Module, batches: Iterable[Tensor], bits: int, names: Collection[str] | None = None, turn=contextlib.nullcontext
) -> dict[str, ActivationGrid]:
    """Grids of `bits` for the sites `names` (all by default), from calibration pictures (B, 3, S, S).

    A range is where the squared rounding error of a sample of the values is least. It always holds 0, and starts at 0 for values that
    are never negative. The network runs once over the pictures, and never rounded.
    """
    reading = _Reading(module)
    wide = reading.wide()
    seen: dict[str, list[Tensor]] = {name: [] for name in reading.sites if names is None or name in names}
    watcher = _Watcher(module, reading.graph, seen)
    for batch in batches:
        with turn():
            watcher.run(batch)
    found = {}
    for name, values in seen.items():
        with turn():
            found[name] = grid_of(torch.cat(values), max(bits, WIDE_BITS) if name in wide else bits, wide.get(name, _same))
    return found


def dynamic(module: nn.Module, bits: int, names: Collection[str] | None = None) -> dict[str, ActivationGrid]:
    """Grids of `bits` for the sites `names` (all by default) whose ranges are each picture's own."""
    reading = _Reading(module)
    wide = reading.wide()
    return {
        name: ActivationGrid(1.0, 0, max(bits, WIDE_BITS) if name in wide else bits, dynamic=True) for name in reading.sites if names is None or name in names
    }


def _is_crop(index: object) -> bool:
    """Whether `x[index]` only cuts off a frame or channels."""
    return isinstance(index, tuple) and all(isinstance(part, slice) for part in index)


def _same(value: Tensor) -> Tensor:
    return value


class _Watcher(fx.Interpreter):
    """Runs a graph and keeps, of each watched node, the extremes and an even sample of every batch."""

    def __init__(self, module: nn.Module, graph: fx.Graph, seen: dict[str, list[Tensor]]):
        super().__init__(module, graph=graph)
        self.seen = seen

    def run_node(self, node: fx.Node):
        value = super().run_node(node)
        if node.name in self.seen:
            every = max(1, value.numel() // SAMPLE)
            sample = torch.take(value, torch.arange(0, value.numel(), every))  # a flat view would be a copy of a channels_last tensor
            self.seen[node.name] += [sample, torch.stack(torch.aminmax(flat(value)))]
        return value


def grid_of(values: Tensor, bits: int, function: Callable[[Tensor], Tensor] = _same) -> ActivationGrid:
    """The grid whose squared rounding error on a sample of values (n,) float32, seen behind `function`, is least (arXiv:1810.05723)."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if high == low:
        return ActivationGrid(1.0, 0, bits)
    counts, edges = torch.histc(values.float(), BINS, low, high), torch.linspace(low, high, BINS + 1)  # torch.histogram takes twice as long
    filled = counts > 0  # often less than half of them, since few values are large
    centres, counts = ((edges[:-1] + edges[1:]) / 2)[filled], counts[filled]  # (n,)
    shrink = torch.tensor(SHRINK)
    tried = torch.cartesian_prod(low * shrink if low < 0 else torch.zeros(1), high * shrink if high > 0 else torch.zeros(1))  # (K, 2)
    scale, zero_point = _spanning(tried[:, :1], tried[:, 1:], 2**bits - 1)  # (K, 1) each
    nearest = torch.div(centres, scale).round_().clamp_(-zero_point, 2**bits - 1 - zero_point).mul_(scale)  # (K, n)
    error = function(nearest).sub_(function(centres.clone())).square_()
    best = int((error @ counts).argmin())
    return ActivationGrid(float(scale[best]), int(zero_point[best]), bits)


def _spanning(low: Tensor, high: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Scales and zero points whose grids span [low, high], low ≤ 0 ≤ high; never beyond `high`, or runtimes keep a ReLU6."""
    scale = (high - low) / levels
    scale = torch.where(scale * levels > high - low, torch.nextafter(scale, torch.zeros(())), scale).clamp_(min=SMALLEST_SCALE)
    return scale, torch.round(-low / scale).clamp_(0, levels)


def rounded(value: Tensor, scale: float, zero_point: int, bits: int) -> Tensor:
    """The nearest values on a grid; going backward, the gradient is 1 inside its range and 0 outside (arXiv:1308.3432)."""
    highest = 2**bits - 1
    if not torch.is_grad_enabled():
        return torch.mul(value, 1 / scale).round_().clamp_(-zero_point, highest - zero_point).mul_(scale)  # the same, 5 times as fast
    if value.device.type == device.CPU:
        return torch.fake_quantize_per_tensor_affine(value, scale, zero_point, 0, highest)
    return Rounded.apply(value, scale, -zero_point, highest - zero_point)


class Rounded(torch.autograd.Function):
    """What `fake_quantize_per_tensor_affine` computes, both ways and to the bit, written out for devices that lack it, as MPS does."""

    @staticmethod
    def forward(ctx, value: Tensor, scale: float, low: int, high: int) -> Tensor:
        steps = torch.mul(value, 1 / scale).round_()  # half to even
        ctx.save_for_backward((steps >= low) & (steps <= high))
        return steps.clamp_(low, high).mul_(scale).add_(0.0)  # adding 0 turns −0 into +0

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None


def rounded_by_picture(value: Tensor, bits: int) -> Tensor:
    """value (B, …) on the grid that spans each picture's own values and 0; the gradient passes everywhere."""
    dims = tuple(range(1, value.dim()))
    with torch.no_grad():
        low, high = value.amin(dims, keepdim=True).clamp(max=0), value.amax(dims, keepdim=True).clamp(min=0)
        scale = ((high - low) / (2**bits - 1)).clamp(min=SMALLEST_SCALE)
        zero = torch.round(-low / scale)
        offset = torch.round(value / scale).clamp_(-zero, 2**bits - 1 - zero).mul_(scale).sub_(value)
    return value + offset


def fake_quantized(value: Tensor, scale: float, zero_point: int, bits: int) -> Tensor:
    """The same by the one operator that has a form in ONNX, a pair of QuantizeLinear and DequantizeLinear."""
    return torch.fake_quantize_per_tensor_affine(value, scale, zero_point, 0, 2**bits - 1)


def simulated(module: nn.Module, grids: dict[str, ActivationGrid], rounding: Callable[..., Tensor] = rounded) -> fx.GraphModule:
    """The module with every tensor in `grids` rounded. Shares the layers of `module`, so training it trains `module`.

    Names that the graph does not have are ignored: a tensor that is gone needs no grid.
    """
    graph = copy.deepcopy(trace(module))
    for node in list(graph.nodes):
        grid = grids.get(node.name)
        if grid is None or node.op == "output":
            continue
        with graph.inserting_after(node):
            how = (rounded_by_picture, (node, grid.bits)) if grid.dynamic else (rounding, (node, grid.scale, grid.zero_point, grid.bits))
            on_grid = graph.call_function(*how, name=f"{node.name}_on_grid")
        node.replace_all_uses_with(on_grid, lambda user, on_grid=on_grid: user is not on_grid)
    return fx.GraphModule(module, graph)


def input_scales(module: nn.Module, grids: dict[str, ActivationGrid]) -> dict[str, float]:
    """The scale of the grid that each convolution's and linear layer's input is on, by layer path."""
    reading = _Reading(module)
    found = {}
    for node in reading.graph.nodes:
        if reading.weighted(node) and isinstance(node.args[0], fx.Node):
            grid = grids.get(reading._end(reading.source(node.args[0])).name)
            if grid is not None:
                found[node.target] = grid.scale
    return found


def along_moves(module: nn.Module, grids: dict[str, ActivationGrid]) -> dict[str, ActivationGrid]:
    """`grids`, and the same grids again on values moved on their way to a layer or taken from a chunk; rounding twice changes nothing.

    ONNX Runtime keeps a chain of moves on integers only where both its ends are on a grid.
    """
    reading = _Reading(module)
    spread = dict(grids)
    for node in reading.graph.nodes:
        if reading.moves(node) and (node.target is operator.getitem or any(reading.weighted(user) for user in node.users)):
            grid = grids.get(reading._end(reading.source(node)).name)
            if grid is not None:
                spread.setdefault(node.name, grid)
    return spread


def measured(subject: Compressed) -> nn.Module:
    """The module to measure accuracy with: the plain one, or, with activation grids, what integer kernels compute.

    Batch norm is folded, weights have the values of their integers, biases are rounded to 32 bits, sites are rounded. With dynamic
    grids, the plain module with its sites rounded.
    """
    if not subject.activations:
        return subject.module
    if any(grid.dynamic for grid in subject.activations.values()):  # biases have no scale before a picture is seen
        return simulated(subject.module, subject.activations)
    folded = fold(subject.module)
    install(folded, integers(subject, folded, input_scales(subject.module, subject.activations)))
    return simulated(folded, subject.activations)
