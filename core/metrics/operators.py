"""The operators that a network runs for one picture, and the memory that lies between them.

A forward pass on the meta device is watched below the modules, so additions, concatenations and attention are seen as well as layers.
What a runtime folds away is left out: batch norm behind a convolution, ReLU behind what it follows, and views. Multiply-adds come from
torch's own formulas (`torch.utils.flop_counter`). `core.targets.roofline` turns the operators into an estimate.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from core.keeping.remembered import Remembered
from core.models.architecture import probe
from core.targets.roofline import BYTES, CONVOLUTION, DEPTHWISE, ELEMENTWISE, GROUPED, LINEAR, MOVE, POOLING, Operator

REMEMBERED = 64  # networks
NORMALISING = ("native_batch_norm", "_native_batch_norm_legit_no_training", "batch_norm")
FUSED = ("relu", "relu_", "hardtanh", "hardtanh_")  # what runtimes compute while they write the result of the operator before
FUSES = (CONVOLUTION, DEPTHWISE, GROUPED, LINEAR, ELEMENTWISE)
POOLS = ("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "mean", "adaptive_max_pool2d")
MOVES = ("cat", "clone", "copy_", "roll", "split", "split_with_sizes", "constant_pad_nd", "im2col", "index", "_unsafe_view", "_reshape_copy")


@dataclass(frozen=True)
class _Seen:
    """One call below the modules. Buffers are numbered by the memory that tensors lie in, so that a view is what it views."""

    name: str
    operator: Operator
    reads: list[int]
    writes: int


@dataclass(frozen=True)
class Recorded:
    """The calls of a network in the order in which they run, and how many numbers each buffer between them holds."""

    calls: tuple[_Seen, ...]
    sizes: tuple[int, ...]

    @functools.cached_property
    def operators(self) -> tuple[Operator, ...]:
        return tuple(call.operator for call in self.calls)

    @functools.cached_property
    def peak(self) -> int:
        """The most numbers that lie between operators at once; 4 bytes each where all of them run in float32, 1 where all run in int8."""
        return _peak(self.calls, self.sizes)

    def partly_int8(self, gridded: Collection[str], floats: Collection[str]) -> tuple[tuple[Operator, ...], int]:
        """The operators with their types, and the most bytes between them, where the layers `gridded` run in int8 and the layers `floats` in float32.

        Sums, concatenations and pools run in int8, since what they read is always rounded, and all else as what it reads. A value takes the bytes of the type
        that it is written in; where it is read in the other one, its rounded or widened copy lies beside it.
        """
        typed = _Typed(self, gridded, floats)
        return tuple(typed.operators), _peak(typed.calls, typed.bytes)


@dataclass
class _Watch(TorchDispatchMode):
    """Writes down every call that reads a picture or what came of it; what comes of weights alone is constant."""

    path: list[str] = field(default_factory=lambda: [""])
    seen: list[_Seen] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)  # address of the memory → number of the buffer
    sizes: list[int] = field(default_factory=list)
    alive: list[Tensor] = field(default_factory=list)  # so that no address is used twice

    def __post_init__(self):
        super().__init__()

    def number(self, tensor: Tensor, new: bool = False) -> int | None:
        """The buffer that a tensor lies in; None for constants."""
        address = tensor.untyped_storage()._cdata
        if new and address not in self.numbers:
            self.numbers[address] = len(self.sizes)
            self.sizes.append(tensor.numel())
            self.alive.append(tensor)
        return self.numbers.get(address)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        active = [tensor for tensor in given if self.number(tensor) is not None]
        self.alive += [*given, *made]
        if active and made:
            name = func.overloadpacket.__name__
            view = self.number(made[0]) is not None and not func._schema.is_mutable
            if not view or name in MOVES:
                constants = {tensor.untyped_storage()._cdata: tensor.numel() for tensor in given if self.number(tensor) is None}
                reads = [self.number(tensor) for tensor in active]
                inputs = sum(min(tensor.numel(), self.sizes[number]) for tensor, number in zip(active, reads))
                outputs = sum(tensor.numel() for tensor in made) if view else made[0].numel()
                operator = Operator(self.path[-1], _kind(name, given), _macs(func, args, kwargs, out), sum(constants.values()), inputs, outputs)
                self.seen.append(_Seen(name, operator, reads, self.number(made[0], new=True)))
        return out


def record(module: nn.Module, input_size: int) -> Recorded:
    """The operators for one picture of `input_size` × `input_size` in the order in which they run. Remembered by the shapes of the network."""
    key = (repr(module), input_size, tuple(tuple(parameter.shape) for parameter in module.parameters()))
    return _KNOWN.get(key, lambda: _record(module, input_size))


_KNOWN: Remembered[Recorded] = Remembered(REMEMBERED)


def _record(module: nn.Module, input_size: int) -> Recorded:
    watch = _Watch()
    hooks = []

    def enter(name: str):
        def hook(_layer, inputs):
            if not watch.sizes:
                watch.number(inputs[0], new=True)
            watch.path.append(name)

        return hook

    def leave(_layer, _inputs, _output):
        watch.path.pop()

    for name, layer in module.named_modules():
        hooks += [layer.register_forward_pre_hook(enter(name)), layer.register_forward_hook(leave)]
    try:
        with plain_attention():
            probe(module, input_size, within=watch)
    finally:
        for hook in hooks:
            hook.remove()
    return Recorded(tuple(_unfolded(watch.seen)), tuple(watch.sizes))


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Attention by its plain operators, as files have it: its fused inference kernel has no ONNX form."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _kind(name: str, given: list[Tensor]) -> str:
    if name == "convolution":
        weight, groups = given[1], given[0].shape[1] // given[1].shape[1]
        return CONVOLUTION if groups == 1 else DEPTHWISE if weight.shape[1] == 1 else GROUPED
    if name in ("mm", "addmm", "bmm", "baddbmm") or "scaled_dot_product" in name:
        return LINEAR
    return POOLING if name in POOLS else MOVE if name in MOVES else ELEMENTWISE


def _macs(func, args, kwargs, out) -> int:
    """torch counts two operations for a multiply-add."""
    formula = flop_registry.get(func.overloadpacket)
    return 0 if formula is None else formula(*args, **(kwargs or {}), out_val=out) // 2


def _unfolded(seen: list[_Seen]) -> Iterator[_Seen]:
    """The calls without those that become part of the one before; its buffer is then theirs."""
    uses = Counter(itertools.chain.from_iterable(set(call.reads) for call in seen))
    alias: dict[int, int] = {}
    made_by: dict[int, str] = {}

    def now(number: int) -> int:
        while number in alias:
            number = alias[number]
        return number

    for call in seen:
        source, own = now(call.reads[0]), call.reads[0]
        alone = call.writes == own or uses[own] == 1
        maker = made_by.get(source)
        folds = call.name in NORMALISING and maker in FUSES[:3]
        if alone and (folds or (call.name in FUSED and maker in FUSES)):
            if call.writes != own:
                alias[call.writes] = source
            continue
        made_by[now(call.writes)] = call.operator.kind
        yield _Seen(call.name, call.operator, [now(number) for number in call.reads], now(call.writes))


class _Typed:
    """The calls of a network that is partly int8, with the copies between the types as calls of their own, and the bytes of each buffer."""

    def __init__(self, recorded: Recorded, gridded: Collection[str], floats: Collection[str]):
        self.numbers, self.bytes = recorded.sizes, list(recorded.sizes)
        self.operators: list[Operator] = []
        self.calls: list[_Seen] = []
        self.lies: dict[int, dict[str, int]] = {}  # buffer → type → the buffer that holds it in that type
        readers = [call.operator.layer for call in recorded.calls if 0 in call.reads]
        self._place(0, "int8" if all(layer in gridded for layer in readers) else "float32")
        for call in recorded.calls:
            self._add(call, gridded, floats)

    def _add(self, call: _Seen, gridded: Collection[str], floats: Collection[str]) -> None:
        layer, kind = call.operator.layer, call.operator.kind
        rounded = kind == POOLING or call.name == "cat" or (call.name in ("add", "add_") and len(call.reads) > 1)
        int8 = layer not in floats and (layer in gridded or rounded or all("int8" in self.lies[read] for read in call.reads))
        operator = replace(call.operator, int8=int8)
        reads = [self._read(read, operator.type) for read in call.reads]
        if call.writes in call.reads:
            writes = self.lies[call.writes][operator.type]
            self.lies[call.writes] = {operator.type: writes}  # the copy in the other type is out of date
        else:
            writes = self._place(call.writes, operator.type)
        self.operators.append(operator)
        self.calls.append(_Seen(call.name, operator, reads, writes))

    def _place(self, number: int, type: str) -> int:
        """The buffer that a new value is written to."""
        if number in self.lies:  # a part of it was written before
            return self._read(number, type)
        self.bytes[number] = BYTES[type] * self.numbers[number]
        self.lies[number] = {type: number}
        return number

    def _read(self, number: int, type: str) -> int:
        """The buffer that holds a value in that type, copied there where it has been in the other alone."""
        lies = self.lies[number]
        if type not in lies:
            (source,) = lies.values()
            lies[type] = len(self.bytes)
            self.bytes.append(BYTES[type] * self.numbers[number])
            self.calls.append(_Seen("convert", Operator("", MOVE, 0, 0, 0, 0), [source], lies[type]))
        return lies[type]


def _peak(calls: Sequence[_Seen], sizes: Sequence[int]) -> int:
    """Numbers, or whatever `sizes` are in, in all buffers that are alive at once, at the worst moment.

    A buffer lives from the call that writes it to the last that reads it, the picture from the beginning, the logits to the end.
    An element-wise call writes over an input of the same size that nobody reads afterwards.
    """
    last = {number: place for place, call in enumerate(calls) for number in (call.writes, *call.reads)}
    alias: dict[int, int] = {}

    def now(number: int) -> int:
        while number in alias:
            number = alias[number]
        return number

    spans: dict[int, list[int]] = {}
    for place, call in enumerate(calls):
        reads, writes = [now(number) for number in call.reads], now(call.writes)
        if call.operator.kind == ELEMENTWISE and writes not in spans:
            spare = next((raw for raw in call.reads if last[raw] == place and sizes[now(raw)] == sizes[call.writes]), None)
            if spare is not None:
                alias[call.writes] = writes = now(spare)
        for number in (*reads, writes):
            spans.setdefault(number, [0 if number == 0 else place, place])[1] = place
    events: Counter[int] = Counter()
    for number, (first, end) in spans.items():
        events[first] += sizes[number]
        events[end + 1] -= sizes[number]
    return max(itertools.accumulate(events[place] for place in range(len(calls) + 1)), default=0)
