"""A question about a piece of work, which a worker answers and whose answer is kept: what all such questions have in common.

    @dataclass(frozen=True)
    class Layers(Asked):
        kind: ClassVar[str] = "layers"
        version: ClassVar[int] = 1

`core.layers.facts`, `core.packed.size_parts`, `core.timing.timings`, `core.targets.graphs` and `core.exports` ask in this form;
`core.layers.sensitivity` asks about a step, of no recipe. Put to the cluster by `Cluster.examine` or `Cluster.export`. Imports no torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from core.recipe import TRAIN, digest
from core.work import Work


@dataclass(frozen=True)
class Asked:
    """A model on a dataset and a recipe; what the run is measured on does not count. A subclass with fields of its own says how they go to JSON."""

    kind: ClassVar[str]  # the job of the cluster
    version: ClassVar[int]  # of the form of what is kept

    work: Work

    def __post_init__(self):
        object.__setattr__(self, "work", dataclasses.replace(self.work, split="validation", images=None, latency=False))

    @property
    def model(self) -> str:
        return self.work.model

    @property
    def dataset(self) -> str:
        return self.work.dataset

    @property
    def trains(self) -> bool:
        """Whether the answer takes training."""
        return any(step.kind == TRAIN for step in self.work.recipe.steps)

    def check(self) -> None:
        """Raises `NotHere` when the dataset, the checkpoint or a teacher is missing, before any long work."""
        self.work.check()

    def identity(self) -> str:
        """16 hexadecimal digits over everything that decides the answer, under which it is kept."""
        return digest(" ".join(map(str, (self.kind, self.version, *self._also(), self.work.identity()))))

    def _also(self) -> tuple:
        """What decides the answer besides the work."""
        return ()

    def to_json(self) -> dict[str, Any]:
        return self.work.to_json()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(Work.from_json(value))
