"""Bias correction: takes away the mean error that rounded weights cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from core.methods.apply import applies
from core.recipe import GRID, REPAIR, Step, param, register


@register
@dataclass(frozen=True)
class CorrectBias(Step):
    """Subtracts from each output channel the mean that the error of its weights adds: b ← b − mean(ε ∗ E[x]), ε = w_rounded − w.

    E[x] (I, H, W) is the mean over calibration pictures of what the layer reads in the model before rounding, with its border; the
    mean outside is over positions. Once the layers before it are corrected, the rounded model reads the same on average. Where a
    batch norm follows instead of a bias, its running mean takes the correction. Only layers whose weight is on a grid are touched.
    Goes right behind the grid: training and re-estimated batch norms have made up for that mean already. Nagel et al. 2019, arXiv:1906.04721, section 4.2.
    """

    name: ClassVar[str] = "correct_bias"
    title: ClassVar[str] = "Correct biases"
    kind: ClassVar[str] = REPAIR
    behind_grid: ClassVar[bool] = True
    makes_up: ClassVar[bool] = True

    images: int = param(500, 50, 2000, 50, unit="pictures", help="Calibration pictures that the means are taken over.")

    def undone_by(self, later: Step) -> str:
        if later.kind == GRID:
            return f"{later.name} makes errors of its own; put {self.name} after {later.name}"
        if later.name == "calibrate_batchnorm":
            return f"{later.name} takes the means of batch norms anew, which hold the correction; leave one of the two out"
        return ""

    def idle(self, before: tuple[Step, ...], facts: Mapping) -> str:
        return "" if any(step.grids_weights for step in before) else "no step before it puts weights on a grid"


@applies(CorrectBias)
def apply(step: CorrectBias, subject, context) -> None:
    import torch

    from core.arithmetic.folding import layer_of, pairs, trace
    from core.weights import Weight, clone

    rounded = {name.rpartition(".")[0]: weight for name, weight in subject.weights.items() if weight.grid is not None and _touches(subject, name)}
    if not rounded:
        subject.notes.append("correct_bias changes nothing, because no step before it puts weights on a grid.")
        return
    graph = trace(subject.module)
    norms = {convolution.target: layer_of(norm, subject.module) for convolution, norm in pairs(subject.module, graph)}
    with context.turn():
        before = clone(subject.module)
        exact = {path: weight.latent if weight.mask is None else weight.latent * weight.mask for path, weight in rounded.items()}
        for path, value in exact.items():
            before.get_parameter(f"{path}.weight").data = value
    means = _input_means(before, list(rounded), step.images, context)
    with context.turn(), torch.no_grad():
        for path in [path for path in rounded if path in means]:
            layer = subject.module.get_submodule(path)
            error = subject.value(f"{path}.weight") - exact[path]
            shift = _answer(layer, means[path], error)  # (O,)
            if f"{path}.bias" in subject.weights:
                subject.set(f"{path}.bias", Weight(layer.bias.detach() - shift))
            elif layer.bias is not None:
                layer.bias.data = layer.bias.detach() - shift
            elif path in norms:
                norms[path].running_mean.add_(shift)


def _touches(subject, name: str) -> bool:
    """Whether a weight belongs to a convolution or a linear layer."""
    from torch import nn

    path, _, kind = name.rpartition(".")
    return kind == "weight" and isinstance(subject.module.get_submodule(path), (nn.Conv2d, nn.Linear))


def _answer(layer, x, weight):
    """What a layer of this weight and without bias makes of x (I, H, W) or (I,): the mean (O,) over positions."""
    from torch import nn
    from torch.nn import functional as F

    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    return F.conv2d(x[None], weight, None, layer.stride, layer.padding, layer.dilation, layer.groups).mean((0, 2, 3))


def _input_means(module, paths: list[str], images: int, context) -> dict:
    """The mean of each layer's input over pictures: (I, H, W) of a convolution, and over positions too of a linear layer: (I,)."""
    import torch
    from torch import nn

    from core.weights import sum_of_pictures

    sums, seen = {}, {}

    def watch(path):
        def hook(layer, inputs):
            x = inputs[0].detach()
            x = x if isinstance(layer, nn.Conv2d) else x.reshape(-1, x.shape[-1])
            sums[path] = sums.get(path, 0) + sum_of_pictures(x)
            seen[path] = seen.get(path, 0) + len(x)

        return hook

    hooks = [module.get_submodule(path).register_forward_pre_hook(watch(path)) for path in paths]
    try:
        with torch.no_grad():
            for x in context.calibration(images, 100):
                with context.turn():
                    module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {path: sums[path] / seen[path] for path in paths if path in sums}
