"""Binary weights: one bit each, with a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.methods.apply import applies
from core.recipe import GRID, Step, layers_param, param, register


@register
@dataclass(frozen=True)
class Binarize(Step):
    """W ≈ α · sign(W), with α = mean |W| of each output channel (C, 1, 1, 1) or of the tensor, which minimises the squared error.

    Masked weights stay 0 and do not count in α. Without training the accuracy is all but gone: follow it by `finetune` or `distill`, whose gradients
    pass straight through the sign. With binary activations the inputs of these layers take two values as well, 0 and a scale set from
    calibration pictures, since they come out of a ReLU; XNOR-Net's ±1 wants a network built for it. Rastegari et al. 2016,
    arXiv:1603.05279.
    """

    name: ClassVar[str] = "binarize"
    title: ClassVar[str] = "Binarize"
    kind: ClassVar[str] = GRID

    scaling: str = param("channel", choices=("channel", "tensor"), help="One scale for each output channel, or one for the layer.")
    activations: bool = param(False, help="Let the inputs of these layers take two values only.")
    layers: str = layers_param("inner")


@applies(Binarize)
def apply(step: Binarize, subject, context) -> None:
    import torch

    from core.arithmetic.grids import Signs
    from core.arithmetic.signs import binary_inputs, means
    from core.weights import Weight

    names = subject.chosen(step.layers)
    for name in names:
        with context.turn():
            value, mask = subject.value(name), subject.weights[name].mask
            scale = means(value.abs(), None if mask is None else mask.float(), step.scaling)
            subject.set(name, Weight(value, mask, Signs(torch.empty(0), scale, torch.zeros_like(scale), 1).round(value)))
    if step.activations:
        binary_inputs(subject, names, context)
