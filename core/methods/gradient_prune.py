"""Gradient pruning: the weights that the loss feels least become zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.arithmetic import pruning
from core.methods.apply import applies
from core.recipe import PRUNE, Step, layers_param, param, register

BATCH = 32  # pictures; what taylor takes its absolute values over
LIMITS = (0.0, *(float(f"{digit}e{power}") for power in range(-10, 1) for digit in (1, 2, 5)), 10.0)  # scores of one network span eight decades


@register
@dataclass(frozen=True)
class GradientPrune(Step):
    """Sets the weights of the lowest score to zero: of all chosen weights together (global), or of each layer alone.

    L is the mean cross-entropy on n calibration pictures, L_b that on the n_b pictures of one batch of 32, so that
    dL/dw = Σ_b n_b/n · dL_b/dw. The score of a weight w is

    - gradient: |dL/dw|, how steeply the loss changes with it, in nats for each unit of the weight
    - taylor: Σ_b n_b/n · |w · dL_b/dw|: to first order how much the loss of a batch changes when w becomes zero, in nats
      (Molchanov et al. 2016, arXiv:1611.06440)
    - snip: |w · dL/dw|, of one gradient over all pictures, as a share of its sum over the chosen weights, which make 1 (Lee et al.
      2018, arXiv:1810.02340)

    With n chosen weights, round(sparsity · n) become zero; with a threshold, all whose score is below it, in either scope.
    Weights that an earlier step pruned go first. Shapes do not change.
    """

    name: ClassVar[str] = "gradient_prune"
    title: ClassVar[str] = "Prune by gradient"
    kind: ClassVar[str] = PRUNE
    goes_by: ClassVar[str] = "score"
    looks: ClassVar[int] = 3  # forwards and backwards

    sparsity: float = param(0.8, 0.0, 0.99, 0.01, help="Share of the weights set to zero, those of the lowest score first.", harder="up")
    threshold: float | None = param(
        None, stops=LIMITS, optional=True, harder="up",
        help="Set to zero every weight whose score is below this, instead of a share: loss by taylor, loss for each unit of the weight by gradient, "
        "a share of all scores by snip. Most lie between 1e-9 and 1e-2.",
    )  # fmt: skip
    score: str = param("taylor", choices=("taylor", "snip", "gradient"), help="What makes a weight worth keeping: its effect on the loss, or the slope alone.")
    scope: str = param("global", choices=("global", "layer"), help="Compare weights over the whole model, or within each layer.")
    images: int = param(256, 32, 2000, 32, unit="pictures", help="Labelled calibration pictures that the loss is taken on.")
    layers: str = layers_param()

    @property
    def edition(self) -> str:
        """Thresholds were multiples of the mean score once."""
        return "" if self.threshold is None else "absolute threshold"


@applies(GradientPrune)
def apply(step: GradientPrune, subject, context) -> None:
    names = subject.chosen(step.layers)
    count = pruning.pictures(context, step.images)
    kind = "slopes of batches" if step.score == "taylor" else "slope"
    slopes = pruning.remembered(
        (kind, count, *names), subject, context, lambda: measure(subject.module, names, context, count, batchwise=step.score == "taylor")
    )
    with context.turn():
        scores = _scores(step, {name: (subject.value(name), slope) for name, slope in zip(names, slopes, strict=True)})
        pruning.drop_lowest(step, subject, scores, context, step.threshold)


def measure(module, names: list[str], context, count: int, batchwise: bool) -> list:
    """|dL/dw| of each weight, on the first `count` calibration pictures; `batchwise`, Σ_b n_b/n · |dL_b/dw|."""
    import torch
    from torch.nn.functional import cross_entropy

    parameters = [module.get_parameter(name) for name in names]
    totals = [torch.zeros_like(parameter, requires_grad=False) for parameter in parameters]
    seen = 0
    for x, labels in context.dataset.batches("calibration", context.input_size, BATCH, count):
        with context.turn(), torch.enable_grad():
            slopes = torch.autograd.grad(cross_entropy(module(x), labels), parameters)
            for total, slope in zip(totals, slopes, strict=True):
                total.add_(slope.abs_() if batchwise else slope, alpha=len(labels) / count)
        seen += len(labels)
        context.report({"fraction": seen / count})
    return totals if batchwise else [total.abs_() for total in totals]


def _scores(step: GradientPrune, pairs: dict) -> dict:
    """Weights and their slopes by name → scores by name."""
    scores = {name: slope if step.score == "gradient" else value.abs() * slope for name, (value, slope) in pairs.items()}
    whole = sum(float(score.sum()) for score in scores.values()) if step.score == "snip" else 0.0
    return {name: score / whole for name, score in scores.items()} if whole > 0 else scores
