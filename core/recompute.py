"""Training with less memory: most activations are forgotten going forward and computed again going backward.

A module's graph is cut into segments. What passes from one to the next is kept; what lies within a segment is computed a second
time, from what went into it, when its gradients are due (Chen et al. 2016, arXiv:1604.06174). Called by the training
steps through `core.methods.apply`; losses and gradients stay what they are.
"""

from __future__ import annotations

import contextlib
import copy
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.split_module import split_module
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from core.arithmetic.folding import graph_of

PICTURES = 2  # of the pass that activations are measured on: batch norm has no variance of one
LIMITS = tuple(0.95**step for step in range(1, 60))  # 0.95 … 0.05 of all activations, tried until one is too little


class Recomputed(nn.Module):
    """`module` with its activations computed again while training; shares its layers, so training it trains `module`.

    Evaluated, it is `module` itself. `input_size` is that of the pictures (B, 3, S, S). Batch norms update their running
    statistics the first time only, and dropout draws the same numbers twice. The last segment is kept whole, because
    its gradients are due at once. Raises `BadInput` for a module whose Python torch.fx cannot follow.

    `plain_bytes` and `most_bytes` are what the activations of one picture take, all of them and at most at any moment; autograd keeps fewer
    of them, so these are estimates of what it saves.
    """

    def __init__(self, module: nn.Module, input_size: int):
        super().__init__()
        self.whole = module
        self.parts, self.plain_bytes, self.most_bytes = _split(module, input_size)

    @property
    def segments(self) -> list[nn.Module]:
        """The parts of the network in order; all but the last forget what they computed."""
        return [part.part if isinstance(part, _Forgetful) else part for part in self.parts.children() if isinstance(part, (_Forgetful, fx.GraphModule))]

    def forward(self, x: Tensor) -> Tensor:
        return (self.parts if self.training else self.whole)(x)


class _Forgetful(nn.Module):
    """A segment that keeps nothing but what goes into it."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part
        self.norms = [layer for layer in part.modules() if isinstance(layer, _BatchNorm)]

    def forward(self, *values):
        return checkpoint(self.part, *values, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _settled(self.norms)))


@contextlib.contextmanager
def _settled(norms: list[_BatchNorm]) -> Iterator[None]:
    """Batch norms compute with the statistics of their batch, but do not count it again."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counted) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counted


def _split(module: nn.Module, input_size: int) -> tuple[fx.GraphModule, float, float]:
    """The graph of `module` as it runs while training, in segments named submod_0, submod_1, …; bytes a picture without them, and with them."""
    with _training(module):
        whole = fx.GraphModule(module, _graph(module))
        cuts, plain, most = _cuts(whole, input_size)
    place = {node: number for number, node in enumerate(whole.graph.nodes)}
    parts = split_module(whole, module, lambda node: bisect_right(cuts, place[node]))
    *forgetful, _last = [name for name, _part in parts.named_children() if name.startswith("submod_")]
    for name in forgetful:
        setattr(parts, name, _Forgetful(getattr(parts, name)))
    return parts, plain / PICTURES, most / PICTURES


@contextlib.contextmanager
def _training(module: nn.Module) -> Iterator[None]:
    """The module in training mode for a moment, neither its statistics nor the random numbers moved on."""
    resting = [layer for layer in module.modules() if not layer.training]
    module.train()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), _settled([layer for layer in module.modules() if isinstance(layer, _BatchNorm)]):
            yield
    finally:
        for layer in resting:
            layer.training = False


def _graph(module: nn.Module) -> fx.Graph:
    """A graph of one's own; a module that is a graph already, its activations rounded, is not traced again."""
    if isinstance(module, fx.GraphModule):
        return copy.deepcopy(module.graph)
    return graph_of(module, "train it with checkpoint_activations off")


