"""The floor: the most of a numeric field (sparsity, temperature), or the least (bits, epochs), that keeps a given accuracy, and the next, which fails.

    vary = Vary.parse("magnitude_prune.sparsity", recipe)
    floor = search(vary, 91.0, measure)  # measure(recipe) → metrics

The positions of a field of which one end is harder are bisected from mild to hard, so n of them take at most ⌈log2(n + 1)⌉ evaluations. Accuracy
is only nearly monotone: whatever is found, its two neighbouring positions were measured, one holds and the next fails, or is refused. Along other fields
(temperature, learning rate) it may rise and fall: `highest` looks at the top, at the recipe's own value and at the bottom, and bisects above what
holds. Positions are not chosen by what happens to be measured already, so that a question that is asked again is answered from the store.
Called by `core.commands.floor` and, one look at a time, by the explorer. Measures nothing itself; imports no torch.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import core.methods  # noqa: F401  (registers the steps)
from core.datasets import labels
from core.errors import BadField, BadInput, BadRecipe
from core.recipe import STEPS, Param, Recipe, Step, params
from core.silent import INSTEAD, idle, nothing, silenced
from core.studies.points import bytes_words, value_words

SCREEN_IMAGES = 500  # pictures of a first, short look at a position
ALIKE = {"memory_limit": "it limits memory and leaves the accuracy as it is"}  # why a number has no floor
NUMBERS = (int, float)  # what can be varied; yes or no is neither
FORM = re.compile(r"([^.#]+)(?:#([0-9]{1,3}))?\.([^.#]+)")

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Vary:
    """One field of the step number `at` (from 0) of a recipe, and the positions of its slider.

    With `dataset`, `images` beyond what it has have one position, the first of them: they are the same pictures.
    """

    recipe: Recipe
    at: int
    field: str
    dataset: str = ""

    @staticmethod
    def parse(text: str, recipe: Recipe, dataset: str = "") -> Vary:
        """`quantize.weight_bits`, or `quantize#2.weight_bits` for the second of two such steps; raises `BadInput` with the reason."""
        form = FORM.fullmatch(text)
        if form is None:
            raise BadField("vary", text, "a step and a field, such as magnitude_prune.sparsity, or quantize#2.weight_bits for the second quantize")
        name, number, field = form.groups()
        known = [spec.name for spec in params(STEPS.get(name))]
        places = [at for at, step in enumerate(recipe.steps) if step.name == name]
        if not places:
            there = "it has " + ", ".join(step.name for step in recipe.steps) if recipe.steps else "it has none at all"
            raise BadRecipe(f"The recipe has no step {name}; {there}.")
        if number is None and len(places) > 1:
            forms = ", ".join(f"{name}#{count}.{field}" for count in range(1, len(places) + 1))
            raise BadRecipe(f"The recipe has {len(places)} steps named {name}; say which one is varied: {forms}.")
        if number is not None and not 1 <= int(number) <= len(places):
            raise BadRecipe(f"The recipe has no step {name}#{number}; it has {len(places)} of that name, counted from 1.")
        if field not in known:
            raise BadRecipe(f"{name} has no field named {field!r}; it takes {', '.join(known)}.")
        vary = Vary(recipe, places[int(number or 1) - 1], field, dataset)
        vary._check()
        return vary

    def _check(self) -> None:
        step = self.recipe.steps[self.at]
        if self.spec.type not in NUMBERS:
            others = [
                Vary(self.recipe, at, spec.name).name
                for at, other in enumerate(self.recipe.steps)
                for spec in params(type(other))
                if spec.type in NUMBERS and not _without_effect(other, spec.name)
            ]
            offer = f"this recipe's {', '.join(others)} can be" if others else "no field of this recipe can be"
            raise BadRecipe(f"{self.name} cannot be varied, because only numbers can be; {offer}.")
        if reason := _without_effect(step, self.field):
            raise BadRecipe(f"{self.name} cannot be varied, because {reason}.")
        if not self.positions:
            raise BadRecipe(f"{self.name} cannot be varied, because {step.name} accepts no position of its slider beside its other fields.")

    @property
    def spec(self) -> Param:
        return next(spec for spec in params(type(self.recipe.steps[self.at])) if spec.name == self.field)

    @property
    def name(self) -> str:
        """What `parse` reads."""
        step = self.recipe.steps[self.at]
        places = [at for at, other in enumerate(self.recipe.steps) if other.name == step.name]
        return f"{step.name}{f'#{places.index(self.at) + 1}' if len(places) > 1 else ''}.{self.field}"

    @property
    def positions(self) -> tuple:
        """The values of the slider from mild to hard, or from low to high, without those that the step refuses beside its other fields or that say the same."""
        step = self.recipe.steps[self.at]
        others = tuple((spec.name, getattr(step, spec.name)) for spec in params(type(step)) if spec.name != self.field)
        found = _positions(type(step), self.spec, others)
        if self.field != "images" or not self.dataset:
            return found
        pictures = len(labels(self.dataset, step.reads))
        most = min((value for value in found if value >= pictures), default=pictures)
        return tuple(value for value in found if value <= most)

    def recipe_at(self, value: object) -> Recipe:
        """The recipe with the field at that value."""
        steps = list(self.recipe.steps)
        steps[self.at] = dataclasses.replace(steps[self.at], **{self.field: value})
        return Recipe(tuple(steps), self.recipe.seed)

    def words(self, value: object) -> str:
        """`sparsity 80 %`, `4 bits`; `round to 8 channels`, because there the unit alone would mislead."""
        return ("" if self.spec.unit and self.spec.harder else f"{self.spec.title.lower()} ") + value_words(self.spec, value)

    @property
    def steady(self) -> bool:
        """Whether accuracy falls nearly steadily along the positions, because one end compresses more or spares work."""
        return bool(self.spec.harder)

    @property
    def most_looks(self) -> int:
        """How often `next_look` answers at most."""
        return (most_probes if self.steady else most_highest)(len(self.positions))

    def next_look(self, seen: Mapping[int, Mapping]) -> int | None:
        """The number of the position to look at next, by what `evaluation` gave of others; None when the answer is known."""
        return probe(len(self.positions), _held(seen)) if self.steady else highest(len(self.positions), self._own, seen)

    def found(self, seen: Mapping[int, Mapping]) -> tuple[Mapping | None, Mapping | None]:
        """What was seen of the pair. Where nothing held and accuracy need not fall steadily, the best that was seen stands for what fails.

        Raises `BadInput` where every position that was looked at was refused.
        """
        refused = [each["refused"] for each in seen.values() if "refused" in each]
        if refused and len(refused) == len(seen):
            raise BadInput(f"None of the {len(seen)} positions looked at could be measured: {refused[0]}")
        last, beyond = pair(_held(seen))
        if last is None and not self.steady:
            beyond = _best(seen)
        return None if last is None else seen[last], None if beyond is None else seen[beyond]

    @property
    def _own(self) -> int | None:
        """The position nearest to the recipe's own value."""
        own = getattr(self.recipe.steps[self.at], self.field)
        return None if own is None else min(range(len(self.positions)), key=lambda at: abs(self.positions[at] - own))


