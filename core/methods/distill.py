"""Distillation: trains what the recipe has made to answer like a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from core.errors import BadField
from core.hints import check as check_hints
from core.memory.limit import check_limit, limited, memory_limit_param, recomputing_param
from core.methods.apply import applies, fits, training_batch
from core.recipe import RATES, TRAIN, Step, param, register

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True)
class Distill(Step):
    """Trains on a teacher's answers: L = (1 − α) · CE(y, z_s) + α · T² · KL(softmax(z_t / T) ‖ softmax(z_s / T)).

    z_s, z_t: logits (B, K) of student and teacher, T the temperature. With hard targets the second term is the
    cross-entropy to the teacher's most probable label. The teacher is the uncompressed checkpoint itself, or another
    model's checkpoint on the same dataset. Hinton et al. 2015, arXiv:1503.02531.

    α is constant; or falls linearly, α · (1 − u / U) before update u = 0 … U − 1 of all U; or follows the teacher's confidence in
    each picture, α · max_k softmax(z_t)_k. Hints of weight β add β · mean((r(f_s) − f_t)²) over the batch and the features: f_s, f_t
    are what the classifiers of student and teacher read (averaged over positions where that is a map), r is the identity,
    or, where their widths differ, a linear regressor trained along and thrown away (FitNets, Romero et al. 2014,
    arXiv:1412.6550). A teacher's features are kept like its answers, up to a size in memory beyond which they are refused.
    """

    name: ClassVar[str] = "distill"
    title: ClassVar[str] = "Distill"
    kind: ClassVar[str] = TRAIN
    reads: ClassVar[str] = "train"

    teacher: str = param("self", help='"self" for the uncompressed model, or the name of a model with a checkpoint on this dataset.')
    temperature: float = param(4.0, 1.0, 20.0, 0.5, help="Softens the teacher's answers: higher shows more of what it finds similar.")
    alpha: float = param(0.9, 0.0, 1.0, 0.05, help="Weight of the teacher's answers against the true labels.")
    alpha_schedule: str = param(
        "constant", later=True, choices=("constant", "linear", "confidence"),
        help="Keep alpha, let it fall linearly to 0 by the end, or multiply it by the teacher's probability of its best label, picture by picture.",
    )  # fmt: skip
    targets: str = param("soft", choices=("soft", "hard"), help="Learn from the teacher's probabilities, or only from its best label.")
    hints: float = param(0.0, 0.0, 10.0, 0.1, later=True, help="Weight of the features before the classifier, to be like the teacher's; 0 leaves them out.")
    epochs: int = param(1, 1, 50, 1, help="Passes over the training pictures.")
    learning_rate: float = param(0.01, stops=RATES, help="Peak of the one-cycle learning rate.")
    images: int = param(4000, 100, 60000, 100, unit="pictures", help="Training pictures used, at most what the dataset has.")
    checkpoint_activations: bool = recomputing_param()
    memory_limit: float | None = memory_limit_param()

    def check(self) -> None:
        if self.teacher != "self":
            from core.zoo import models

            if self.teacher not in models():
                raise BadField("distill.teacher", self.teacher, '"self" or the name of a torchvision model that has a checkpoint')

    def check_teacher(self, teacher, dataset) -> None:
        """Raises `BadRecipe` when the hints would take too much memory."""
        if self.hints:
            check_hints(teacher, dataset(), self.images)


@fits(Distill, where=limited)
def in_memory(step: Distill, subject) -> None:
    """Raises `BadField` where the memory limit is less than training takes."""
    check_limit(step, subject, training_batch(subject.architecture.input_size))


@applies(Distill)
def apply(step: Distill, subject, context) -> None:
    features = context.teacher_features(step.teacher, step.images) if step.hints else None  # (2, n, W); first, since it may refuse
    answers = context.teacher_answers(step.teacher, step.images)  # (2, n, K): as they are, mirrored
    objective = Distillation(answers, step.temperature, step.alpha, step.targets, step.alpha_schedule)
    if features is None:
        context.train(subject, step, objective, objective.at)
    else:
        _train_with_hints(step, subject, context, objective, features)


def _train_with_hints(step: Distill, subject, context, objective: Distillation, features) -> None:
    import torch

    from core.training import classifier, features_read, penultimate

    layer = classifier(subject.module, subject.architecture.factors)
    own, wanted = features_read(layer), features.shape[2]
    regressor = None
    if own != wanted:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            regressor = torch.nn.Linear(own, wanted)
    with penultimate(layer) as seen:
        context.train(subject, step, hinted(objective, seen, features, step.hints, regressor), objective.at, regressor)


@dataclass
class Distillation:
    """The objective over `answers` (2, n, K): the teacher's logits for each picture as it is and mirrored."""

    answers: Tensor
    temperature: float
    alpha: float
    targets: str = "soft"
    schedule: str = "constant"
    done: float = 0.0

    def at(self, done: float) -> None:
        """Be told which share of the training is done."""
        self.done = done

    def __call__(self, logits, labels, numbers, mirrored):
        import torch.nn.functional as F

        teacher = self.answers[mirrored.long(), numbers]  # (B, K)
        each = self.schedule == "confidence"  # picture by picture: (B,), else a mean
        if self.targets == "hard":
            taught = F.cross_entropy(logits, teacher.argmax(1), reduction="none" if each else "mean")
        else:
            softened = F.log_softmax(logits / self.temperature, 1), F.log_softmax(teacher / self.temperature, 1)
            taught = self.temperature**2 * F.kl_div(*softened, reduction="none" if each else "batchmean", log_target=True)
            taught = taught.sum(1) if each else taught
        own = F.cross_entropy(logits, labels, reduction="none" if each else "mean")
        alpha = self._alpha(teacher)
        return ((1 - alpha) * own + alpha * taught).mean()

    def _alpha(self, teacher):
        if self.schedule == "linear":
            return self.alpha * (1 - self.done)
        return self.alpha * teacher.softmax(1).amax(1) if self.schedule == "confidence" else self.alpha


def hinted(objective, seen: list, features, weight: float, regressor=None):
    """`objective`, and the mean squared error of what the student's classifier has just read, `seen[0]` (B, w), to the teacher's `features` (2, n, W)."""
    import torch.nn.functional as F

    def both(logits, labels, numbers, mirrored):
        own = seen.pop() if regressor is None else regressor(seen.pop())
        return objective(logits, labels, numbers, mirrored) + weight * F.mse_loss(own, features[mirrored.long(), numbers])

    return both
