"""The state of a compressed model: what each weight is, and what it is worth when measured.

A weight has exactly one state: a latent tensor, optionally a mask, optionally a grid (`core.arithmetic.grids`). The mask applies last, and
every grid contains exact 0, so zeros survive rounding. `Compressed` keeps the module's plain parameters equal to the states'
values at all times: whoever measures sees plain weights. Methods change states by `Compressed.set`; only training
(`trainable`) puts parametrizations on the module, and takes them off again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from core.arithmetic.grids import Codebook, Grid
from core.models.architecture import Architecture
from core.recipe import choose

MASKED_AT_ONCE = 1 << 16  # numbers: what they are, whether they are kept and what they become fit the processor's cache


@dataclass(frozen=True)
class Weight:
    """One weight's state. `mask` is bool, True where the weight is kept."""

    latent: Tensor
    mask: Tensor | None = None
    grid: Grid | None = None

    def value(self) -> Tensor:
        """The plain float32 weight that is measured and stored."""
        value = self.grid.value() if self.grid is not None else self.latent
        return value if self.mask is None else _masked(value.detach(), self.mask)

    def pruned(self, keep: Tensor) -> Weight:
        """Narrow the mask to `keep` (bool); the grid stays, and its codes there become the zero point."""
        return replace(self, mask=keep if self.mask is None else self.mask & keep)

    def baked(self) -> Weight:
        """The value as a plain latent tensor; the mask stays."""
        return Weight(self.value(), self.mask)


@dataclass(frozen=True)
class ActivationGrid:
    """An unsigned uniform grid on one tensor of the graph: value = (code − zero_point) · scale, code in 0 … 2^bits − 1.

    A dynamic one has the range of each picture's own values, found while it runs; its scale and zero point stand for nothing.
    """

    scale: float
    zero_point: int
    bits: int
    dynamic: bool = False


