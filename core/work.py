"""What is asked of the engine: a recipe on a model and a dataset, measured on a split. Imports no torch."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import core.methods  # noqa: F401  (registers the steps)
from core import ENGINE_VERSION, device, zoo
from core.datasets import DATASETS, fingerprint, labels, load
from core.errors import BadField, BadRecipe, NotHere
from core.recipe import Recipe, Step, digest
from core.silent import unheard

MEASURED_SPLITS = ("validation", "test")
THREADS = 1  # of every worker: gradients differ between one thread and two


@dataclass(frozen=True)
class Work:
    """One run, before it is done. `images` bounds the pictures it is measured on; None means the whole split.

    Raises `UnknownName` or `BadField` when a name or figure cannot be.
    """

    model: str
    dataset: str
    recipe: Recipe = field(default_factory=Recipe)
    split: str = "validation"
    images: int | None = None
    latency: bool = True

    def __post_init__(self):
        zoo.check_model(self.model)
        DATASETS.get(self.dataset)
        if not isinstance(self.recipe, Recipe):
            raise BadRecipe(f"A run takes a recipe, not {self.recipe!r}.")
        for step, model, names in self._met():
            step.check_model(model)
            step.check_layers(names)
        if self.split not in MEASURED_SPLITS:
            raise BadField("split", self.split, "one of " + ", ".join(MEASURED_SPLITS))
        if self.images is not None and (isinstance(self.images, bool) or not isinstance(self.images, int) or not 1 <= self.images <= 10**7):
            raise BadField("images", self.images, "a whole number from 1 to 10,000,000, or nothing for the whole split")

    @functools.cached_property
    def checkpoint(self) -> zoo.Checkpoint:
        """What `check` found, once."""
        return self.check()

    def check(self) -> zoo.Checkpoint:
        """The checkpoint to start from; raises `NotHere` when it, the dataset or a teacher is missing, before any long work."""
        absent = DATASETS.get(self.dataset).missing()
        if absent:
            raise absent
        if not len(labels(self.dataset, self.split)):
            raise NotHere(f"The {self.split} split of {self.dataset}", "its folder has none", "Measure on the validation split.")
        names = [getattr(step, "teacher", "self") for step in self.recipe.steps]
        teachers = {name: zoo.checkpoint(name, self.dataset) for name in names if name != "self"}
        checkpoint = zoo.checkpoint(self.model, self.dataset)
        for step, name in zip(self.recipe.steps, names, strict=True):
            step.check_teacher(teachers.get(name, checkpoint), functools.partial(load, self.dataset))
        if self._last_model() != self.model:
            zoo.check_reads(self._last_model(), checkpoint.input_size)
        return checkpoint

    def warnings(self) -> list[str]:
        """A sentence for every step that changes nothing of this model, whose work a later one undoes, or with a field that says nothing; none is refused."""
        said, met = [], list(self._met())
        for number, (step, model, _names) in enumerate(met):
            reason = step.idle(self.recipe.steps[:number], zoo.models()[model])
            if reason:
                said.append(f"{step.name} changes nothing, because {reason}.")
            said += unheard(step)
        return said + self.recipe.warnings(met[-1][2] if met else [])

    def _met(self) -> Iterator[tuple[Step, str, list[str]]]:
        """Each step, the model that it meets, and the names of the weights that it may meet; the last step's hold all that any step meets."""
        model, names = self.model, zoo.models()[self.model]["weights"]
        for step in self.recipe.steps:
            yield step, model, names
            before, model = model, step.model_after(model)
            names = step.weights_after(names if model == before else zoo.models()[model]["weights"])

    def _last_model(self) -> str:
        """The model that is measured in the end: the student's, where the recipe has one."""
        return functools.reduce(lambda model, step: step.model_after(model), self.recipe.steps, self.model)

    @functools.cached_property
    def _identity(self) -> str:
        return self.identity_on(device.chosen())

    def _limit(self) -> int | None:
        """`images`, where there are more in the split: a limit beyond its end is none."""
        return self.images if self.images is not None and self.images < len(labels(self.dataset, self.split)) else None

    def identity(self) -> str:
        """16 hexadecimal digits over everything that decides the figures: same identity, same result on one machine."""
        return self._identity

    def identity_on(self, where: str) -> str:
        """The identity of this work where accuracy and training are computed on that device of `device.DEVICES`."""
        return digest(json.dumps([*self._ground(where), self.recipe.canonical(), self._teachers(), self.split, self._limit()]))

    def is_identity(self, identity: str) -> bool:
        """Whether a run of this identity is of this work and of what is here now, whichever device it was computed on."""
        return identity == self.identity() or self.device_of(identity) is not None

    def device_of(self, identity: str) -> str | None:
        """The device on which this work has that identity; None where it has it on none."""
        return next((where for where in device.DEVICES if self.identity_on(where) == identity), None)

    def identity_of(self, checkpoint: zoo.Checkpoint) -> str:
        """The identity that this work has with a checkpoint that was found already, which spares looking for it."""
        self.__dict__["checkpoint"] = checkpoint
        return self.identity()

    def prefix_key(self, length: int) -> str:
        """What the first `length` steps make of the checkpoint, whatever it is measured on."""
        part = Work(self.model, self.dataset, self.recipe.prefix(length))
        return digest(json.dumps([*part._ground(device.chosen()), part.recipe.canonical(), part._teachers()]))

    def baseline(self) -> Work:
        return Work(self.model, self.dataset, Recipe(), self.split, self.images, self.latency)

    def _ground(self, where: str) -> list:
        checkpoint = self.checkpoint
        fresh = [_version("torchvision")] if any(step.first for step in self.recipe.steps) else []  # which draws the weights of a fresh network
        editions = [step.edition for step in self.recipe.steps if step.edition]
        editions += ["values around other layers stay"] if sum(step.rounds_activations for step in self.recipe.steps) > 1 else []  # they did not once
        elsewhere = [where] if where != device.CPU else []
        return [ENGINE_VERSION, self.model, checkpoint.hash, fingerprint(self.dataset), _version("torch"), *fresh, *editions, THREADS, *elsewhere]

    def _teachers(self) -> list[str]:
        names = [getattr(step, "teacher", "self") for step in self.recipe.steps]
        return [zoo.checkpoint(name, self.dataset).hash for name in names if name != "self"]

    def to_json(self) -> dict:
        return {
            "model": self.model, "dataset": self.dataset, "recipe": self.recipe.to_json(),
            "split": self.split, "images": self.images, "latency": self.latency,
        }  # fmt: skip

    @staticmethod
    def from_json(value: dict[str, Any]) -> Work:
        return Work(**(value | {"recipe": Recipe.from_json(value["recipe"])}))


@functools.cache
def _version(package: str) -> str:
    return f"{package} {version(package)}"
