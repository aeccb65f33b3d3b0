"""What steps behind a training will note, told before it: pruning that empties a layer, clusters beyond the distinct weights that are left.

The steps that prune are applied to a copy of the network as it is, one after the other, by a few calibration pictures; nothing but the copy
changes. Asked by `core.engine` before the first step that takes long, and the first behind each structural step; imports torch inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.arithmetic import pruning
from core.methods.apply import Context, apply, notes
from core.recipe import GRID, PRUNE, STRUCTURE, TRAIN, Step, params

if TYPE_CHECKING:
    from core.datasets import Dataset
    from core.weights import Compressed
    from core.work import Work

MOST_LOOKS = 3  # at each picture; a step that looks more often takes minutes, and what is found by fewer pictures would often not come true
PICTURES = 256  # that a step runs forwards, or as many fewer as it looks at each more often
LOOKED_MACS = 30_000_000_000  # multiply-adds of all looks together, about two seconds of one thread; of a larger network one look alone,
TRAINED_A_LOOK = 20  # where training takes so many times as long
GRID_PICTURES = 32  # for the ranges of values between layers, which nobody looks at


def takes_long(step: Step) -> bool:
    """Whether a person should know before this step what those behind it will note."""
    return step.kind == TRAIN or step.looks > MOST_LOOKS or hasattr(step, "iterations")


@dataclass(frozen=True)
class Foretelling:
    """What is told ahead in the course of one run that goes on from step number `first`, each sentence once."""

    work: Work
    first: int
    dataset: Dataset
    turn: Callable[[], AbstractContextManager]
    told: list[str] = field(default_factory=list)

    def before(self, number: int, subject: Compressed) -> list[str]:
        """What is to be told when step `number` is about to change `subject`; nothing where another step is the first long one of its stretch.

        A stretch ends with a structural step, which an earlier look could not see beyond.
        """
        steps = self.work.recipe.steps
        start = max((at + 1 for at in range(self.first, number) if steps[at].kind == STRUCTURE), default=self.first)
        if not takes_long(steps[number]) or any(map(takes_long, steps[start:number])):
            return []
        said = [note for note in foretold(self.work, number, subject, self.dataset, self.turn) if note not in self.told]
        self.told.extend(said)
        return said


def foretold(work: Work, first: int, subject: Compressed, dataset: Dataset, turn: Callable[[], AbstractContextManager]) -> list[str]:
    """What the steps of the recipe from number `first` on will note, as `subject`, which the steps before them have made, tells it; it stays as it is.

    Up to the first structural step, behind which the weights are others. Of a student that no training has reached yet, the shapes alone tell.
    """
    from core.weights import Compressed, clone

    steps = work.recipe.steps
    fresh = bool(steps) and steps[0].first and not any(step.kind == TRAIN for step in steps[:first])
    with turn():
        copy = Compressed(clone(subject.module), subject.architecture, dict(subject.weights), dict(subject.activations))
    end = next((number for number, step in enumerate(steps) if number >= first and step.kind == STRUCTURE), len(steps)) + 1
    room = _room(steps[first:end], copy, dataset)
    said: list[str] = []
    trained = False
    for number, step in enumerate(steps[first:end], first):
        context = Context.of(work, number, dataset, PICTURES // step.looks if step.kind == PRUNE else GRID_PICTURES, turn)
        with turn():
            found = notes(step, copy)
        if step.kind == PRUNE:
            passes = _passes(step)
            looked = step.looks <= MOST_LOOKS and passes <= room and not (fresh and hasattr(step, "goes_by"))
            room -= passes if looked else 0
            found += _pruned(step, copy, context, looked)
        elif step.kind == GRID and any(hasattr(later, "clusters") for later in steps[number + 1 : end]):  # whose number its distinct values may be below
            apply(step, copy, context)
        said += found if trained or takes_long(step) else []
        trained = trained or step.kind == TRAIN
    return said


def _room(steps: tuple[Step, ...], subject: Compressed, dataset: Dataset) -> float:
    """How many pictures may be run forwards in all."""
    from core.metrics import cost

    trained = sum(3 * step.epochs * min(step.images, len(dataset.split("train"))) for step in steps if step.kind == TRAIN)  # forwards and backwards
    return max(LOOKED_MACS / max(1, cost.macs(subject.module, subject.architecture.input_size)), min(trained / TRAINED_A_LOOK, PICTURES))


def _passes(step: Step) -> int:
    """How many pictures a step that prunes runs forwards, going back counted twice."""
    reads = getattr(step, "granularity", "filter") == "filter"
    return min(step.looks * step.images, PICTURES) if reads and hasattr(step, "images") else 0


def _pruned(step: Step, copy: Compressed, context: Context, looked: bool) -> list[str]:
    """Prune the copy, where it may be `looked` at, and say which layers lose everything; else those that do whatever their weights are."""
    before = _empty(copy)
    told = len(copy.notes)
    sure = [name for name in pruning.lost_by_share(step, copy) if name not in before]
    if looked:
        apply(step, copy, context)
    open_ = [name for name in _empty(copy) if name not in before and name not in sure]
    found = [note for note in copy.notes[told:] if not note.startswith(pruning.emptied(step))]
    if sure:
        found.append(f"{_sets(step, sure)}, because {100 * step.sparsity:g} % of so few weights are all of them.")
    if open_:
        found.append(f"{_sets(step, open_)}, {_unless(step)}.")
    return found


def _empty(subject: Compressed) -> list[str]:
    """The weights of which nothing is left."""
    return [name for name, weight in subject.weights.items() if weight.mask is not None and not weight.mask.numpy().any()]


def _sets(step: Step, names: list[str]) -> str:
    return f"{step.name} sets every weight of {pruning.listed(names)} to zero"


def _unless(step: Step) -> str:
    """What would have to come otherwise, by what the step ranks weights by; one without such a word draws them."""
    goes_by = getattr(step, "goes_by", None)
    if goes_by is None:
        return "because the recipe's seed draws them all"
    threshold = getattr(step, "threshold", None)
    if threshold is None:
        return f"unless training raises the {goes_by} of some to that of the {100 * (1 - step.sparsity):g} % that stay"
    unit = next(spec.unit for spec in params(type(step)) if spec.name == "threshold")
    return f"unless training raises the {goes_by} of some to {threshold:g}{f' {unit}' if unit else ''}"
