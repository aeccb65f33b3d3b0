"""Random pruning: the control that every criterion must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.arithmetic import pruning
from core.methods.apply import applies
from core.recipe import PRUNE, Step, layers_param, param, register


@register
@dataclass(frozen=True)
class RandomPrune(Step):
    """Sets weights to zero that are drawn uniformly by the recipe's seed, whatever they are worth.

    Each chosen weight has the score u ~ U(0, 1); of n weights, the round(sparsity · n) of the lowest u become zero, of all
    together (global) or of each layer alone. Weights that an earlier step pruned go first. Shapes do not change. It is what
    criteria are held against, as in Blalock et al. 2020, arXiv:2003.03033.
    """

    name: ClassVar[str] = "random_prune"
    title: ClassVar[str] = "Prune at random"
    kind: ClassVar[str] = PRUNE

    sparsity: float = param(0.8, 0.0, 0.99, 0.01, help="Share of the weights set to zero, whichever they are.", harder="up")
    scope: str = param("global", choices=("global", "layer"), help="Draw from the whole model, or the same share of each layer.")
    layers: str = layers_param()


@applies(RandomPrune)
def apply(step: RandomPrune, subject, context) -> None:
    import torch

    from core.weights import unflat

    generator = torch.Generator().manual_seed(context.seed)
    scores = {}
    for name in subject.chosen(step.layers):
        with context.turn():
            value = subject.value(name)
            scores[name] = unflat(torch.rand(value.numel(), generator=generator), value)
    with context.turn():
        pruning.drop_lowest(step, subject, scores, context)
