"""The graph that a run has: the operators that a runtime executes for one picture, and the memory between them.

    graph = of(subject)            # on a worker: counted on the shapes that the recipe ended with
    keep(graph)                    # a run's metrics name it by `graph.key`
    find(key)                      # in a page: shipped with the gallery, or kept since

Runs whose shapes and types are equal share a graph, so it is kept once under a hash of what it says. What is kept may be dropped; `Operators` has a
worker count it again. Imports torch only to count.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from core.asked import Asked
from core.home import ASSETS, write_whole
from core.keeping import kept
from core.recipe import digest
from core.targets.roofline import BYTES, Operator

if TYPE_CHECKING:
    from core.weights import Compressed

SHIPPED = ASSETS / "graphs.json"
SHELF = "graphs"
VERSION = 1  # of how operators are counted that are all of one type
MIXED = 2  # of how those of both are, which nothing shipped has


@dataclass(frozen=True)
class Graph:
    """`peak` is the most numbers that lie between operators at once, and `bytes`, where they are of both types, the most bytes."""

    operators: tuple[Operator, ...]
    peak: int
    bytes: int | None = None

    @property
    def type(self) -> str:
        """int8 where any operator runs as it."""
        return "int8" if any(operator.int8 for operator in self.operators) else "float32"

    @property
    def activation_bytes(self) -> int:
        """Peak activation memory for one picture."""
        return self.peak * BYTES[self.type] if self.bytes is None else self.bytes

    @property
    def counted(self) -> bool:
        """Whether it says what both types take; graphs that were kept once took one byte for every number."""
        return self.bytes is not None or len({operator.int8 for operator in self.operators}) < 2

    @property
    def weight_bytes(self) -> int:
        """What the weights take as they are computed with."""
        return sum(operator.weights * BYTES[operator.type] for operator in self.operators)

    def in_float32(self) -> Graph:
        """The same operators in float32: what a file of an int8 run executes whose format has no 8-bit arithmetic."""
        return Graph(tuple(replace(operator, int8=False) for operator in self.operators), self.peak)

    @functools.cached_property
    def key(self) -> str:
        """16 hexadecimal digits over all of it."""
        return digest(json.dumps([VERSION, self.to_json()]))

    def to_json(self) -> dict:
        mixed = {} if self.bytes is None else {"bytes": self.bytes}
        return {"peak": self.peak} | mixed | {"operators": [operator.to_json() for operator in self.operators]}

    @staticmethod
    def from_json(value: Mapping) -> Graph:
        return Graph(tuple(Operator.from_json(each) for each in value["operators"]), value["peak"], value.get("bytes"))


@dataclass(frozen=True)
class Operators(Asked):
    """What is asked: the operators of a recipe; `measure` answers with their graph."""

    kind: ClassVar[str] = "graph"
    version: ClassVar[int] = MIXED


def of(subject: Compressed) -> Graph:
    """Counted on the shapes. Where grids allow real int8, operators are int8, but for layers whose weights have no grid and what they alone feed."""
    from core.metrics.operators import record
    from core.runtimes.onnx import int8_possible
    from core.weights import weights_of

    recorded = record(subject.module, subject.architecture.input_size)
    if int8_possible(subject) is not None:
        return Graph(recorded.operators, recorded.peak)
    matrices = {name: name.rpartition(".")[0] for name, _parameter in weights_of(subject.module)}
    floats = {layer for name, layer in matrices.items() if name not in subject.weights or subject.weights[name].grid is None}
    if not floats:
        return Graph(tuple(replace(each, int8=True) for each in recorded.operators), recorded.peak)
    operators, most = recorded.partly_int8(set(matrices.values()) - floats, floats)
    return Graph(operators, recorded.peak, most)


def figures(subject: Compressed) -> dict:
    """What a run's metrics say of its graph: its key, under which it is kept, and its peak activation memory."""
    graph = of(subject)
    keep(graph)
    return {"graph": graph.key, "activation_bytes": graph.activation_bytes}


def measure(asked: Operators, *, turn=contextlib.nullcontext, report: Callable[[dict], None] = lambda event: None) -> dict:
    """The graph of a recipe as JSON, with its `key`; compresses, but trains only where shapes depend on it."""
    from core import engine

    subject = engine.shaped(asked.work, engine.Hooks(turn, report=report))
    with turn():
        graph = of(subject)
        keep(graph)
    return {"key": graph.key, "activation_bytes": graph.activation_bytes, "type": graph.type} | graph.to_json()


def keep(graph: Graph) -> None:
    if graph.key not in shipped() and not kept.path_of(SHELF, f"{graph.key}.json").exists():
        kept.put(SHELF, f"{graph.key}.json", json.dumps(graph.to_json(), separators=(",", ":")).encode())


def find(key: str | None) -> Graph | None:
    """The graph of that key, while it is kept."""
    if key is None:
        return None
    value = shipped().get(key) or kept.get_json(SHELF, f"{key}.json")
    graph = Graph.from_json(value) if value is not None else None
    return graph if graph is not None and graph.counted else None


@functools.cache
def shipped() -> dict[str, dict]:
    """Key → graph as JSON, of the shipped runs."""
    return json.loads(SHIPPED.read_text(encoding="utf-8")) if SHIPPED.exists() else {}


def ship(graphs: Iterable[Graph]) -> None:
    """Write the shipped graphs anew, one a line."""
    lines = [f"{json.dumps(graph.key)}:{json.dumps(graph.to_json(), separators=(',', ':'))}" for graph in sorted(graphs, key=lambda graph: graph.key)]
    write_whole(SHIPPED, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    shipped.cache_clear()
