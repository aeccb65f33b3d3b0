"""A network that runs once a batch, and again only from where something in it was changed.

    suffixes = Suffixes(module)                        # the network as torch.fx traces it, or as the graph it is; raises BadInput where it cannot
    change = suffixes.change(other, {"fc.weight"})     # what differs in another copy of the network, or in a graph made from it
    suffixes.keep_for([change, …])
    logits = suffixes.run(pictures)                    # the network itself, keeping what the changes will read
    moved = suffixes.run_changed(change)               # the same pictures through the changed network: the same bits as running it whole

What lies before a changed layer, and beside it, is not computed again. Called by `core.layers.sensitivity`.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from core.arithmetic.folding import trace

# Values are kept, so nothing may be written over them.
OUT_OF_PLACE = {getattr(operator, f"i{name}"): getattr(operator, name) for name in ("add", "sub", "mul", "truediv")}


@dataclass(frozen=True)
class Change:
    """The nodes whose value may differ, none where nothing does, and what stands at some of them instead: modules, or tensors that the graph reads by name."""

    parts: dict[fx.Node, Any]
    order: list[fx.Node] = field(repr=False)
    reads: dict[fx.Node, fx.Node] = field(repr=False)  # what they read that does not differ → the network's own node of that value
    calls: dict[fx.Node, Callable[[dict], Any]] = field(repr=False)
    last: dict[fx.Node, list[fx.Node]] = field(repr=False)  # node → which of them nobody reads after it

    @property
    def bytes(self) -> int:
        """The memory that the parts take."""
        return sum(tensor.nbytes for part in self.parts.values() for tensor in (part.state_dict().values() if isinstance(part, nn.Module) else [part]))


class Suffixes:
    def __init__(self, module: nn.Module):
        self.module, self.graph = module, module.graph if isinstance(module, fx.GraphModule) else trace(module)
        self._nodes = list(self.graph.nodes)
        self._calls = {node: self._call(node) for node in self._nodes}
        self._kept: dict[fx.Node, Any] = {}
        self._wanted: set[fx.Node] = set()
        self.logits: Tensor | None = None  # of the pictures that `run` was given last

    def change(self, other: nn.Module, names: Collection[str] | None = None) -> Change:
        """Where `other`, a copy of the network after a step, differs: in the parameters `names`, or wherever a look at every tensor finds it.

        A `fx.GraphModule` may have nodes of its own, such as those that round what layers put out.
        """
        nodes = list(other.graph.nodes) if isinstance(other, fx.GraphModule) else self._nodes
        own = {node.name: node for node in self._nodes}
        parts: dict[fx.Node, Any] = {}
        same: dict[fx.Node, fx.Node] = {}
        for node in nodes:
            part = self._part(node, other, names)
            if part is not None:
                parts[node] = part
            elif node.name in own and _alike(node, own[node.name], same):
                same[node] = own[node.name]
        order = [node for node in nodes if node not in same]
        reads = {source: same[source] for node in order for source in node.all_input_nodes if source in same}
        return Change(parts, order, reads, {node: self._call(node, parts.get(node)) for node in order}, _last_uses(order))

    def _part(self, node: fx.Node, other: nn.Module, names: Collection[str] | None) -> Any:
        """The module or tensor of `other` that the node reads, where it is not the network's; else None."""
        if node.op == "call_module":
            old, new = self.module.get_submodule(node.target), other.get_submodule(node.target)
            prefix = f"{node.target}."
            return new if (any(name.startswith(prefix) for name in names) if names is not None else not _equal(old, new)) else None
        if node.op == "get_attr":
            old, new = (_attribute(module, node.target) for module in (self.module, other))
            return new if (node.target in names if names is not None else not _equal_tensors(old, new)) else None
        return None

    def keep_for(self, changes: Iterable[Change]) -> None:
        """From the next `run` on, keep the values that these changes read, and no others."""
        self._wanted = {node for change in changes for node in change.reads.values()}

    def run(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) → logits (B, K)."""
        self._kept.clear()
        values: dict[fx.Node, Any] = {}
        last = _last_uses(self._nodes)
        for node in self._nodes:
            values[node] = x if node.op == "placeholder" else self._calls[node](values)
            if node in self._wanted:
                self._kept[node] = values[node]
            for done in last.get(node, ()):
                del values[done]
        self.logits = values[self._nodes[-1]]
        return self.logits

    def run_changed(self, change: Change) -> Tensor:
        """The logits (B, K) of the changed network for the pictures that `run` was given last."""
        if not change.order:
            return self.logits
        values = {node: self._kept[own] for node, own in change.reads.items()}
        for node in change.order:
            values[node] = change.calls[node](values)
            for done in change.last.get(node, ()):
                del values[done]
        return values[change.order[-1]]

    def _call(self, node: fx.Node, part: Any = None) -> Callable[[dict], Any]:
        """What computes a node from the values before it; `part` stands in place of its module or tensor."""
        match node.op:
            case "placeholder":
                return lambda values: values[node]
            case "output":
                source = node.args[0]
                return lambda values: fx.node.map_arg(source, values.__getitem__)
            case "get_attr":
                tensor = _attribute(self.module, node.target) if part is None else part
                return lambda values: tensor
            case "call_module":
                layer = _beside(self.module.get_submodule(node.target) if part is None else part)
                return lambda values: _applied(layer, node.args, node.kwargs, values)
            case "call_method":
                name = node.target.removesuffix("_")
                return lambda values: _applied(lambda one, *rest, **named: getattr(one, name)(*rest, **named), node.args, node.kwargs, values)
        function, args, kwargs = _function(node)
        return lambda values: _applied(function, args, kwargs, values)


def _alike(node: fx.Node, own: fx.Node, same: dict[fx.Node, fx.Node]) -> bool:
    """Whether both do the same with the same values."""
    read = fx.node.map_arg((node.args, node.kwargs), same.get)
    return (node.op, node.target) == (own.op, own.target) and read == (own.args, own.kwargs)


def _applied(function: Callable, args: tuple, kwargs: dict, values: dict) -> Any:
    return function(*fx.node.map_arg(args, values.__getitem__), **fx.node.map_arg(kwargs, values.__getitem__))


def _beside(layer: nn.Module) -> nn.Module:
    """The layer, or a twin of it that leaves its input as it was."""
    if not getattr(layer, "inplace", False):
        return layer
    twin = copy.copy(layer)
    twin.inplace = False
    return twin


def _function(node: fx.Node) -> tuple[Callable, tuple, dict]:
    """The function of a node and its arguments, none of which is written over."""
    function = OUT_OF_PLACE.get(node.target, node.target)
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # built in, and out of place
        return function, node.args, dict(node.kwargs)
    if "inplace" not in signature.parameters:
        return function, node.args, dict(node.kwargs)
    given = signature.bind(*node.args, **node.kwargs).arguments | {"inplace": False}
    return function, (), given


def _last_uses(order: list[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Node → the values of `order` that are read there for the last time; the output's own stays."""
    last: dict[fx.Node, fx.Node] = {}
    within = set(order)
    for node in order:
        last[node] = node
        for source in node.all_input_nodes:
            if source in within:
                last[source] = node
    found: dict[fx.Node, list[fx.Node]] = {}
    for node, at in last.items():
        if node is not order[-1]:
            found.setdefault(at, []).append(node)
    return found


def _attribute(module: nn.Module, path: str) -> Any:
    """What the graph reads by name: a parameter, a buffer or a constant."""
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def _equal(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return type(one) is type(other) and mine.keys() == theirs.keys() and all(_equal_tensors(mine[name], theirs[name]) for name in mine)


def _equal_tensors(one: Any, other: Any) -> bool:
    return one is other or isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
