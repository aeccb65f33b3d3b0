"""What the page "Distill" shows besides model and data, and its form in the address bar. Knows nothing of Streamlit.

The model of the view is the teacher. What is as usual is left out of the address.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import core.methods  # noqa: F401  (registers the steps)
from core import zoo
from core.errors import BadField
from core.lessons.students import SEEDS, Lesson
from core.recipe import STEPS, Param, params

MOST_PICTURES = 20
LONGEST = 100  # characters of one value


@dataclass(frozen=True)
class Choices:
    """The student, how it is taught, and which of the teacher's answers is looked at. `seed` is one of `core.lessons.students.SEEDS`."""

    student: str = Lesson.student
    width: float = Lesson.width
    temperature: float = 4.0
    alpha: float = Lesson.alpha
    epochs: int = Lesson.epochs
    images: int = Lesson.images
    learning_rate: float = Lesson.learning_rate
    seed: int = 0
    picture: int = 0

    def replace(self, **changes) -> Choices:
        return dataclasses.replace(self, **changes)

    def lesson(self, teacher: str, dataset: str) -> Lesson:
        same = {name: getattr(self, name) for name in ("student", "width", "alpha", "epochs", "images", "learning_rate")}
        return Lesson(teacher, dataset, **same)


def field(name: str) -> Param:
    """What a choice accepts, and how it is drawn: the field of the step that it becomes."""
    step = "student" if name in ("student", "width") else "distill"
    return next(spec for spec in params(STEPS.get(step)) if spec.name == ("model" if name == "student" else name))


FIELDS = ("width", "temperature", "alpha", "epochs", "images", "learning_rate")
WORDS = {"seed": "student-seed", "learning_rate": "rate"}  # where the address says it otherwise; "seed" is the explorer's recipe's


def encode(choices: Choices) -> dict[str, list[str]]:
    usual = Choices()
    return {
        WORDS.get(each.name, each.name): [f"{value:.12g}" if isinstance(value, (int, float)) else value]
        for each in dataclasses.fields(Choices)
        if (value := getattr(choices, each.name)) != getattr(usual, each.name)
    }


def decode(query: Mapping[str, Sequence[str]], said: list[str], snapped: Callable[[Param, float, list[str]], float]) -> Choices:
    """The choices that a link asks for, and in `said` a sentence for each that had to be replaced. `snapped` finds a slider's position."""
    given = {name: query[word][-1][:LONGEST] for name in Choices.__dataclass_fields__ if query.get(word := WORDS.get(name, name))}
    found = Choices()
    if "student" in given:
        if given["student"] in zoo.models():
            found = found.replace(student=given["student"])
        else:
            said.append(f"There is no model named {given['student']!r}; {found.student} is the student instead.")
    for name in FIELDS:
        if name in given:
            try:
                spec = field(name)
                found = found.replace(**{name: spec.parse(snapped(spec, _number(given[name]), said), name)})
            except BadField as error:
                said.append(f"{error} The usual {name.replace('_', ' ')} is used.")
    for name, accepted in (("seed", SEEDS), ("picture", range(MOST_PICTURES))):
        if name in given:
            value = _number(given[name])
            if value in accepted:
                found = found.replace(**{name: int(value)})
            else:
                said.append(f"There is no {name} {given[name]!r}; the first is shown.")
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
