"""Which channels of a network hang together, and a network without some of them.

Removing an output channel of one layer takes it from everything that reads it, and residual connections tie channels of
several layers to each other. torch-pruning's dependency graph (arXiv:2301.12900) finds these groups by tracing; the
slicing is done here, because the groups already say which channels fall. Methods that remove channels score and select
units and call `remove`; they may not look at torch-pruning themselves.

    conv1 (out 0, 1, 2) ── bn (0, 1, 2) ── conv2 (in 0, 1, 2)      three units: unit 1 is channel 1 of all three layers
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch_pruning.ops import OPTYPE
from torchvision.models import MaxVit, ShuffleNetV2, SwinTransformer, VisionTransformer
from torchvision.models.maxvit import MBConv, PartitionAttentionLayer
from torchvision.ops import MLP

from core import zoo
from core.keeping.remembered import Remembered

REMEMBERED = 32  # networks
OUT, IN = "out", "in"
CONVOLUTION, DEPTHWISE, LINEAR, NORM = "convolution", "depthwise", "linear", "norm"
KINDS = {OPTYPE.CONV: CONVOLUTION, OPTYPE.DEPTHWISE_CONV: DEPTHWISE, OPTYPE.LINEAR: LINEAR, OPTYPE.BN: NORM}
WHOLE = {  # family → why layers of it keep all of their channels
    "ConvNeXt": "their channels are normalised together, as layer normalisation reads all of a place at once",
    "MaxViT": "their channels are normalised together or belong to attention, and only what lies between can go",
    "ShuffleNetV2": "their channels are shuffled and split between two branches",
    "Swin Transformer": "their channels are normalised together or belong to attention, and only the hidden ones of each MLP can go",
    "Vision Transformer": "their channels are normalised together or belong to attention, and only the hidden ones of each MLP can go",
}
PASSING = (OPTYPE.CONCAT, OPTYPE.RESHAPE, OPTYPE.SLICE)  # what channels pass through with no weight of its own


@dataclass(frozen=True)
class Part:
    """The share that one side of a layer has in a group: its channel `channels[k]` goes with the unit `units[k]`."""

    layer: str  # its path in the network
    side: str  # OUT or IN; a depthwise convolution and batch norm have OUT alone
    kind: str  # CONVOLUTION, DEPTHWISE, LINEAR or NORM
    channels: Tensor  # (m,) int64
    units: Tensor  # (m,) int64


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed together, as units 0 … units − 1, each of `width` output channels of `layer`.

    A unit is one channel, except where a grouped convolution reads or makes the channels: then it is one of every group's.
    """

    layer: str
    units: int
    width: int
    parts: tuple[Part, ...]

    def makers(self) -> list[Part]:
        """The convolutions and linear layers whose outputs these channels are, depthwise ones aside: those only follow."""
        return [part for part in self.parts if part.side == OUT and part.kind in (CONVOLUTION, LINEAR)]

    def readers(self) -> list[Part]:
        """The convolutions and linear layers that read these channels."""
        return [part for part in self.parts if part.side == IN]

    def weights(self) -> list[Part]:
        """Everything but batch norms."""
        return [part for part in self.parts if part.kind != NORM]

    def norms(self) -> list[Part]:
        return [part for part in self.parts if part.kind == NORM]


def groups(module: nn.Module, input_size: int) -> list[Group]:
    """The groups of channels that can be removed, in the order of the network; never the classifier's outputs.

    Left out are groups that reach into layer normalisation, attention or free parameters, and channels that are shuffled
    or split: there the network without a channel would not compute what the whole one does with that channel ignored.
    Remembered by the shapes of the network, since tracing takes longer than pruning.
    """
    return _GROUPS.get((repr(module), input_size), lambda: _trace(module, input_size))


def untouched(module: nn.Module, found: list[Group]) -> list[str]:
    """The paths of the layers whose outputs are in no group, the classifier aside."""
    *paths, _classifier = (path for path, layer in module.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear)))
    covered = {part.layer for group in found for part in group.parts if part.side == OUT}
    return [path for path in paths if path not in covered]


def whole_because(model: str) -> str:
    """Why layers of `model` are among the untouched, as the end of a sentence."""
    return WHOLE.get(zoo.models().get(model, {}).get("family", ""), "their channels are shuffled, split or normalised together")


_GROUPS: Remembered[list[Group]] = Remembered(REMEMBERED)


