"""Uniform quantization of weights and, if asked for, of activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.methods.apply import applies
from core.recipe import GRID, Step, layers_param, param, register

PREVIEW_SAMPLE = 1 << 15  # values of a tensor that a preview looks at to choose where to clip, among every third range
SHRINK = tuple(1 - 0.05 * step for step in range(15))  # 1.00 … 0.30 of the full range, tried when clipping by error


@register
@dataclass(frozen=True)
class Quantize(Step):
    """Rounds weights to a uniform grid: w ≈ (code − zero_point) · scale, codes of `weight_bits` bits.

    Symmetric grids have zero_point 0 and 2^b − 1 levels; others have 2^b levels and an integer zero point inside their
    range, so 0 stays exactly 0. One scale for the whole model, for each tensor, or for each output channel
    (C, 1, 1, 1). `mse` clipping shrinks a range to where the squared error is least. Activation grids have one scale a
    tensor and are set from calibration pictures. Jacob et al. 2017, arXiv:1712.05877.
    """

    name: ClassVar[str] = "quantize"
    title: ClassVar[str] = "Quantize"
    kind: ClassVar[str] = GRID

    weight_bits: int = param(4, choices=(2, 3, 4, 5, 6, 7, 8, 16), unit="bits", help="Bits of each weight's code.")
    activation_bits: int | None = param(
        None, choices=(4, 5, 6, 7, 8), optional=True, unit="bits", help="Bits of the values between layers; 8, with 8-bit weights, runs as real int8."
    )
    granularity: str = param("channel", choices=("model", "tensor", "channel"), help="How many weights share one scale.")
    symmetric: bool = param(True, help="Centre the grid on zero; int8 kernels need this.")
    clipping: str = param("minmax", choices=("minmax", "mse"), help="Cover every weight, or clip the range where the rounding error is least.")
    layers: str = layers_param()


@applies(Quantize)
def apply(step: Quantize, subject, context) -> None:
    from core.weights import Weight

    names = subject.chosen(step.layers)
    with context.turn():
        values = {name: subject.value(name) for name in names}
        sample = None if context.images_at_most is None else PREVIEW_SAMPLE
        if step.granularity == "model":
            grids = _model_grids(values, step, sample)
        else:
            grids = {name: _grid(value, step, sample) for name, value in values.items()}
        for name, grid in grids.items():
            subject.set(name, Weight(values[name], subject.weights[name].mask, grid))
    if step.activation_bits is not None:
        from core.activations import observe, sites

        on_grids = {name for name, weight in subject.weights.items() if weight.grid is not None}
        around = sites(subject.module, on_grids)
        subject.activations = observe(subject.module, list(context.calibration(500)), step.activation_bits, around, context.turn)


def _grid(value, step: Quantize, sample: int | None = None):
    """value (C, …) → its grid with scales (C, 1, …) or (1, 1, …)."""
    from core.weights import flat, rows

    scale, zero = _fit(rows(value) if step.granularity == "channel" else flat(value).view(1, -1), step, sample)
    shape = (-1,) + (1,) * (value.dim() - 1)
    return _on_grid(value, scale.view(shape), zero.view(shape), step)


def _model_grids(values: dict, step: Quantize, sample: int | None = None) -> dict:
    """One scale for all weights together."""
    import torch

    from core.weights import flat

    scale, zero = _fit(torch.cat([flat(value) for value in values.values()]).view(1, -1), step, sample)
    return {name: _on_grid(value, scale.view((1,) * value.dim()), zero.view((1,) * value.dim()), step) for name, value in values.items()}


def _fit(rows, step: Quantize, sample: int | None = None):
    """rows (R, n) → scale (R,) float32 and zero point (R,) int16 that cover each row, or clip it where the error is least.

    With `sample`, the error is taken over about so many evenly spaced values instead of all, and fewer ranges are tried.
    """
    import torch

    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)  # (R,)
    if step.symmetric:
        high = torch.maximum(high, -low)
        low = -high
    best = _scale(low, high, step)
    if step.clipping == "minmax":
        return best
    if sample is not None:
        rows = rows[:, :: max(1, rows.numel() // sample)].contiguous()
    least = _error(rows, *best, step)
    for shrink in SHRINK[1:] if sample is None else SHRINK[3::3]:
        tried = _scale(low * shrink, high * shrink, step)
        error = _error(rows, *tried, step)
        better = error < least
        least = torch.where(better, error, least)
        best = (torch.where(better, tried[0], best[0]), torch.where(better, tried[1], best[1]))
    return best


def _scale(low, high, step: Quantize):
    """The scale and zero point whose grid spans [low, high] (R,); 1 and 0 where a row is all zero."""
    import torch

    levels = 2**step.weight_bits - (2 if step.symmetric else 1)
    scale = (high - low) / levels
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    if step.symmetric:
        return scale, torch.zeros_like(scale, dtype=torch.int16)
    least = -(2 ** (step.weight_bits - 1))
    zero = torch.round(least - low / scale).clamp(least, -least - 1)
    return scale, zero.to(torch.int16)


def _error(rows, scale, zero, step: Quantize):
    """Squared rounding error of each row (R,)."""
    low, high = _range(step)
    scale, zero = scale[:, None], zero[:, None].float()
    return ((rows / scale).round_().clamp_(low - zero, high - zero).mul_(scale).sub_(rows)).square_().sum(1)


def _on_grid(value, scale, zero, step: Quantize):
    import torch

    from core.weights import Grid

    empty = torch.empty(0, dtype=torch.int16)
    return Grid(empty, scale, zero, step.weight_bits, step.symmetric).round(value)


def _range(step: Quantize) -> tuple[int, int]:
    half = 2 ** (step.weight_bits - 1)
    return -half + (1 if step.symmetric else 0), half - 1
