"""Magnitude pruning: the weights nearest to zero become zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from core.methods.apply import applies
from core.recipe import PRUNE, Step, layers_param, param, register

PREVIEW_SAMPLE = 1 << 17  # scores that a preview looks at to find the limit


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

    sparsity: float = param(0.8, 0.0, 0.99, 0.01, help="Share of the weights set to zero, smallest first.")
    threshold: float | None = param(
        None, 0.0, 10.0, 0.001, optional=True, help="Set to zero every weight whose absolute value is below this, instead of a share."
    )
    scope: str = param("global", choices=("global", "layer"), help="Compare weights over the whole model, or within each layer.")
    layers: str = layers_param()


@applies(MagnitudePrune)
def apply(step: MagnitudePrune, subject, context) -> None:
    names = subject.chosen(step.layers)
    sample = None if context.images_at_most is None else PREVIEW_SAMPLE
    with context.turn():
        sizes = {name: subject.value(name).abs() for name in names}
        if step.threshold is not None:
            kept = {name: size >= step.threshold for name, size in sizes.items()}
        elif step.scope == "layer":
            kept = {name: keep_largest([size], step.sparsity, sample)[0] for name, size in sizes.items()}
        else:
            kept = dict(zip(names, keep_largest(list(sizes.values()), step.sparsity, sample)))
        for name in names:
            subject.set(name, subject.weights[name].pruned(kept[name]))


def keep_largest(scores: list, sparsity: float, sample: int | None = None) -> list:
    """Masks (bool, shapes of `scores`) that drop exactly round(sparsity · n) of the n scores, the smallest.

    Among equal scores those that lie earlier in memory are dropped first, so the result does not depend on the sort.
    With `sample`, the limit is that of about so many evenly spaced scores, so the number dropped is nearly right.
    """
    import torch

    from core.weights import flat, unflat

    row = torch.cat([flat(score) for score in scores]).numpy()  # (n,)
    if sample is not None and row.size > 2 * sample:
        few = row[:: row.size // sample]
        limit = np.partition(few, round(sparsity * (few.size - 1)))[round(sparsity * (few.size - 1))]
        return [score >= float(limit) for score in scores]
    drop = round(sparsity * row.size)
    if drop == 0:
        return [torch.ones_like(score, dtype=torch.bool) for score in scores]
    limit = np.partition(row, drop - 1)[drop - 1]
    keep = row > limit
    surplus = row.size - drop - int(np.count_nonzero(keep))  # scores equal to the limit that stay
    if surplus:
        keep[np.flatnonzero(row == limit)[-surplus:]] = True
    sizes = [score.numel() for score in scores]
    return [unflat(part, score) for part, score in zip(torch.from_numpy(keep).split(sizes), scores)]
