"""How a step meets a model: the context it works in, and the table from a step's type to the function that applies it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from core.errors import BadField
from core.recipe import STRUCTURE, Step, digest

if TYPE_CHECKING:
    from core.datasets import Dataset
    from core.weights import Compressed
    from core.work import Work
    from core.zoo import Checkpoint

TRAINING_BATCH = 64  # small enough that a waiting preview gets its turn soon
CALIBRATION_BATCH = 250


@dataclass
class Context:
    """What a step may use besides the model.

    `seed` derives from the key of the steps before it. `turn` is entered around every piece of computing and may wait,
    or raise `Cancelled`. `report` receives dicts such as `{"fraction": 0.4, "loss": 0.31}`. `images_at_most` bounds how
    many pictures a step reads while a preview is made. `later` are the steps that follow in the recipe.
    """

    checkpoint: Checkpoint
    dataset: Dataset
    seed: int = 0
    images_at_most: int | None = None
    turn: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    report: Callable[[dict], None] = field(default=lambda event: None)
    later: tuple[Step, ...] = ()

    @property
    def input_size(self) -> int:
        return self.checkpoint.input_size

    @staticmethod
    def of(work: Work, number: int, dataset: Dataset, images_at_most: int | None = None, turn=contextlib.nullcontext, report=lambda event: None) -> Context:
        """That of the step of this number in a recipe, seeded by the key of the steps before it."""
        seed = int(digest(f"{work.recipe.prefix(number).key()} {work.recipe.seed}"), 16) % 2**31
        return Context(work.checkpoint, dataset, seed, images_at_most, turn, report, work.recipe.steps[number + 1 :])

    def calibration(self, wanted: int, batch_size: int = CALIBRATION_BATCH):
        """Batches of prepared pictures (B, 3, S, S) of the calibration split; of pictures larger than 32×32 fewer at a time, at least 8."""
        wanted = wanted if self.images_at_most is None else min(wanted, self.images_at_most)
        fitting = max(8, min(batch_size, batch_size * 32**2 // self.input_size**2))
        for x, _labels in self.dataset.batches("calibration", self.input_size, fitting, wanted):
            yield x

    def teacher_answers(self, teacher: str, images: int):
        """The teacher's logits (2, n, K) for the first n training pictures, as they are and mirrored; computed once and kept."""
        from core.keeping import teachers

        return teachers.answers(self._teacher(teacher), self.dataset, images, self.turn, self.report)

    def teacher_features(self, teacher: str, images: int):
        """What the teacher's classifier reads (2, n, W) of the first n training pictures, as they are and mirrored; kept like its answers."""
        from core.keeping import teachers

        return teachers.features(self._teacher(teacher), self.dataset, images, self.turn, self.report)

    def _teacher(self, name: str) -> Checkpoint:
        """`self` is the uncompressed checkpoint, also of a student that is another model."""
        from core import zoo

        return self.checkpoint if name == "self" else zoo.checkpoint(name, self.dataset.source.name)

    def train(self, subject: Compressed, step, objective, clock=lambda fraction: None, beside=None) -> None:
        """Train `subject` by the one loop: masks hold, and the grids of weights and activations round on the way.

        Of large pictures a batch has fewer, and the rate is as much smaller (arXiv:1706.02677).

        `clock` and `beside` are those of `core.training.fit`. Where the step has `checkpoint_activations`, some
        are computed again, or none where its limit suffices for all.
        """
        from core import training
        from core.arithmetic.activations import simulated
        from core.weights import trainable

        batch_size = training_batch(self.input_size)
        plan = training.Plan(
            epochs=step.epochs, learning_rate=step.learning_rate * batch_size / TRAINING_BATCH, images=step.images, batch_size=batch_size,
            warm_up=0.1, flip=self.dataset.source.flip, seed=self.seed,
        )  # fmt: skip
        with trainable(subject) as module:
            trained = simulated(module, subject.activations) if subject.activations else module
            if getattr(step, "checkpoint_activations", False):
                from core.memory.limit import recomputed

                trained, note = recomputed(step, trained, subject, batch_size, self.turn)
                subject.notes.append(note)
            training.fit(
                trained, self.dataset, self.input_size, plan, objective, turn=self.turn, clock=clock, beside=beside,
                report=lambda event: self.report({"curve": event, "fraction": event["fraction"]}),
                watch=min(500, len(self.dataset.split("validation"))),
            )  # fmt: skip


def training_batch(input_size: int) -> int:
    """How many pictures of that size are trained on at a time."""
    from core.datasets.base import fitting

    return fitting(TRAINING_BATCH, input_size)


Apply = Callable[[Step, "Compressed", Context], None]
_APPLY: dict[type[Step], Apply] = {}


def applies(step_type: type[Step]) -> Callable[[Apply], Apply]:
    """Decorator: this function applies steps of that type, changing the `Compressed` it is given."""

    def enter(function: Apply) -> Apply:
        if step_type in _APPLY:
            raise ValueError(f"two functions apply {step_type.__name__}")
        _APPLY[step_type] = function
        return function

    return enter


def apply(step: Step, subject: Compressed, context: Context) -> None:
    """Apply one step in place."""
    _APPLY[type(step)](step, subject, context)


Fits = Callable[[Step, "Compressed"], object]
_FITS: dict[type[Step], tuple[Fits, Callable[[Step], bool]]] = {}


def fits(step_type: type[Step], where: Callable[[Step], bool] = lambda step: True) -> Callable[[Fits], Fits]:
    """Decorator: this function raises `BadRecipe`, or notes, when steps of that type find nothing to do in a network. It changes nothing but notes.

    Of a step that starts with a fresh network, it returns one of the same shapes. Only the steps are asked for which `where` is true.
    """

    def enter(function: Fits) -> Fits:
        _FITS[step_type] = function, where
        return function

    return enter


def _fit_of(step: Step) -> Fits | None:
    """The function that holds this step against a network; None where there is nothing to ask."""
    function, where = _FITS.get(type(step), (None, None))
    return function if function and where(step) else None


def check_fits(steps: tuple[Step, ...], subject: Compressed) -> None:
    """Refuse what finds nothing to do in `subject`, or in the student that takes its place, before anything is trained or measured.

    Steps behind one that changes shapes are held against the shapes before it, which decide the same: they differ in widths. Layers that are named as
    factors are there only later.
    """
    shaped = False
    asked = [step for step in steps if _fit_of(step)]
    if all(step.first for step in asked):
        return
    for step in steps:
        if step.first:
            subject = _fit_of(step)(step, subject)
        elif step in asked:
            with contextlib.suppress(BadField) if shaped else contextlib.nullcontext():
                notes(step, subject)
        shaped = shaped or step.kind == STRUCTURE


def notes(step: Step, subject: Compressed) -> list[str]:
    """What a step will note of a network, as far as its function `fits` tells; raises `BadRecipe` when it finds nothing to do there."""
    looked = replace(subject, notes=[])
    if not step.first and (fit := _fit_of(step)):
        fit(step, looked)
    return looked.notes
