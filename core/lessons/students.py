"""Lessons: a student taught by a checkpoint at several temperatures, and the same student alone; every one from three seeds.

Seeds decide the first weights and the order of the pictures, and are the same with and without a teacher: the two differ in
the teacher alone. `python -m core gallery --students --build` makes assets/gallery/students/DATASET.json, which the page "Distill" opens
on. Its rows are runs like any other, found by their identity; they are kept out of the explorer's chart, where eighteen would stand
upon each other. Imports no torch until built.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from core import zoo
from core.recipe import Recipe
from core.studies import gallery
from core.work import Work

FOLDER = gallery.FOLDER / "students"
TEACHER, DATASETS = "resnet18", ("fashion_mnist_full", "fashion_mnist")
SEEDS = (0, 1, 2)
TEMPERATURES = (1, 2, 4, 8, 16)
SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Lesson:
    """Who teaches whom, on what, and how long: everything but the temperature and the seed. Both trainings have it in common."""

    teacher: str = TEACHER
    dataset: str = DATASETS[0]
    student: str = "resnet18"
    width: float = 0.25
    alpha: float = 0.9
    epochs: int = 10
    images: int = 2000
    learning_rate: float = 0.1

    def taught(self, temperature: float, seed: int, split: str = "validation") -> Work:
        """The student under its teacher; raises `BadField` or `BadRecipe` where a field or the student cannot be."""
        return self._work({"step": "distill", "temperature": temperature, "alpha": self.alpha}, seed, split)

    def alone(self, seed: int, split: str = "validation") -> Work:
        """The same student, trained on the true labels only."""
        return self._work({"step": "finetune"}, seed, split)

    def works(self, split: str = "validation") -> list[Work]:
        """The whole curve over the temperature."""
        return [self.alone(seed, split) for seed in SEEDS] + [self.taught(temperature, seed, split) for temperature in TEMPERATURES for seed in SEEDS]

    def _work(self, training: dict, seed: int, split: str) -> Work:
        training = training | {"epochs": self.epochs, "images": self.images, "learning_rate": self.learning_rate}
        steps = [{"step": "student", "model": self.student, "width": self.width}, training]
        if zoo.models().get(self.student, {}).get("batch_norm"):  # a short training leaves slow averages behind
            steps.append({"step": "calibrate_batchnorm"})
        return Work(self.teacher, self.dataset, Recipe.from_json({"seed": seed, "steps": steps}), split, latency=False)


@dataclass(frozen=True)
class Spread:
    """Top-1 in percent over seeds: the mean, and the lowest and highest, which is all that three seeds say of their spread."""

    mean: float
    low: float
    high: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread | None:
        """None of no values."""
        return Spread(sum(values) / len(values), min(values), max(values), len(values)) if values else None


@dataclass(frozen=True)
class Curve:
    """Accuracy over temperature, as far as it is measured: seed → top-1 in percent."""

    taught: Mapping[float, Mapping[int, float]]  # by temperature
    alone: Mapping[int, float]

    @staticmethod
    def of(lesson: Lesson, top1: Callable[[Work], float | None], split: str = "validation", temperatures: Iterable[float] = TEMPERATURES) -> Curve:
        """`top1` tells of a work what was measured, or None."""

        def known(work_of: Callable[[int], Work]) -> dict[int, float]:
            found = {seed: top1(work_of(seed)) for seed in SEEDS}
            return {seed: value for seed, value in found.items() if value is not None}

        taught = {temperature: known(lambda seed, at=temperature: lesson.taught(at, seed, split)) for temperature in sorted(set(temperatures))}
        return Curve({temperature: seeds for temperature, seeds in taught.items() if seeds}, known(lambda seed: lesson.alone(seed, split)))

    def best(self) -> float | None:
        """The temperature of the highest mean, among those of which every seed was measured."""
        whole = {temperature: Spread.of(list(seeds.values())).mean for temperature, seeds in self.taught.items() if len(seeds) == len(SEEDS)}
        return max(whole, key=whole.get) if whole else None

    def spread(self, temperature: float | None) -> Spread | None:
        """At a temperature, or, for None, alone."""
        return Spread.of(list((self.alone if temperature is None else self.taught.get(temperature, {})).values()))


def works(dataset: str) -> list[Work]:
    """What is shipped of a dataset: its lesson on both splits, of which the second trains nothing anew."""
    return [work for split in SPLITS for work in Lesson(dataset=dataset).works(split)]


def build(dataset: str, *, report: Callable[[int, int, str], None] = lambda done, total, name: None, **hooks) -> list[dict]:
    """Run what is missing of a dataset's lesson; returns the rows. `report(done, total, recipe)` is called before each run, `hooks` go to `engine.run`."""
    rows = gallery.measured(FOLDER / f"{dataset}.json", works(dataset), False, report, hooks, curves=True)
    runs.cache_clear()
    found.cache_clear()
    return rows


@functools.cache
def runs() -> list[dict]:
    """The shipped rows as `gallery.runs()` gives them, each with its `curve`: `epoch`, `loss` and `top1` (of 500 pictures) after every epoch."""
    return [gallery.with_labels(row) for name in DATASETS if (path := FOLDER / f"{name}.json").exists() for row in gallery.read(path)]


@functools.cache
def found(identity: str) -> dict | None:
    """The shipped row of that identity."""
    return next((row for row in runs() if row["identity"] == identity), None)
