"""Distillation: trains what the recipe has made to answer like a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.errors import BadField
from core.methods.apply import applies
from core.recipe import TRAIN, Step, param, register


@register
@dataclass(frozen=True)
class Distill(Step):
    """Trains on a teacher's answers: L = (1 − α) · CE(y, z_s) + α · T² · KL(softmax(z_t / T) ‖ softmax(z_s / T)).

    z_s, z_t: logits (B, K) of student and teacher, T the temperature. With hard targets the second term is the
    cross-entropy to the teacher's most probable label. The teacher is the uncompressed checkpoint itself, or another
    model's checkpoint on the same dataset. Hinton et al. 2015, arXiv:1503.02531.
    """

    name: ClassVar[str] = "distill"
    title: ClassVar[str] = "Distill"
    kind: ClassVar[str] = TRAIN

    teacher: str = param("self", help='"self" for the uncompressed model, or the name of a model with a checkpoint on this dataset.')
    temperature: float = param(4.0, 1.0, 20.0, 0.5, help="Softens the teacher's answers: higher shows more of what it finds similar.")
    alpha: float = param(0.9, 0.0, 1.0, 0.05, help="Weight of the teacher's answers against the true labels.")
    targets: str = param("soft", choices=("soft", "hard"), help="Learn from the teacher's probabilities, or only from its best label.")
    epochs: int = param(1, 1, 50, 1, help="Passes over the training pictures.")
    learning_rate: float = param(0.01, 0.0001, 0.2, 0.0001, help="Peak of the one-cycle learning rate.")
    images: int = param(4000, 100, 60000, 100, unit="pictures", help="Training pictures used, at most what the dataset has.")

    def check(self) -> None:
        if self.teacher != "self":
            from core.zoo import models

            if self.teacher not in models():
                raise BadField("distill.teacher", self.teacher, '"self" or the name of a torchvision model that has a checkpoint')


@applies(Distill)
def apply(step: Distill, subject, context) -> None:
    answers = context.teacher_answers(step.teacher, step.images)  # (2, n, K): as they are, mirrored
    context.train(subject, step, distillation(answers, step.temperature, step.alpha, step.targets))


def distillation(answers, temperature: float, alpha: float, targets: str):
    """The objective over `answers` (2, n, K): the teacher's logits for each picture as it is and mirrored."""
    import torch.nn.functional as F

    def objective(logits, labels, numbers, mirrored):
        teacher = answers[mirrored.long(), numbers]  # (B, K)
        if targets == "hard":
            taught = F.cross_entropy(logits, teacher.argmax(1))
        else:
            taught = temperature**2 * F.kl_div(
                F.log_softmax(logits / temperature, 1), F.log_softmax(teacher / temperature, 1), reduction="batchmean", log_target=True
            )
        return (1 - alpha) * F.cross_entropy(logits, labels) + alpha * taught

    return objective
