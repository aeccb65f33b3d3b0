"""Adaptive rounding: which weights to round up and which down, so that each layer's outputs change least."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from core.methods.apply import applies
from core.recipe import REPAIR, TRAIN, Step, param, register

STRETCH_LOW, STRETCH_HIGH = -0.1, 1.1  # of the sigmoid, so that it can reach 0 and 1
RATE = 0.1  # with it and λ, a few hundred updates come nearest to the best roundings of small layers, found by trying all
PICTURES_A_STEP = 32
TOWARDS_WHOLE = 10.0  # weight λ of the term that drives roundings to 0 or 1
UNIFORM = ("quantize", "mixed_precision")  # the steps that make uniform grids
WARM_UP = 0.2  # share of the iterations without that term


@register
@dataclass(frozen=True)
class RoundAdaptively(Step):
    """Chooses for every code of a uniform grid between its two neighbours: W̃ = s · clip(⌊W/s⌋ + h(V)), h(V) in [0, 1].

    Layer by layer, V minimises the mean of ((W̃ − W) ∗ x)² + λ Σ (1 − |2h(V) − 1|^β), where x is what the layer reads in the compressed model
    on calibration pictures and β falls from 20 to 2; h is a sigmoid stretched to −0.1 … 1.1 and clipped. A layer whose result is not better than
    rounding to nearest keeps that. Scales stay. Nagel et al. 2020, arXiv:2004.10568.
    """

    name: ClassVar[str] = "round_adaptively"
    title: ClassVar[str] = "Round adaptively"
    kind: ClassVar[str] = REPAIR

    images: int = param(200, 50, 1000, 50, unit="pictures", help="Calibration pictures whose values between layers are reproduced.")
    iterations: int = param(200, 20, 2000, 20, unit="updates", help="Updates of the roundings of each layer.")

    @property
    def edition(self) -> str:
        """Roundings were learned more slowly once, and driven to 0 or 1 less."""
        return "driven"

    def undone_by(self, later: Step) -> str:
        if not (later.grids_weights or later.kind == TRAIN):
            return ""
        return f"{later.name} rounds the weights to nearest again; put {self.name} after {later.name}"

    def idle(self, before: tuple[Step, ...], facts: Mapping) -> str:
        uniform = any(step.name in UNIFORM and step.grids_weights for step in before)
        return "" if uniform else "no step before it puts weights on a uniform grid"


@applies(RoundAdaptively)
def apply(step: RoundAdaptively, subject, context) -> None:
    import torch

    from core.arithmetic.grids import Uniform
    from core.arithmetic.pruning import listed

    names = [name for name, weight in subject.weights.items() if isinstance(weight.grid, Uniform) and _call(subject, name) is not None]
    if not names:
        subject.notes.append("round_adaptively changes nothing, because no step before it puts weights on a uniform grid.")
        return
    if context.images_at_most is not None:
        return  # it takes a while; a preview shows the rounding to nearest
    pictures = torch.cat(list(context.calibration(step.images)))
    generator = torch.Generator().manual_seed(context.seed)
    better, unseen = 0, []
    for number, name in enumerate(names):
        inputs = _inputs(subject.module, name.rpartition(".")[0], pictures, context)
        if inputs is None:
            unseen.append(name)
            continue
        weight = _rounded(step, subject.weights[name], _call(subject, name), inputs, generator, context)
        if weight is not None:
            subject.set(name, weight)
            better += 1
        context.report({"fraction": (number + 1) / len(names)})
    subject.notes.append(f"round_adaptively improved {better} of {len(names)} layers over rounding to nearest.")
    if unseen:
        subject.notes.append(f"round_adaptively left {listed(unseen)} rounded to nearest, because attention runs their weights itself and shows no inputs.")


def _call(subject, name: str):
    """The layer as a function of its input and of a weight, without bias; None for what is no convolution or linear layer."""
    from torch import nn
    from torch.nn import functional as F

    path, _, kind = name.rpartition(".")
    layer = subject.module.get_submodule(path)
    if kind != "weight":
        return None
    if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
        return lambda x, weight: F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.linear if isinstance(layer, nn.Linear) else None


def _inputs(module, path: str, pictures, context):
    """What a layer reads (n, …), for all pictures; the pass ends there. None where the layer is not run as a module."""
    import torch

    class Enough(Exception):
        pass

    seen = []

    def keep(_layer, inputs):
        seen.append(inputs[0].detach())
        raise Enough

    hook = module.get_submodule(path).register_forward_pre_hook(keep)
    try:
        for batch in pictures.split(50):
            with context.turn(), torch.no_grad(), contextlib.suppress(Enough):
                module(batch)
            if not seen:
                return None
    finally:
        hook.remove()
    return torch.cat(seen)


def _rounded(step: RoundAdaptively, weight, call, inputs, generator, context):
    """The weight with its roundings learned, or None where that is no better than what it is."""
    from dataclasses import replace

    import torch

    grid = weight.grid
    scale, zero = grid.spread(grid.scale, weight.latent), grid.spread(grid.zero_point, weight.latent).float()
    mask = torch.ones(()) if weight.mask is None else weight.mask.float()
    exact = weight.latent * mask
    low = (weight.latent / scale + zero).floor().clamp(grid.low, grid.high - 1)
    share = (weight.latent / scale + zero - low).clamp(0.01, 0.99)
    learned = torch.logit((share - STRETCH_LOW) / (STRETCH_HIGH - STRETCH_LOW)).requires_grad_()
    optimizer = torch.optim.Adam([learned], lr=RATE)
    up = lambda: (torch.sigmoid(learned) * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW).clamp(0, 1)
    size = None
    for iteration in range(step.iterations):
        progress = iteration / step.iterations
        few = inputs[torch.randint(len(inputs), (PICTURES_A_STEP,), generator=generator)]
        with context.turn(), torch.enable_grad():
            rounding = up()
            lost = call(few, ((low + rounding - zero) * scale * mask) - exact).square().mean()
            if size is None:  # what is lost is counted in what rounding to nearest loses
                size = call(few, weight.value() - exact).square().mean().detach().clamp(min=1e-20)
            loss = lost / size
            if progress > WARM_UP:
                beta = 2 + 18 * (1 - (progress - WARM_UP) / (1 - WARM_UP))
                loss = loss + TOWARDS_WHOLE * (1 - (2 * rounding - 1).abs().pow(beta)).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    with context.turn(), torch.no_grad():
        found = replace(weight, grid=replace(grid, codes=(low + (up() >= 0.5)).clamp(grid.low, grid.high).to(torch.int16)))
        before, after = (call(inputs[:200], state.value() - exact).square().mean() for state in (weight, found))
    return found if after < before else None
