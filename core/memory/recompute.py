"""Training with less memory: activations are forgotten going forward and computed again going backward.

A module's graph is cut into segments (`core.memory.cuts`). What passes from one to the next is kept; what lies within a forgotten one is computed a second
time, from what went into it, when its gradients are due (Chen et al. 2016, arXiv:1604.06174). Called by the training
steps through `core.methods.apply`; losses and gradients stay what they are.
"""

from __future__ import annotations

import contextlib
import copy
from bisect import bisect_right
from collections.abc import Callable

from torch import Tensor, fx, nn
from torch.fx.passes.split_module import split_module
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from core.arithmetic.folding import graph_of
from core.errors import BadInput
from core.memory.cuts import Places, Segment, places
from core.memory.saved import FEW, Held, Memory, batch_of, own, pictures, plain_bytes, settled, told, training

Turn = Callable[[], contextlib.AbstractContextManager]

BATCH = 64  # pictures
TRIES = 4  # to stay within a limit by choosing for a smaller one


class Recomputed(nn.Module):
    """`module` with its activations computed again while training; shares its layers, so training it trains `module`.

    Evaluated, it is `module` itself. `input_size` is that of the pictures (B, 3, S, S), of which training takes `batch` at a time. Batch norms
    update their running statistics the first time only, and dropout draws the same numbers twice. `choose` finds the segments among the
    places where the graph can be cut; by itself they hold the least. Raises `BadInput` for a module whose Python torch.fx cannot follow.
    """

    def __init__(self, module: nn.Module, input_size: int, batch: int = BATCH, choose: Callable[[Places], list[Segment]] = Places.least):
        super().__init__()
        self.whole = module
        with training(module):
            whole = fx.GraphModule(module, _graph(module))
            found = places(whole, input_size, batch)
        self.parts = _split(module, whole, choose(found))

    @property
    def segments(self) -> list[nn.Module]:
        """The parts of the network in order."""
        return [part.part if isinstance(part, _Forgetful) else part for part in self.parts.children() if isinstance(part, (_Forgetful, fx.GraphModule))]

    @property
    def forgotten(self) -> list[nn.Module]:
        """The segments that forget what they computed."""
        return [part for part in self.parts.children() if isinstance(part, _Forgetful)]

    def forward(self, x: Tensor) -> Tensor:
        return (self.parts if self.training else self.whole)(x)


def within(limit: float | None, module: nn.Module, input_size: int, batch: int, turn: Turn = contextlib.nullcontext) -> tuple[Recomputed, Held]:
    """`module` so that training it computes the least again while autograd holds at most `limit` bytes, as measured; without a limit, holds the least.

    Raises `TooLittle` where the least that it can hold is more than the limit. `turn` is entered around every piece of computing.
    """
    recomputed, measured = least(limit, module, input_size, batch, turn)
    if limit is None:
        return recomputed, measured
    goal = limit
    for _try in range(TRIES):
        with turn():
            tried = Recomputed(module, input_size, batch, lambda found, goal=goal: found.within(goal))
        with turn():
            looked = held(tried, input_size, batch)
        if looked.most <= limit:
            return tried, looked
        goal *= 0.99 * limit / looked.most
    return recomputed, measured


def least(limit: float | None, module: nn.Module, input_size: int, batch: int, turn: Turn = contextlib.nullcontext) -> tuple[Recomputed, Held]:
    """`module` so that training it holds the least, as measured; raises `TooLittle` where that is more than the limit."""
    with turn():
        recomputed = Recomputed(module, input_size, batch)
    with turn():
        measured = held(recomputed, input_size, batch)
    if limit is not None and measured.most > limit:
        raise TooLittle(limit, measured.most)
    return recomputed, measured


class TooLittle(BadInput):
    """`least`: the bytes that training takes."""

    def __init__(self, limit: float, least: float):
        self.least = least
        super().__init__(f"The memory for activations cannot be {limit / 1e6:,.1f} MB; training takes at least {least / 1e6:,.1f} MB.")


def held(recomputed: Recomputed, input_size: int, batch: int) -> Held:
    """What autograd holds for a batch of that many pictures, measured on `FEW`: everything kept, and with activations computed again."""
    with training(recomputed):
        plain = [plain_bytes(recomputed.whole, pictures(count, input_size)) for count in FEW]
        moments = [_moments(recomputed, pictures(count, input_size)) for count in FEW]
    return Held(batch_of(plain, batch), max(batch_of(sizes, batch) for sizes in zip(*moments, strict=True)))


def _moments(recomputed: Recomputed, x: Tensor) -> list[int]:
    """The bytes held while each forgotten segment is there again, beside what was kept up to its start; and at the end of the way forward."""
    memory, moments = Memory(x, *own(recomputed)), []

    def again(segment: _Forgetful, values: tuple, _made) -> None:
        inside = Memory(x, *own(recomputed))
        with told(inside.enter):
            segment.part(*values)
        moments.append(memory.bytes_with(inside))

    hooks = [part.register_forward_hook(again) for part in recomputed.forgotten]
    try:
        with told(memory.enter):
            recomputed(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [*moments, memory.bytes()]


class _Forgetful(nn.Module):
    """A segment that keeps nothing but what goes into it."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part
        self.norms = [layer for layer in part.modules() if isinstance(layer, _BatchNorm)]

    def forward(self, *values):
        return checkpoint(self.part, *values, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), settled(self.norms)))


def _split(module: nn.Module, whole: fx.GraphModule, segments: list[Segment]) -> fx.GraphModule:
    """The graph of `module` in segments named submod_0, submod_1, …"""
    place = {node: number for number, node in enumerate(whole.graph.nodes)}
    starts = [segment.start for segment in segments]
    parts = split_module(whole, module, lambda node: bisect_right(starts, place[node]) - 1)
    for number, segment in enumerate(segments):
        if segment.forgotten:
            setattr(parts, f"submod_{number}", _Forgetful(getattr(parts, f"submod_{number}")))
    return parts


def _graph(module: nn.Module) -> fx.Graph:
    """A graph of one's own; a module that is a graph already, its activations rounded, is not traced again."""
    if isinstance(module, fx.GraphModule):
        return copy.deepcopy(module.graph)
    return graph_of(module, "train it with checkpoint_activations off")
