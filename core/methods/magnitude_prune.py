"""Magnitude pruning: the weights nearest to zero become zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.arithmetic import pruning
from core.methods.apply import applies, fits
from core.recipe import PRUNE, Step, layers_param, param, register

FORETOLD = 1 << 18  # weights that tell how large those are that a share leaves


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

    sparsity: float = param(0.8, 0.0, 0.99, 0.01, help="Share of the weights set to zero, smallest first.", harder="up")
    threshold: float | None = param(
        None, 0.0, 10.0, 0.001, optional=True, harder="up", help="Set to zero every weight whose absolute value is below this, instead of a share."
    )
    scope: str = param("global", choices=("global", "layer"), help="Compare weights over the whole model, or within each layer.")
    layers: str = layers_param()


@fits(MagnitudePrune)
def emptied(step: MagnitudePrune, subject) -> list[str]:
    """The weights that a threshold, or a share over the whole model, leaves nothing of, as they are now; with a note."""
    chosen = subject.chosen(step.layers)
    if step.threshold is not None:
        names = [name for name in chosen if float(subject.value(name).abs().max()) < step.threshold]
        unless = f"makes some larger than {step.threshold:g}"
    elif step.scope == "global" and step.sparsity > 0:
        masks = pruning.keep_largest([subject.value(name).abs() for name in chosen], step.sparsity, sample=FORETOLD)
        names = [name for name, mask in zip(chosen, masks, strict=True) if not mask.any()]
        unless = f"makes some as large as the {100 * (1 - step.sparsity):g} % that stay"
    else:
        return []
    if names:
        subject.notes.append(f"magnitude_prune sets every weight of {pruning.listed(names)} to zero, unless training {unless}.")
    return names


@applies(MagnitudePrune)
def apply(step: MagnitudePrune, subject, context) -> None:
    names = subject.chosen(step.layers)
    with context.turn():
        pruning.drop_lowest(step, subject, {name: subject.value(name).abs() for name in names}, context, step.threshold)
