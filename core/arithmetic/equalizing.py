"""Layers between which channels can be scaled without changing what the network computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.arithmetic.folding import layer_of, trace
from core.arithmetic.folding import pairs as norms_of
from core.weights import Compressed, Weight

RELU = {nn.ReLU, F.relu, torch.relu, "relu", "relu_"}
WIDEST = 1e4  # a factor beyond this, or below its inverse, is left alone: the channel is as good as dead


@dataclass(frozen=True)
class Pair:
    """`first` makes channels, `norm` follows it if there is one, `readers` read them behind a ReLU: paths in the module."""

    first: str
    norm: str | None
    readers: tuple[str, ...]


def pairs(module: nn.Module) -> list[Pair]:
    """Every such pair, in the order of the graph; nothing but the readers reads what is between."""
    graph = trace(module)
    norms = dict(norms_of(module, graph))
    found = []
    for node in graph.nodes:
        if not isinstance(layer_of(node, module), (nn.Conv2d, nn.Linear)):
            continue
        norm = norms.get(node)
        relu = _only_reader(norm or node)
        if norm is not None and not layer_of(norm, module).affine or relu is None or not _is_relu(relu, module):
            continue
        readers = list(relu.users)
        if readers and all(_reads_channels(layer_of(node, module), layer_of(reader, module)) for reader in readers):
            found.append(Pair(node.target, norm.target if norm is not None else None, tuple(reader.target for reader in readers)))
    return found


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_relu(node: fx.Node, module: nn.Module) -> bool:
    layer = layer_of(node, module)
    return (type(layer) if layer is not None else node.target) in RELU


def _reads_channels(first: nn.Module, second: nn.Module | None) -> bool:
    """Whether the second layer reads the first one's channels as they are, all of them or one for each of its own."""
    if isinstance(first, nn.Linear):
        return isinstance(second, nn.Linear)
    return isinstance(second, nn.Conv2d) and (second.groups == 1 or second.groups == second.in_channels == second.out_channels)


def balance(subject: Compressed, pair: Pair) -> None:
    """Give the channels between the two layers of a pair the same range on both sides."""
    module = subject.module
    first = subject.value(f"{pair.first}.weight")
    norm = module.get_submodule(pair.norm) if pair.norm is not None else None
    made = first.flatten(1).abs().amax(1)
    if norm is not None:
        made = made * (norm.weight.detach() / (norm.running_var + norm.eps).sqrt()).abs()
    dims = {path: 0 if getattr(module.get_submodule(path), "groups", 1) > 1 else 1 for path in pair.readers}  # of the channels that are read
    ranges = [subject.value(f"{path}.weight").transpose(0, dim).flatten(1).abs().amax(1) for path, dim in dims.items()]
    read = torch.stack(ranges).amax(0)
    factor = torch.where((made > 0) & (read > 0), (made / read.clamp(min=1e-30)).sqrt(), torch.ones(()))
    factor = torch.where((factor < WIDEST) & (factor > 1 / WIDEST), factor, torch.ones(()))
    if norm is not None:
        norm.weight.data, norm.bias.data = norm.weight.detach() / factor, norm.bias.detach() / factor
    else:
        layer = module.get_submodule(pair.first)
        _scale(subject, f"{pair.first}.weight", _along(1 / factor, first, 0))
        if layer.bias is not None:
            layer.bias.data = layer.bias.detach() / factor
    for path, dim in dims.items():
        _scale(subject, f"{path}.weight", _along(factor, subject.value(f"{path}.weight"), dim))


def even_rows(subject: Compressed) -> None:
    """Bring the rows of every convolution that a batch norm follows to one range; its statistics follow."""
    graph = trace(subject.module)
    for convolution, node in norms_of(subject.module, graph):
        norm: _BatchNorm = layer_of(node, subject.module)
        name = f"{convolution.target}.weight"
        if name not in subject.weights or norm.running_var is None or layer_of(convolution, subject.module).bias is not None:
            continue
        rows = subject.value(name).flatten(1).abs().amax(1)
        alive = rows > 0
        if not alive.any():
            continue
        factor = torch.where(alive, rows / rows[alive].log().mean().exp(), torch.ones(()))  # one range: the geometric mean
        factor = factor.clamp(max=((norm.running_var + norm.eps) / norm.eps).sqrt() * 0.999)  # the variance less the norm's own constant stays positive
        _scale(subject, name, _along(1 / factor, subject.value(name), 0))
        norm.running_mean.div_(factor)
        norm.running_var.copy_((norm.running_var + norm.eps) / factor.square() - norm.eps)


def _along(factor: Tensor, like: Tensor, dim: int) -> Tensor:
    return factor.view([-1 if at == dim else 1 for at in range(like.dim())])


def _scale(subject: Compressed, name: str, factor: Tensor) -> None:
    subject.set(name, Weight(subject.value(name) * factor, subject.weights[name].mask))
