"""Ternary weights: −α, 0 or α."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from core.methods.apply import applies
from core.recipe import GRID, Step, layers_param, param, register

DELTA = 0.7  # of the mean |w|: near the best threshold for normal and uniform weights


@register
@dataclass(frozen=True)
class Ternarize(Step):
    """W ≈ α · t, t = sign(W) where |W| > Δ and 0 elsewhere; Δ = 0.7 · mean |W|, α = mean of the |W| above Δ.

    Both for each output channel (C, 1, 1, 1) or for the tensor; masked weights stay 0 and do not count. A training step that follows passes its
    gradients straight through, with Δ and α as they are. Li et al. 2016, arXiv:1605.04711. With binary activations the inputs of these layers are
    0 or a scale set from calibration pictures, as those of `binarize` are; training rounds them as well.
    """

    name: ClassVar[str] = "ternarize"
    title: ClassVar[str] = "Ternarize"
    kind: ClassVar[str] = GRID

    scaling: str = param("channel", choices=("channel", "tensor"), help="One scale for each output channel, or one for the layer.")
    layers: str = layers_param("inner")
    activations: bool = param(False, later=True, help="Let the inputs of these layers take two values only.")


@applies(Ternarize)
def apply(step: Ternarize, subject, context) -> None:
    import torch

    from core.arithmetic.grids import Signs, at_once
    from core.arithmetic.signs import binary_inputs
    from core.weights import Weight

    names = subject.chosen(step.layers)
    for name in names:
        with context.turn():
            value, mask = subject.value(name), subject.weights[name].mask
            several = at_once(value) if step.scaling == "channel" else len(value)
            masks = itertools.repeat(None) if mask is None else mask.split(several)
            found = [_fit(part, kept, step.scaling) for part, kept in zip(value.split(several), masks, strict=False)]
            threshold, scale = (torch.cat(each) for each in zip(*found, strict=True))
            subject.set(name, Weight(value, mask, Signs(torch.empty(0), scale, threshold, 2).round(value)))
    if step.activations:
        binary_inputs(subject, names, context)


def _fit(value, mask, scaling: str) -> tuple:
    """Δ and α of a weight (C, …), or of some of its outputs."""
    from core.arithmetic.grids import above
    from core.arithmetic.signs import means

    sizes, kept = value.abs(), None if mask is None else mask.float()
    threshold = DELTA * means(sizes, kept, scaling)
    large = above(sizes, threshold)
    return threshold, means(sizes, large if kept is None else large.mul_(kept), scaling)
