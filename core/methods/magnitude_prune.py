"""Magnitude pruning: the weights nearest to zero become zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.arithmetic import pruning
from core.methods.apply import applies
from core.recipe import PRUNE, Step, layers_param, param, register


@register
@dataclass(frozen=True)
class MagnitudePrune(Step):
    """Sets the smallest |w| to zero: of all chosen weights together (global), or of each layer alone.

    With n chosen weights, round(sparsity · n) become zero; with a threshold, all |w| < threshold. Weights that an
    earlier step pruned count among the smallest. Shapes do not change. Han et al. 2015, arXiv:1506.02626.
    """

    name: ClassVar[str] = "magnitude_prune"
    title: ClassVar[str] = "Prune weights"
    kind: ClassVar[str] = PRUNE
    goes_by: ClassVar[str] = "absolute value"

    sparsity: float = param(0.8, 0.0, 0.99, 0.01, help="Share of the weights set to zero, smallest first.", harder="up")
    threshold: float | None = param(
        None, 0.0, 10.0, 0.001, optional=True, harder="up", help="Set to zero every weight whose absolute value is below this, instead of a share."
    )
    scope: str = param("global", choices=("global", "layer"), help="Compare weights over the whole model, or within each layer.")
    layers: str = layers_param()


@applies(MagnitudePrune)
def apply(step: MagnitudePrune, subject, context) -> None:
    names = subject.chosen(step.layers)
    with context.turn():
        pruning.drop_lowest(step, subject, {name: subject.value(name).abs() for name in names}, context, step.threshold)
