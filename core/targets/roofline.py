"""How long a device would take for one picture, operator by operator: the roofline of Williams, Waterman and Patterson (CACM 52(4), 2009).

    seconds of an operator = max(2 · MACs / (peak rate · efficiency), bytes / (bandwidth · efficiency)) + cycles / clock

An efficiency is the share of a peak that a kind of operator reaches, the cycles are what starting an operator costs; both are fitted to one
host by `core.targets.calibration`. Estimates are for one picture on one thread. Pages, commands and charts call it. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from core.errors import BadInput

CONVOLUTION, DEPTHWISE, GROUPED, LINEAR = "convolution", "depthwise", "grouped", "linear"
POOLING, ELEMENTWISE, MOVE = "pooling", "elementwise", "move"
COMPUTING = (CONVOLUTION, DEPTHWISE, GROUPED, LINEAR)  # the kinds that multiply; the others are bound by memory
BYTES = {"float32": 4, "int8": 1}
COMPUTE, MEMORY, OVERHEAD = "compute", "memory", "overhead"
BOUNDS = (COMPUTE, MEMORY, OVERHEAD)


@dataclass(frozen=True)
class Operator:
    """What one operator computes, reads and writes, in multiply-adds and numbers. `layer` is the path of the module that it belongs to."""

    layer: str
    kind: str
    macs: int
    weights: int
    inputs: int
    outputs: int
    int8: bool = False

    @property
    def type(self) -> str:
        return "int8" if self.int8 else "float32"

    def to_json(self) -> list:
        return [self.layer, self.kind, self.macs, self.weights, self.inputs, self.outputs, int(self.int8)]

    @staticmethod
    def from_json(value: Sequence) -> Operator:
        return Operator(*value[:6], bool(value[6]))


@dataclass(frozen=True)
class Rates:
    """The peaks of one thread: operations a second by type (a multiply-add is two), bytes a second, cycles a second.

    `flash_bandwidth` is set where weights are read from flash for every picture.
    """

    title: str
    operations: dict[str, float]
    bandwidth: float
    clock: float
    flash_bandwidth: float | None = None


@dataclass(frozen=True)
class Efficiency:
    """Shares of the peaks that operators reach, by kind for arithmetic, and the cycles that starting one costs."""

    compute: dict[str, float]
    memory: float
    cycles: float

    def to_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Share:
    """The seconds of one layer, and what bound most of them."""

    layer: str
    seconds: float
    bound: str


@dataclass(frozen=True)
class Limit:
    """What must fit and what there is, in bytes."""

    name: str
    needed: float
    available: float

    @property
    def fits(self) -> bool:
        return self.needed <= self.available


@dataclass(frozen=True)
class Estimate:
    """`seconds` is the sum of `layers`; `limits` are flash and RAM, the tighter first."""

    seconds: float
    layers: tuple[Share, ...]
    limits: tuple[Limit, ...] = field(default=())

    @property
    def fits(self) -> bool:
        return all(limit.fits for limit in self.limits)

    def bound(self) -> dict[str, float]:
        """What bound it → seconds."""
        return {bound: sum(share.seconds for share in self.layers if share.bound == bound) for bound in BOUNDS}


def spent(operator: Operator, rates: Rates, efficiency: Efficiency) -> tuple[float, float, float]:
    """Seconds of arithmetic, of moving bytes, and of starting; the operator takes the larger of the first two, and the third.

    Raises `BadInput` where the device has no arithmetic of the operator's type.
    """
    size = BYTES[operator.type]
    peak = rates.operations.get(operator.type)
    if peak is None:
        other = "8-bit grids for weights and activations" if operator.type == "float32" else "no grid for activations, so that it runs as float32"
        raise BadInput(f"{rates.title} has no {operator.type} arithmetic, which {operator.layer or 'the network'} needs; it takes a recipe with {other}.")
    compute = 2 * operator.macs / (peak * efficiency.compute[operator.kind]) if operator.macs else 0.0
    weights, values = size * operator.weights, size * (operator.inputs + operator.outputs)
    memory = (weights * rates.bandwidth / (rates.flash_bandwidth or rates.bandwidth) + values) / (rates.bandwidth * efficiency.memory)
    return compute, memory, efficiency.cycles / rates.clock


def estimate(operators: Sequence[Operator], rates: Rates, efficiency: Efficiency, limits: Sequence[Limit] = ()) -> Estimate:
    """The operators' seconds, summed by layer in the order in which layers first run. Raises what `spent` raises."""
    layers: dict[str, dict[str, float]] = {}
    for operator in operators:
        compute, memory, start = spent(operator, rates, efficiency)
        longest = max(compute, memory)
        bound = OVERHEAD if start > longest else COMPUTE if compute >= memory else MEMORY
        of = layers.setdefault(operator.layer, dict.fromkeys(BOUNDS, 0.0))
        of[bound] += longest + start
    shares = tuple(Share(layer, sum(of.values()), max(of, key=of.get)) for layer, of in layers.items())
    return Estimate(sum(share.seconds for share in shares), shares, tuple(sorted(limits, key=lambda limit: -limit.needed / limit.available)))