@functools.lru_cache(maxsize=64)
def _positions(step_type: type[Step], spec: Param, others: tuple[tuple[str, Any], ...]) -> tuple:
    """`Vary.positions` beside the other fields; kept, because a page asks at every look and each position is tried."""
    if spec.choices:
        values = sorted(choice for choice in spec.choices if choice is not None)
    elif spec.stops:
        values = list(spec.stops)
    else:
        count = round((spec.high - spec.low) / spec.step)
        values = [spec.type(min(round(spec.low + number * spec.step, 9), spec.high)) for number in range(count + 1)]

    def accepts(value: object) -> bool:
        try:
            step_type(**dict(others), **{spec.name: value})
        except BadInput:
            return False
        return True

    return tuple(value for value in (reversed(values) if spec.harder == "down" else values) if accepts(value))


def varies(step: Step, spec: Param) -> bool:
    """Whether a field is a number that has a floor."""
    return spec.type in NUMBERS and spec.name not in ALIKE and not idle(step, spec.name)


def _without_effect(step: Step, field: str) -> str:
    """Why this field has no effect, mostly by another one of the step, and what to do; "" where it has."""
    if field in ALIKE:
        return ALIKE[field]
    by = silenced(step, field)
    if by and by[0] == INSTEAD.get(field):
        return f"the {by[0]} {getattr(step, by[0]):g} stands in its place; set that to null, or vary it instead"
    return f"it {nothing(step, *by)}" if by else ""


