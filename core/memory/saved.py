"""What autograd saves for the way back, told by its own hooks, of which nothing is kept: looking takes no more memory than going forward.

Memory is counted once however many tensors lie in it; parameters, statistics and the pictures are there anyway and not counted. What is counted
beside activations is what else a forward pass makes for the way back: weights as they are rounded or masked, signs, places of maxima.
Called by `core.memory.recompute`, which chooses by it what to compute again, and by training, whose notes say what was measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _BatchNorm

FEW = (2, 3)  # pictures that are looked at: batch norm has no variance of one; two amounts tell what grows with the batch from what does not


@dataclass(frozen=True)
class Held:
    """Bytes that autograd holds for one batch: `plain` if everything is kept, and `most` at any moment of a pass there and back."""

    plain: float
    most: float


class Memory:
    """Pieces of memory by identity, which stays theirs when they are free again: what is looked up was alive when it was entered."""

    def __init__(self, *outside: Tensor):
        self.outside = {_reference(tensor).cdata for tensor in outside}
        self.pieces: dict[int, tuple[StorageWeakRef, int]] = {}  # the reference keeps its number from being given to another piece

    def leave_out(self, tensor: Tensor) -> None:
        self.outside.add(_reference(tensor).cdata)

    def enter(self, tensor: Tensor) -> int | None:
        """The number of a tensor's memory; None for what is there anyway."""
        reference = _reference(tensor)
        if reference.cdata in self.outside:
            return None
        self.pieces.setdefault(reference.cdata, (reference, tensor.untyped_storage().nbytes()))
        return reference.cdata

    def bytes(self) -> int:
        return sum(size for _reference, size in self.pieces.values())

    def bytes_with(self, other: Memory) -> int:
        """Of both together, what they share counted once."""
        return sum(size for _reference, size in (self.pieces | other.pieces).values())


def _reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


@contextlib.contextmanager
def told(each: Callable[[Tensor], object]) -> Iterator[None]:
    """While inside, `each` is told every tensor that autograd would save, and nothing is saved: there is no way back from here."""
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda tensor: each(tensor) and None, lambda nothing: nothing):
        yield


def own(module: nn.Module) -> tuple[Tensor, ...]:
    """The tensors that a module has."""
    return *module.parameters(), *module.buffers()


def pictures(count: int, input_size: int) -> Tensor:
    """Zeros (B, 3, S, S) as a dataset prepares them."""
    return torch.zeros(count, 3, input_size, input_size).contiguous(memory_format=torch.channels_last)


def batch_of(sizes: tuple[float, float], batch: int) -> float:
    """Bytes for a whole batch from those for `FEW` pictures: what a pass makes is a constant and so much for every picture."""
    fewer, more = FEW
    return sizes[0] + (sizes[1] - sizes[0]) / (more - fewer) * (batch - fewer)


def plain_bytes(module: nn.Module, x: Tensor) -> int:
    """What autograd saves in one pass of a module."""
    memory = Memory(x, *own(module))
    with told(memory.enter):
        module(x)
    return memory.bytes()


@contextlib.contextmanager
def training(module: nn.Module) -> Iterator[None]:
    """The module in training mode for a moment, neither its statistics nor the random numbers moved on."""
    resting = [layer for layer in module.modules() if not layer.training]
    module.train()
    try:
        with torch.random.fork_rng(devices=[]), settled([layer for layer in module.modules() if isinstance(layer, _BatchNorm)]):
            yield
    finally:
        for layer in resting:
            layer.training = False


@contextlib.contextmanager
def settled(norms: list[_BatchNorm]) -> Iterator[None]:
    """Batch norms compute with the statistics of their batch, but do not count it."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counted) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counted
