"""Where a network is cut, so that training it holds little and computes little again. Called by `core.memory.recompute`.

A segment is kept, or forgotten: then only what it hands on is kept, and the rest is there again while its gradients are due. Memory is counted
where it is made. With K bytes kept of what comes before it, a segment that makes W bytes for the way back needs K + W while it is
there; what was made behind it is free by then. The last segment is always kept, because its gradients are due at once.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from core.memory.saved import FEW, Memory, batch_of, own, pictures, told

GRAINS = 4096  # of a limit: bytes are rounded up to whole ones where the least computing is looked for
WORTH = 10  # floating-point operations that take as long as writing a byte
PLACES = 128  # at most, that all ways between are looked at
NEAR = 0.001  # share of itself that the least limit is found to


@dataclass(frozen=True)
class Piece:
    """Memory of `size` bytes, and the numbers of the nodes that make it, save it first (None: none does) and read it last."""

    size: float
    made: int
    saved: int | None
    read: int


@dataclass(frozen=True)
class Segment:
    """From the node of that number to the next segment's."""

    start: int
    forgotten: bool


class Places:
    """The numbers of the nodes that segments may start with, place by place, and what lies between them; place n is the end.

    made[p, q]: bytes made and saved between the places p and q; handed[p, q]: made there and read behind; held[p]: what keeping
    all between p and p + 1 takes; work[p]: operations before p.
    """

    def __init__(self, starts: list[int], pieces: list[Piece], work: list[float]):
        """`work`: the operations of each node."""
        self.starts, self.pieces, self.operations, count = starts, pieces, work, len(starts)
        saved, read = np.zeros((2, count, count))  # bytes by where they are made, and first saved or last read
        self.held = np.zeros(count)
        for piece in pieces:
            made, last = self._between(piece.made), self._between(piece.read)
            read[made, last] += piece.size
            if piece.saved is not None:
                saved[made, self._between(piece.saved)] += piece.size
            if piece.saved is not None or last > made:
                self.held[made] += piece.size
        self.made, before = np.zeros((2, count + 1, count + 1))
        self.made[:count, 1:] = saved.cumsum(1)
        self.made = self.made[::-1].cumsum(0)[::-1]
        before[1:, :count] = read[:, ::-1].cumsum(1)[:, ::-1]
        before = before.cumsum(0)  # [p, q]: made before p and read behind q
        self.handed = np.diag(before) - before
        self.work = np.array([sum(work[:start]) for start in [*starts, len(work)]])

    def _between(self, node: int) -> int:
        return bisect_right(self.starts, node) - 1

    @property
    def total(self) -> float:
        return float(self.made[0, -1])

    def least(self) -> list[Segment]:
        """The segments of which the most that is held at any moment is least, but for `NEAR`."""
        low, high = 0.0, self.total
        best = self.tightest(high)
        while high - low > NEAR * high:
            found = self.tightest((low + high) / 2)
            if found is None:
                low = (low + high) / 2
            else:
                best, high = found, min((low + high) / 2, self.most(found))
        return best

    def most(self, segments: list[Segment]) -> float:
        """The most bytes that are held at any moment."""
        kept, most = 0.0, 0.0
        places = [self._between(segment.start) for segment in segments]
        for segment, (start, end) in zip(segments, pairwise([*places, len(self.starts)]), strict=True):
            most = max(most, kept + self.made[start, end])
            kept += self.handed[start, end] if segment.forgotten else self.held[start:end].sum()
        return most

    def tightest(self, limit: float) -> list[Segment] | None:
        """The segments that keep the fewest bytes while no more than `limit` is ever held; None when there are none."""
        end = len(self.starts)
        kept, came = np.full(end, np.inf), np.full(end, -1)  # −1: what lies before this place is kept
        kept[0] = 0.0
        for place in range(1, end):
            costs = np.where(kept[:place] + self.made[:place, place] <= limit, kept[:place] + self.handed[:place, place], np.inf)
            came[place] = costs.argmin()
            kept[place] = costs.min()
            if kept[place - 1] + self.held[place - 1] <= min(kept[place], limit):
                kept[place], came[place] = kept[place - 1] + self.held[place - 1], -1
        fitting = np.flatnonzero(kept + self.made[:end, end] <= limit)
        return self._back(int(fitting[0]), lambda place: came[place]) if len(fitting) else None

    def within(self, limit: float) -> list[Segment]:
        """The segments that compute the least again while no more than `limit` is ever held; where there are none, those that hold the least."""
        every = -(-len(self.starts) // PLACES)
        return Places(self.starts[::every], self.pieces, self.operations).cheapest(limit) or self.tightest(limit) or self.least()

    def cheapest(self, limit: float) -> list[Segment] | None:
        """The segments that compute the least again while no more than `limit` is ever held; None when there are none, but for rounding to `GRAINS`."""
        end, grains = len(self.starts), lambda sizes: np.ceil(sizes / limit * GRAINS).astype(np.int64)
        with np.errstate(over="ignore"):
            made, handed, held = grains(np.minimum(self.made, 2 * limit)), grains(np.minimum(self.handed, 2 * limit)), grains(np.minimum(self.held, 2 * limit))
        work = np.full((end, GRAINS + 1), np.inf)  # the least by place and grains kept before it
        came = np.full((end, GRAINS + 1), -1)
        work[0, 0] = 0.0
        for place in range(1, end):
            kept = held[place - 1]
            work[place, kept:] = work[place - 1, : max(0, GRAINS + 1 - kept)]
            for start in range(place):
                room = GRAINS + 1 - max(made[start, place], handed[start, place])
                if room <= 0:
                    continue
                again = work[start, :room] + (self.work[place] - self.work[start])
                slot = slice(handed[start, place], handed[start, place] + room)
                better = again < work[place, slot]
                work[place, slot][better] = again[better]
                came[place, slot][better] = start
        ends = [work[start, : max(0, GRAINS + 1 - made[start, end])].min(initial=np.inf) for start in range(end)]
        last = int(np.argmin(ends))
        if np.isinf(ends[last]):
            return None
        at = int(np.argmin(work[last, : GRAINS + 1 - made[last, end]]))

        def before(place: int) -> int:
            nonlocal at
            start = came[place, at]
            at -= held[place - 1] if start < 0 else handed[start, place]
            return start

        return self._back(last, before)

    def _back(self, last: int, came) -> list[Segment]:
        """The segments, from where the last one starts back to the first node; neighbours that are kept are one."""
        found, place = [Segment(last, False)], last
        while place:
            start = came(place)
            forgotten, place = start >= 0, int(start if start >= 0 else place - 1)
            if not forgotten and not found[-1].forgotten:
                found.pop()
            found.append(Segment(place, forgotten))
        return [Segment(self.starts[segment.start], segment.forgotten) for segment in found[::-1]]


def places(whole: fx.GraphModule, input_size: int, batch: int) -> Places:
    """What can be cut in a graph, with the bytes of a batch of that many pictures; it is in training mode meanwhile.

    No cut comes between a value and what later changes it in place.
    """
    passes = [_Pass(whole) for _count in FEW]
    for each, count in zip(passes, FEW, strict=True):
        each.run(pictures(count, input_size))
    seen = passes[0]
    pieces = [
        Piece(batch_of(sizes, batch), seen.made[number], seen.saved.get(number), seen.read[number])
        for number, sizes in zip(seen.made, zip(*(each.sizes() for each in passes), strict=True), strict=True)
    ]
    starts, made = [0], 0
    for place, node in enumerate(whole.graph.nodes):
        if node.op != "call_module" or not any(True for _ in whole.get_submodule(node.target).parameters()):
            continue
        before = [number for number, by in seen.made.items() if by < place]
        if len(before) > made and all(seen.changed[number] < place for number in before):
            starts.append(place)
            made = len(before)
    return Places(starts, pieces, seen.work)


class _Pass(fx.Interpreter):
    """One pass through a graph that notes, of each piece of memory, which nodes made, changed, saved and read it, by number; and each node's work."""

    def __init__(self, whole: fx.GraphModule):
        super().__init__(whole)
        self.place = {node: number for number, node in enumerate(whole.graph.nodes)}
        self.memory = Memory(*own(whole))
        self.made: dict[int, int] = {}
        self.changed: dict[int, int] = {}
        self.saved: dict[int, int] = {}
        self.read: dict[int, int] = {}
        self.work = [0.0] * len(self.place)
        self.at = 0

    def sizes(self) -> list[int]:
        return [size for _reference, size in self.memory.pieces.values()]

    def run(self, x: Tensor):
        self.memory.leave_out(x)
        with told(self._save):
            return super().run(x)

    def run_node(self, node: fx.Node):
        self.at = self.place[node]
        inputs = [(tensor, tensor._version) for tensor in _tensors([self.env[source] for source in node.all_input_nodes])]
        counted = len(self.memory.pieces)
        with _Operations() as operations:
            value = super().run_node(node)
        for tensor in _tensors(value):
            number = self._met(tensor)
            if number is not None:
                self.read[number] = max(self.read[number], *(self.place[user] for user in node.users), self.at)
        for tensor, version in inputs:
            number = self._met(tensor)
            if number is not None and tensor._version != version:
                self.changed[number] = self.at
        self.work[self.at] = operations.count + WORTH * sum(self.sizes()[counted:])
        return value

    def _met(self, tensor: Tensor) -> int | None:
        number = self.memory.enter(tensor)
        if number is not None and number not in self.made:
            self.made[number] = self.changed[number] = self.read[number] = self.at
        return number

    def _save(self, tensor: Tensor) -> None:
        number = self._met(tensor)
        if number is not None:
            self.saved.setdefault(number, self.at)


class _Operations(TorchDispatchMode):
    """Counts the floating-point operations of convolutions and products of matrices."""

    count = 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if function._overloadpacket in flop_registry:
            self.count += flop_registry[function._overloadpacket](*args, **(kwargs or {}), out_val=made)
        return made


def _tensors(value) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