def pair(held: Mapping[int, bool]) -> tuple[int | None, int | None]:
    """The hardest position that is known to hold and the mildest beyond it that is known to fail; None for what is not known.

    `held` has, by number from mild to hard, whether a position holds.
    """
    holds = max((at for at, does in held.items() if does), default=None)
    fails = min((at for at, does in held.items() if not does and (holds is None or at > holds)), default=None)
    return holds, fails


def probe(count: int, held: Mapping[int, bool]) -> int | None:
    """The next of `count` positions to look at, half-way between the pair; None when nothing lies between."""
    holds, fails = pair(held)
    low, high = -1 if holds is None else holds, count if fails is None else fails
    return None if high - low == 1 else (low + high) // 2


def most_probes(count: int) -> int:
    """How often `probe` answers at most."""
    return math.ceil(math.log2(count + 1))


def highest(count: int, own: int | None, seen: Mapping[int, Mapping]) -> int | None:
    """The next of `count` positions, from low to high, to look at for the highest that holds, where accuracy may rise and fall.

    The highest comes first: if it holds, nothing is left to ask. Then `own`, which may well hold, and the lowest; while nothing holds, the middle
    of the widest gap beside the best or one of several alike, `most_seeks` positions in all. Between the highest that holds and the next that fails it bisects.
    `seen` has, by number, `holds` and `top1`; None when there is nothing more to look at.
    """
    held = _held(seen)
    if any(held.values()):
        return probe(count, held)
    first = next((at for at in (count - 1, own, 0) if at is not None and at not in seen), None)
    if first is not None or len(seen) >= most_seeks(count):
        return first
    gaps = [gap for gap in itertools.pairwise(sorted(seen)) if gap[1] - gap[0] > 1]
    most = max(_kept(each) for each in seen.values())
    beside = [gap for gap in gaps if any(_kept(seen[at]) == most for at in gap)] or gaps
    return sum(max(beside, key=lambda gap: (gap[1] - gap[0], gap))) // 2 if beside else None


def most_seeks(count: int) -> int:
    """How many of `count` positions `highest` looks at until one holds; all, where they are four or fewer."""
    return most_probes(count) + 1


def most_highest(count: int) -> int:
    """How often `highest` answers at most: until one holds, and then by halves."""
    return min(count, most_seeks(count) - 1 + math.ceil(math.log2(max(1, count - 1))))


def _held(seen: Mapping[int, Mapping]) -> dict[int, bool]:
    return {at: each["holds"] for at, each in seen.items()}


def _best(seen: Mapping[int, Mapping]) -> int | None:
    """The position of the most accuracy, the higher of two alike."""
    return max(seen, key=lambda at: (_kept(seen[at]), at), default=None)


def _kept(seen: Mapping) -> float:
    """The accuracy, below any other where the position was refused."""
    return -1.0 if seen["top1"] is None else seen["top1"]