def _cuts(whole: fx.GraphModule, input_size: int) -> tuple[list[int], int, int]:
    """The numbers of the nodes that segments start with, chosen so that the most that is held at any moment is least.

    And the bytes of all activations, and of the most that is held. No cut comes between a value and what later changes it in place.
    """
    seen = _Pass(whole)
    seen.run(torch.zeros(PICTURES, 3, input_size, input_size))
    starts, held, crossing = [0], [0], [0]
    for number, node in enumerate(whole.graph.nodes):
        if node.op != "call_module" or not any(True for _ in whole.get_submodule(node.target).parameters()):
            continue
        before = [storage for storage in seen.bytes if seen.made[storage] < number]
        size = sum(seen.bytes[storage] for storage in before)
        if size > held[-1] and all(seen.changed[storage] < number for storage in before):
            starts.append(number)
            held.append(size)
            crossing.append(sum(seen.bytes[storage] for storage in before if seen.read[storage] >= number))
    total = sum(seen.bytes.values())
    chosen: list[int] = []
    for limit in LIMITS:
        cuts = _within(limit * total, [*held, total], crossing)
        if cuts is None:
            break
        chosen = cuts
    return [starts[cut] for cut in chosen], total, _most(chosen, [*held, total], crossing)


def _most(cuts: list[int], held: list[int], crossing: list[int]) -> int:
    """The most bytes that are held at any moment between these cuts: a whole segment, and what was kept up to its start."""
    kept, sizes = 0, []
    for start, end in pairwise([0, *cuts, len(held) - 1]):
        kept += crossing[start]
        sizes.append(kept + held[end] - held[start])
    return max(sizes)


def _within(limit: float, held: list[int], crossing: list[int]) -> list[int] | None:
    """The cuts that keep the fewest bytes while no more than `limit` is ever held; None when there are none.

    held[k]: bytes computed before place k; crossing[k]: bytes kept by a cut there. While a segment is gone back through, it is there
    whole, beside what was kept up to its start; what was kept behind it is gone by then.
    """
    end = len(held) - 1
    kept, came = [0.0] + [float("inf")] * end, [0] * len(held)
    for place in range(1, len(held)):
        for start in range(place - 1, -1, -1):
            if held[place] - held[start] > limit:
                break
            cost = kept[start] + (crossing[place] if place < end else 0)
            if kept[start] + held[place] - held[start] <= limit and cost < kept[place]:
                kept[place], came[place] = cost, start
    if kept[end] == float("inf"):
        return None
    cuts, at = [], came[end]
    while at:
        cuts.append(at)
        at = came[at]
    return cuts[::-1]


class _Pass(fx.Interpreter):
    """One pass through a graph that notes, of each piece of memory, its bytes and which nodes made, changed and read it, by number.

    Pictures and parameters are left out: they are there anyway.
    """

    def __init__(self, whole: fx.GraphModule):
        super().__init__(whole, garbage_collect_values=False)  # else the same memory would be made twice
        self.place = {node: number for number, node in enumerate(whole.graph.nodes)}
        self.bytes: dict[int, int] = {}
        self.made: dict[int, int] = {}
        self.changed: dict[int, int] = {}
        self.read: dict[int, int] = {}
        self.outside: set[int] = set()

    def run_node(self, node: fx.Node):
        number = self.place[node]
        inputs = [(tensor, tensor._version) for tensor in _tensors([self.env[source] for source in node.all_input_nodes])]
        value = super().run_node(node)
        for tensor, version in inputs:
            if tensor._version != version:
                self.changed[_memory(tensor)] = number
        for tensor in _tensors(value):
            memory = _memory(tensor)
            if node.op in ("placeholder", "get_attr"):
                self.outside.add(memory)
            elif memory not in self.outside:
                self.bytes.setdefault(memory, tensor.untyped_storage().nbytes())
                self.made.setdefault(memory, number)
                self.changed.setdefault(memory, number)
                self.read[memory] = max(self.read.get(memory, 0), *(self.place[user] for user in node.users), number)
        return value


def _tensors(value) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