def _trace(module: nn.Module, input_size: int) -> list[Group]:
    import torch_pruning

    *_, classifier = (layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear)))
    forward = next((function for kind, function in _FORWARD.items() if isinstance(module, kind)), None)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of parameters outside of layers, whose groups are left out below
        graph = torch_pruning.DependencyGraph().build_dependency(module, torch.zeros(1, 3, input_size, input_size), forward, verbose=False)
    for node in graph.module2node.values():
        if node.type in PASSING:  # their index mappings are final, and would be found anew for every group: 30 s for densenet201
            node.type = OPTYPE.ELEMENTWISE
    place = {path: number for number, (path, _) in enumerate(module.named_modules())}
    found = [_group(graph, raw, place) for raw in graph.get_all_groups([classifier], (nn.Conv2d, nn.Linear))]
    return sorted((group for group in found if group is not None), key=lambda group: place[group.layer])


def _group(graph, raw, place: dict[str, int]) -> Group | None:
    """torch-pruning's group as ours; None when it must not be touched."""
    if not {item.dep.target.type for item in raw.items} <= {OPTYPE.ELEMENTWISE, *KINDS}:
        return None
    items = [item for item in raw.items if item.dep.target.type in KINDS]
    grouped = [item for item in items if KINDS[item.dep.target.type] == CONVOLUTION and item.dep.target.module.groups > 1]
    width = math.lcm(*(item.dep.target.module.groups for item in grouped))
    channels = len(items[0].idxs)  # of the root, which comes first and is whole
    if channels % width or any(list(item.idxs) != list(range(channels)) or item.idxs != item.root_idxs for item in grouped):
        return None
    parts = []
    for item in items:
        side = OUT if graph.is_out_channel_pruning_fn(item.dep.handler) else IN
        path, kind = graph._module2name[item.dep.target.module], KINDS[item.dep.target.type]
        parts.append(Part(path, side, kind, torch.tensor(item.idxs), torch.tensor(item.root_idxs) % (channels // width)))
    parts.sort(key=lambda part: place[part.layer])
    group = Group(parts[0].layer, channels // width, width, tuple(parts))
    return replace(group, layer=group.makers()[0].layer) if group.makers() and group.readers() else None


def _branches(network: ShuffleNetV2, x: Tensor) -> list[Tensor]:
    """The forward pass with every tie through a split and shuffle cut: the outputs of all branches, and the logits.

    torch-pruning cannot follow channels through a shuffle; what lies within a branch needs no shuffle to be seen.
    """
    outputs = []
    x = network.maxpool(network.conv1(x))
    for block in (*network.stage2, *network.stage3, *network.stage4):
        left, right = x.chunk(2, dim=1) if block.stride == 1 else (block.branch1(x), x)
        right = block.branch2(right)
        outputs += [left, right] if block.stride > 1 else [right]
        x = torch.cat([left, right], dim=1).detach()
    return [*outputs, network.fc(network.conv5(x).mean([2, 3]))]


def _islands(network: SwinTransformer | VisionTransformer | MaxVit, x: Tensor) -> list[Tensor]:
    """The outputs of the parts between layer normalisations, each run by itself on zeros.

    torch-pruning loses its way in the reshapes of windowed attention; the hidden channels of these parts need none.
    """
    outputs = [network.stem(x)] if isinstance(network, MaxVit) else []
    for part in network.modules():
        if isinstance(part, MLP):
            outputs.append(part(torch.zeros(1, _width(part))))
        elif isinstance(part, PartitionAttentionLayer):
            outputs.append(part.mlp_layer(torch.zeros(1, _width(part.mlp_layer))))
        elif isinstance(part, MBConv):
            outputs.append(part(torch.zeros(1, part.layers.pre_norm.num_features, 8, 8)))
    return outputs


def _width(part: nn.Module) -> int:
    """How many numbers the first linear layer of `part` reads; it may be a factor."""
    return next(layer.in_features for layer in part.modules() if isinstance(layer, nn.Linear))


_FORWARD = {ShuffleNetV2: _branches, SwinTransformer: _islands, VisionTransformer: _islands, MaxVit: _islands}


def nearest(kept: int, units: int, width: int, multiple: int) -> int:
    """The number of units nearest to `kept`, the larger of two, whose channels are a multiple; all units are always allowed.

    A unit is `width` channels.
    """
    allowed = [count for count in range(1, units) if count * width % multiple == 0] + [units]
    return min(allowed, key=lambda count: (abs(count - kept), -count))


def remove(module: nn.Module, chosen: list[tuple[Group, Tensor]]) -> None:
    """Take units out of a network's layers: pairs of a group and the units (k,) int64 to remove from it."""
    falling: dict[str, dict[str, list[Tensor]]] = {}
    for group, units in chosen:
        for part in group.parts:
            falling.setdefault(part.layer, {OUT: [], IN: []})[part.side].append(_channels(part, units))
    for path, sides in falling.items():
        layer = module.get_submodule(path)
        lost = {side: torch.cat(found) if found else torch.empty(0, dtype=torch.int64) for side, found in sides.items()}
        _SLICE[next(kind for kind in _SLICE if isinstance(layer, kind))](layer, lost[OUT], lost[IN])


def disconnect(module: nn.Module, chosen: list[tuple[Group, Tensor]]) -> None:
    """Keep all shapes, but let no layer read the units: what the whole network computes then is what `remove` must leave."""
    with torch.no_grad():
        for group, units in chosen:
            for part in group.readers():
                layer = module.get_submodule(part.layer)
                weight = by_channel_read(layer.weight, layer).clone()
                weight[_channels(part, units)] = 0
                layer.weight.copy_(_as_before(weight, layer))


def sums(group: Group, parts: list[Part], values: dict[str, Tensor], module: nn.Module) -> Tensor:
    """What every unit has of `values`, tensors of the shapes of the layers' weights by path, summed over `parts`: (units,)."""
    total = torch.zeros(group.units, dtype=values[parts[0].layer].dtype)
    for part in parts:
        value = values[part.layer]
        rows = by_channel_read(value, module.get_submodule(part.layer)) if part.side == IN else value.reshape(len(value), -1)
        total.index_add_(0, part.units, rows.sum(1)[part.channels])
    return total


def by_channel_read(weight: Tensor, layer: nn.Module) -> Tensor:
    """A layer's weight (out, in / groups, …), or a tensor of its shape, as (in, the weights that read this channel)."""
    count = getattr(layer, "groups", 1)
    return weight.unflatten(0, (count, -1)).transpose(1, 2).flatten(0, 1).flatten(1)


def _as_before(rows: Tensor, layer: nn.Module) -> Tensor:
    """The inverse of `by_channel_read`."""
    count, shape = getattr(layer, "groups", 1), layer.weight.shape
    return rows.view(count, shape[1], shape[0] // count, *shape[2:]).transpose(1, 2).reshape(shape)


def _channels(part: Part, units: Tensor) -> Tensor:
    return part.channels[torch.isin(part.units, units)]


def _kept(length: int, lost: Tensor) -> Tensor:
    kept = torch.ones(length, dtype=torch.bool)
    kept[lost] = False
    return kept.nonzero().view(-1)


def _parameter(tensor: Tensor) -> nn.Parameter:
    """A copy with the very strides that `Architecture.build` gives: kernels, and so the last bits of outputs, depend on them."""
    layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
    return nn.Parameter(torch.empty(tensor.shape, dtype=tensor.dtype, memory_format=layout).copy_(tensor))


def _slice_convolution(layer: nn.Conv2d, lost_out: Tensor, lost_in: Tensor) -> None:
    own = layer.in_channels // layer.groups  # input channels of a group
    rows, columns = _kept(layer.out_channels, lost_out), _kept(own, lost_in[lost_in < own])
    if layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels:
        layer.in_channels = layer.groups = len(rows)
    else:
        layer.in_channels = len(columns) * layer.groups
    layer.out_channels = len(rows)
    _slice_weight(layer, rows, columns)


def _slice_linear(layer: nn.Linear, lost_out: Tensor, lost_in: Tensor) -> None:
    rows, columns = _kept(layer.out_features, lost_out), _kept(layer.in_features, lost_in)
    layer.out_features, layer.in_features = len(rows), len(columns)
    _slice_weight(layer, rows, columns)


def _slice_weight(layer: nn.Module, rows: Tensor, columns: Tensor) -> None:
    layer.weight = _parameter(layer.weight.detach().index_select(0, rows).index_select(1, columns))
    if layer.bias is not None:
        layer.bias = _parameter(layer.bias.detach()[rows])


def _slice_batch_norm(layer: nn.BatchNorm2d, lost: Tensor, _none: Tensor) -> None:
    rows = _kept(layer.num_features, lost)
    layer.num_features = len(rows)
    layer.running_mean, layer.running_var = layer.running_mean[rows], layer.running_var[rows]
    layer.weight, layer.bias = _parameter(layer.weight.detach()[rows]), _parameter(layer.bias.detach()[rows])


_SLICE = {nn.Conv2d: _slice_convolution, nn.Linear: _slice_linear, nn.BatchNorm2d: _slice_batch_norm}