def search(
    vary: Vary,
    min_top1: float,
    measure: Callable[[Recipe], Metrics],
    screen: Callable[[Recipe], Metrics | None] = lambda recipe: None,
    report: Callable[[object, int, int], None] = lambda value, number, most: None,
) -> dict:
    """`recipe` (JSON, at the best value), `holds` and `fails` (what `evaluation` gives, or None: `Vary.found`) and `evaluations`, in their order.

    `measure` gives a recipe's metrics on all the pictures that count. `screen` may give those on the first few: where their
    95 % Wilson interval excludes `min_top1`, they stand for the position, unless it is one of the pair. Both positions of
    the pair are measured on all; where that contradicts a screen, the search goes on. `report` is told the value that is
    looked at next, its number, and how many there will be, if no screen is contradicted. Where accuracy need not fall steadily there
    is no screen: what a position keeps decides where to look next, and that must be the same when the question is asked again. A position fails as well
    where either raises `BadInput`, such as a learning rate at which training comes to no numbers; any other error ends the search.
    """
    seen: dict[int, dict] = {}  # by number, the last look at a position
    final: set[int] = set()  # what no longer look would change
    looks: list[dict] = []

    def look(at: int, metrics_of: Callable[[Recipe], Metrics | None]) -> bool:
        """Whether there is nothing more to ask about this position, as far as this look tells."""
        value = vary.positions[at]
        try:
            metrics = metrics_of(vary.recipe_at(value))
        except BadInput as error:
            seen[at] = refusal(value, str(error))
            final.add(at)
        else:
            if metrics is None:
                return False
            seen[at] = evaluation(value, metrics, min_top1)
        looks.append(seen[at])
        return at in final or not seen[at]["top1_low"] <= min_top1 <= seen[at]["top1_high"]

    def tell(at: int, number: int) -> None:
        report(vary.positions[at], number, vary.most_looks)

    while True:
        if (at := vary.next_look(seen)) is not None:
            tell(at, len(seen) + 1)
            if vary.steady and look(at, screen):
                continue
        elif (at := next((each for each in pair(_held(seen)) if each is not None and each not in final), None)) is not None:
            tell(at, len(seen))
        else:
            break
        final.add(at)
        look(at, measure)
    holds, fails = vary.found(seen)
    recipe = None if holds is None else vary.recipe_at(holds["value"]).to_json()
    return {"recipe": recipe, "holds": holds, "fails": fails, "evaluations": looks}


def evaluation(value: object, metrics: Metrics, min_top1: float) -> dict:
    """What was measured of one position: `value`, `holds`, `top1` with its interval, `images`, `artifact_bytes`."""
    figures = {name: metrics[name] for name in ("top1", "top1_low", "top1_high", "images", "artifact_bytes")}
    return {"value": value, "holds": bool(metrics["top1"] >= min_top1)} | figures


def refusal(value: object, reason: str) -> dict:
    """As `evaluation`, of a position that could not be measured: it fails, without figures, and `refused` is the sentence why."""
    return {"value": value, "holds": False, "top1": None, "top1_low": None, "top1_high": None, "images": 0, "artifact_bytes": None, "refused": reason}


def reason(look: Mapping) -> str:
    """Why a position was refused, in short: the sentence up to what to do instead."""
    return look["refused"].partition("; ")[0].rstrip(".")


def _outcome(look: Mapping) -> str:
    return f"was refused ({reason(look)})" if "refused" in look else f"keeps {look['top1']:.2f} %"


def sentence(vary: Vary, min_top1: float, holds: Mapping | None, fails: Mapping | None, looked: int) -> str:
    """What was found, with the pair. `looked` is how many positions were looked at."""
    asked = f"at least {min_top1:g} % top-1"
    if holds is None and vary.steady:
        return f"Already the mildest position, {vary.words(fails['value'])}, fails: it {_outcome(fails)}, and {asked} is asked for."
    if holds is None:
        best = f"the best of them, {vary.words(fails['value'])}, keeps {fails['top1']:.2f} %"
        if looked == len(vary.positions):
            return f"All {looked} positions were looked at, and none keeps {asked}; {best}."
        return f"None of the {looked} positions looked at keeps {asked}; {best}, and as accuracy need not fall steadily with this field, others may keep more."
    kept = f"{holds['top1']:.2f} % top-1 ({bytes_words(holds['artifact_bytes'])})"
    if fails is None:
        end = "hardest" if vary.steady else "highest"
        return f"Even the {end} position, {vary.words(holds['value'])}, holds: it keeps {kept}, and {asked} is asked for."
    found = f"The floor for {asked} is {vary.words(holds['value'])}, which keeps {kept}; {value_words(vary.spec, fails['value'])} {_outcome(fails)}"
    unsteady = ". Accuracy need not fall steadily with this field: this is the highest place at which it was found to change."
    return found + ("." if vary.steady else unsteady)