@dataclass
class Compressed:
    """A model on its way through a recipe.

    `weights` maps parameter names (`layer1.0.conv1.weight`) of convolutions, linear layers and attention to their
    states, and, once a step has put them on a grid, those of biases and batch norms; `activations` maps the graph's tensor
    names to grids (see `core.arithmetic.activations`); `notes` are sentences for the person, about what a step could not do.
    """

    module: nn.Module
    architecture: Architecture
    weights: dict[str, Weight]
    activations: dict[str, ActivationGrid] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def of(module: nn.Module, architecture: Architecture) -> Compressed:
        """A fresh state around a copy of `module`, which stays untouched."""
        module = clone(module).eval()
        return Compressed(module, architecture, {name: Weight(parameter.detach()) for name, parameter in weights_of(module)})

    def value(self, name: str) -> Tensor:
        """What a weight is worth now, without computing it anew; not to be changed in place."""
        return self.module.get_parameter(name).detach()

    def set(self, name: str, weight: Weight, value: Tensor | None = None) -> None:
        """Give a weight its new state, and the module the value of it, where that is not known already."""
        self.weights[name] = weight
        give(self.module.get_parameter(name), weight.value() if value is None else value)

    def chosen(self, layers: str) -> list[str]:
        """The names of the weights that a step's `layers` field means; raises `BadField` when that is none."""
        names = [name for name, _parameter in weights_of(self.module)]
        return choose(names, layers, {name: self.architecture.whole(name) for name in names})

    def stored(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of every parameter that has a state: the weights in the module's order, then the rest by name."""
        own = dict(weights_of(self.module))
        yield from own.items()
        for name in sorted(set(self.weights) - set(own)):
            yield name, self.module.get_parameter(name)

    def rebuild(self) -> None:
        """After a structural change of the module: take new latents, and find the masks again where the weight is 0."""
        masked = {name for name, weight in self.weights.items() if weight.mask is not None}
        self.weights = {name: Weight(parameter.detach(), (parameter.detach() != 0) if name in masked else None) for name, parameter in weights_of(self.module)}
        self.architecture = self.architecture.of(self.module)


def _masked(value: Tensor, mask: Tensor) -> Tensor:
    """value · mask, with +0 where it is 0. By numpy where both lie alike in memory: torch takes three times as long for a mask of bools."""
    if value.stride() != mask.stride() or not (value.is_contiguous() or _channels_last(value)):
        return (value * mask).add_(0.0)  # adding 0 turns −0 into +0
    values, kept = flat(value).numpy(), flat(mask).numpy()
    row = np.empty_like(values)
    for start in range(0, row.size, MASKED_AT_ONCE):
        part = slice(start, start + MASKED_AT_ONCE)
        np.multiply(values[part], kept[part], out=row[part])
        row[part] += 0.0
    return unflat(torch.from_numpy(row), value)


def give(parameter: nn.Parameter, value: Tensor) -> None:
    """Put a value where a parameter has its numbers. Not copied into: another may hold what was there before."""
    if value.shape == parameter.shape and value.stride() != parameter.stride():
        value = torch.empty_like(parameter).copy_(value)  # depthwise kernels with other strides run five times slower
    parameter.data = value


def clone(module: nn.Module) -> nn.Module:
    """A copy of a network with tensors of its own, ten times quicker than `copy.deepcopy`, which follows every plain attribute too.

    Other attributes than tensors, modules, dictionaries and sets are shared; parametrizations and hooks that hold the module itself are not supported.
    """
    return _copied(module, {})


def _copied(original: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """Not a function within `clone`: one that calls itself is a cycle, and keeps every copy in memory until a garbage collection."""
    if id(original) not in made:
        new = made[id(original)] = original.__class__.__new__(original.__class__)
        # dictionaries and sets too: a hook of the copy must not be one of the original
        new.__dict__ = {name: value.copy() if isinstance(value, (dict, set)) else value for name, value in original.__dict__.items()}
        new._parameters = {
            name: None if parameter is None else nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            for name, parameter in original._parameters.items()
        }
        new._buffers = {name: None if buffer is None else buffer.detach().clone() for name, buffer in original._buffers.items()}
        new._modules = {name: None if part is None else _copied(part, made) for name, part in original._modules.items()}
    return made[id(original)]


def nonzeros(tensor: Tensor) -> int:
    """How many elements are not 0; numpy counts bools ten times quicker than torch counts floats."""
    return int(np.count_nonzero(flat(tensor.detach() != 0).numpy()))


def flat(tensor: Tensor) -> Tensor:
    """All elements as one row, in the order in which they lie in memory: no copy for channels_last kernels."""
    return (tensor.permute(0, 2, 3, 1) if _channels_last(tensor) else tensor).reshape(-1)


def unflat(row: Tensor, like: Tensor) -> Tensor:
    """What `flat` made, in the shape and memory order of `like`."""
    if not _channels_last(like):
        return row.view(like.shape)
    outputs, inputs, height, width = like.shape
    return row.view(outputs, height, width, inputs).permute(0, 3, 1, 2)


def sum_of_pictures(x: Tensor) -> Tensor:
    """(B, …) → the sum (…) over pictures, by rows in memory order: torch takes ten times as long for those that are channels_last."""
    if not _channels_last(x):
        return x.sum(0)
    batch, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(batch, -1).sum(0).view(height, width, channels).permute(2, 0, 1)


def rows(tensor: Tensor) -> Tensor:
    """(C, …) → (C, n), one row an output channel, in memory order."""
    return flat(tensor).view(tensor.shape[0], -1)


def _channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def weights_of(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, parameter) of every matrix or kernel: convolutions, linear layers, attention; in the module's own order."""
    for path, layer in module.named_modules():
        kinds = ("weight",) if isinstance(layer, (nn.Conv2d, nn.Linear)) else ("in_proj_weight",) if isinstance(layer, nn.MultiheadAttention) else ()
        for kind in kinds:
            parameter = getattr(layer, kind, None)
            if parameter is not None:
                yield (f"{path}.{kind}" if path else kind), parameter


class _Trained(nn.Module):
    """A parametrization from the latent weight to its value: the grid's own rounding, then the mask."""

    def __init__(self, weight: Weight):
        super().__init__()
        self.rounding = weight.grid.rounding() if weight.grid is not None else nn.Identity()
        self.register_buffer("mask", weight.mask, persistent=False)

    def forward(self, latent: Tensor) -> Tensor:
        value = self.rounding(latent)
        return value if self.mask is None else value * self.mask


@contextlib.contextmanager
def trainable(subject: Compressed) -> Iterator[nn.Module]:
    """The module ready for training: masks hold, grids round with straight-through gradients.

    On leaving, the trained latents become the states' latents, the codes are rounded anew on the frozen scales, and
    the module is plain again.
    """
    module = subject.module
    held = {name: weight for name, weight in subject.weights.items() if weight.mask is not None or weight.grid is not None}
    placed: dict[str, _Trained] = {}
    orders = {name: list(_owner(module, name)[0]._parameters) for name in held}
    for name, weight in held.items():
        owner, kind = _owner(module, name)
        getattr(owner, kind).data = weight.latent.clone()
        placed[name] = _Trained(weight)
        parametrize.register_parametrization(owner, kind, placed[name], unsafe=True)
    _share(placed)
    try:
        yield module
    finally:
        latents = {}
        for name in held:
            owner, kind = _owner(module, name)
            latents[name] = owner.parametrizations[kind].original.detach()
            parametrize.remove_parametrizations(owner, kind, leave_parametrized=False)
        for name, order in orders.items():  # what was parametrized comes back behind the rest
            owner, _kind = _owner(module, name)
            owner._parameters = {place: owner._parameters[place] for place in order}
        for name, parameter in weights_of(module):
            if name not in held:
                subject.weights[name] = Weight(parameter.detach())
        entries: dict[int, Tensor] = {}
        for name, weight in held.items():
            latent = latents[name].clone()
            grid = None if weight.grid is None else weight.grid.after(placed[name].rounding, latent)
            if isinstance(grid, Codebook):  # one codebook of several weights stays one
                grid = replace(grid, entries=entries.setdefault(id(placed[name].rounding.learned), grid.entries))
                latent = grid.value()  # training moved the entries, and never looked at the latent weight
            subject.set(name, Weight(latent, weight.mask, grid))


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The layer that has a parameter, and what it calls it."""
    layer, _, kind = name.rpartition(".")
    return module.get_submodule(layer), kind


def _share(placed: dict[str, _Trained]) -> None:
    """Let weights whose codebooks are one tensor learn one set of entries."""
    learned: dict[int, nn.Parameter] = {}
    for trained in placed.values():
        rounding = trained.rounding
        if hasattr(rounding, "learned"):
            rounding.learned = learned.setdefault(rounding.of, rounding.learned)
