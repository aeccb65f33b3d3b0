"""Fine-tuning: trains what the recipe has made, with masks held and grids rounded on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.memory.limit import check_limit, limited, memory_limit_param, recomputing_param
from core.methods.apply import applies, fits, training_batch
from core.recipe import RATES, TRAIN, Step, param, register


@register
@dataclass(frozen=True)
class Finetune(Step):
    """Minimises the cross-entropy to the true labels on training pictures.

    Pruned weights stay zero. Weights on a grid are trained through the rounding with straight-through gradients
    (quantization-aware training, arXiv:1308.3432), on the scales of the step that made the grid. With
    `checkpoint_activations` only some activations are kept going forward, and the others computed again going backward:
    the same gradients for less memory and more time (Chen et al. 2016, arXiv:1604.06174): for the least memory, or for the least
    computing within `memory_limit`, in MB of 10⁶ bytes that autograd holds at a time for one batch.
    """

    name: ClassVar[str] = "finetune"
    title: ClassVar[str] = "Fine-tune"
    kind: ClassVar[str] = TRAIN
    reads: ClassVar[str] = "train"

    epochs: int = param(1, 1, 50, 1, help="Passes over the training pictures.")
    learning_rate: float = param(0.01, stops=RATES, help="Peak of the one-cycle learning rate.")
    images: int = param(4000, 100, 60000, 100, unit="pictures", help="Training pictures used, at most what the dataset has.")
    checkpoint_activations: bool = recomputing_param()
    memory_limit: float | None = memory_limit_param()


@fits(Finetune, where=limited)
def in_memory(step: Finetune, subject) -> None:
    """Raises `BadField` where the memory limit is less than training takes."""
    check_limit(step, subject, training_batch(subject.architecture.input_size))


@applies(Finetune)
def apply(step: Finetune, subject, context) -> None:
    from core.training import cross_entropy

    context.train(subject, step, cross_entropy())
