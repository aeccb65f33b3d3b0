"""Uniform quantization of weights and, if asked for, of activations."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import ClassVar

from core.errors import BadRecipe
from core.methods.apply import applies, fits
from core.recipe import GRID, RANGE_PICTURES, Step, layers_param, param, register

PREVIEW_SAMPLE = 1 << 15  # values of a tensor that a preview looks at to choose where to clip


@register
@dataclass(frozen=True)
class Quantize(Step):
    """Rounds weights to a uniform grid: w ≈ (code − zero_point) · scale, codes of `weight_bits` bits.

    Symmetric grids have zero_point 0 and 2^b − 1 levels; others have 2^b levels and an integer zero point inside their
    range, so 0 stays exactly 0. One scale for the whole model, for each tensor, for each output channel (C, 1, 1, 1), or for
    every `group_size` consecutive inputs of each output (C, G). Activation grids have one scale a tensor: static ones are set from
    calibration pictures, dynamic ones by each picture's own values. Jacob et al. 2017, arXiv:1712.05877. Scales that are
    powers of two make it fixed point: w ≈ code · 2^−f (arXiv:1511.06393).

    - minmax: the range covers every weight; percentile: all but the outermost 0.1 %
    - mse, entropy: the range is shrunk to where the squared error, or the divergence of the histograms, is least
    """

    name: ClassVar[str] = "quantize"
    title: ClassVar[str] = "Quantize"
    kind: ClassVar[str] = GRID

    weight_bits: int = param(4, choices=(2, 3, 4, 5, 6, 7, 8, 16), unit="bits", help="Bits of each weight's code.", harder="down")
    activation_bits: int | None = param(
        None, choices=(4, 5, 6, 7, 8), optional=True, unit="bits", harder="down",
        help="Bits of the values between layers; 8, with 8-bit weights, runs as real int8.",
    )  # fmt: skip
    granularity: str = param("channel", choices=("model", "tensor", "channel", "group"), help="How many weights share one scale.")
    symmetric: bool = param(True, help="Centre the grid on zero; int8 kernels need this.")
    clipping: str = param(
        "minmax", choices=("minmax", "mse", "percentile", "entropy"), help="Cover every weight, or clip the range where least is lost, by this measure."
    )
    layers: str = layers_param()
    group_size: int = param(
        64, later=True, choices=(16, 32, 64, 128), unit="weights", harder="up",
        help="How many consecutive weights share a scale, where the granularity is group.",
    )  # fmt: skip
    scale: str = param(
        "free", later=True, choices=("free", "power_of_two"), help="Any scale, or powers of two only: fixed point, which multiplies by shifting."
    )
    parameters: str = param(
        "weights",
        later=True,
        choices=("weights", "weights_and_biases", "biases"),
        help="Round only the matrices and kernels, or every parameter, or what is left: biases and batch norms, which bear fewer bits less well.",
    )
    activation_scale: str = param(
        "static",
        later=True,
        choices=("static", "dynamic"),
        help="Ranges of the values between layers: set from calibration pictures, or by each picture itself.",
    )

    @property
    def called(self) -> str:
        return "Quantize biases" if self.parameters == "biases" else self.title

    @property
    def int8_weights(self) -> bool:
        """Whether integer kernels can run its weights: 8 bits, centred scales a channel or more."""
        return self.weight_bits == 8 and self.parameters != "biases" and self.symmetric and self.granularity != "group"

    @property
    def int8_values(self) -> bool:
        """Whether integer kernels can run its values between layers: 8 bits, ranges that are set beforehand."""
        return self.activation_bits == 8 and self.activation_scale == "static"

    @property
    def int8(self) -> bool:
        """Whether integer kernels can run all of it."""
        return self.int8_weights and self.int8_values

    @property
    def rounds_activations(self) -> bool:
        return self.activation_bits is not None

    @property
    def ranges_from(self) -> int:
        return 0 if self.activation_scale == "dynamic" else super().ranges_from

    @property
    def edition(self) -> str:
        """Rows of few weights were clipped by a histogram each once, and float32 values beside int8 ones were counted as of one byte."""
        by_entropy = "short rows alike" if self.clipping == "entropy" and self.parameters != "biases" else ""
        partly = "bytes of both types" if self.layers != "all" and self.weight_bits == self.activation_bits == 8 else ""
        return " and ".join(filter(None, (super().edition, by_entropy, partly)))

    def undone_by(self, later: Step) -> str:
        """A grid for the biases and one for the weights do not meet."""
        if isinstance(later, Quantize) and {self.parameters, later.parameters} == {"weights", "biases"}:
            twice = self.rounds_activations and later.rounds_activations
            return "that rounds the values between layers anew; set activation_bits in one of the two" if twice else ""
        return "" if self.parameters == "biases" and not isinstance(later, Quantize) else super().undone_by(later)


@fits(Quantize)
def quantized(step: Quantize, subject) -> dict:
    """Name → value of what the step puts on grids; raises `BadRecipe` when that is nothing."""
    names = subject.chosen(step.layers)
    values = {} if step.parameters == "biases" else {name: subject.value(name) for name in names}
    if step.parameters != "weights":
        values |= _others(subject, names)
    if not values:
        raise BadRecipe(f"quantize finds no biases or batch norms in layers {step.layers!r}; quantize the weights, or name other layers.")
    return values


@applies(Quantize)
def apply(step: Quantize, subject, context) -> None:
    from core.weights import Weight

    names, values = subject.chosen(step.layers), quantized(step, subject)
    sample = None if context.images_at_most is None else PREVIEW_SAMPLE
    masks = {name: subject.weights[name].mask for name in names}
    if step.granularity == "model":
        grids = _model_grids(values, step, sample, context.turn)
    else:
        grids = {name: _grid(value, step, sample, context.turn) for name, value in values.items()}
    for name, grid in grids.items():
        with context.turn():
            subject.set(name, Weight(values[name], masks.get(name), grid))
    if step.activation_bits is not None:
        _round_activations(step, subject, context)


def _others(subject, names: list[str]) -> dict:
    """The biases of the chosen layers, and the scales and shifts of batch norms where all layers are chosen."""
    from core.weights import weights_of

    own = {name for name, _parameter in weights_of(subject.module)}
    layers = {name.rpartition(".")[0] for name in names}
    whole = own == set(names)
    rest = [name for name, parameter in subject.module.named_parameters() if name not in own and parameter.numel()]
    return {name: subject.value(name) for name in rest if whole or name.rpartition(".")[0] in layers}


def _round_activations(step: Quantize, subject, context) -> None:
    """Grids for the values around every layer whose weights are on one. What an earlier step gave the values around other layers stays."""
    from core.arithmetic.activations import dynamic, inputs_of, observe, sites

    on_grids = {name for name, weight in subject.weights.items() if weight.grid is not None}
    mine = on_grids.intersection(subject.chosen(step.layers))
    around, before, rest = sites(subject.module, on_grids), subject.activations, on_grids - mine
    anew = set(around)
    if before and rest:
        beside = set(sites(subject.module, mine)).difference(sites(subject.module, rest))
        anew = beside.union(inputs_of(subject.module, mine)).difference(inputs_of(subject.module, rest))
    names = [name for name in around if name in anew or name not in before]
    if step.activation_scale == "dynamic":
        found = dynamic(subject.module, step.activation_bits, names)
    else:
        found = observe(subject.module, list(context.calibration(RANGE_PICTURES)), step.activation_bits, names, context.turn)
    subject.activations = {name: found.get(name, before.get(name)) for name in around}


def _grid(value, step: Quantize, sample: int | None = None, turn=contextlib.nullcontext):
    """value (C, …) → its grid with scales (C, 1, …), (1, 1, …) or (C, G); one scale where a row is a single number."""
    from core.weights import flat, rows

    apart = step.granularity in ("channel", "group") and value.dim() > 1 and value[0].numel() > 1
    if apart and step.granularity == "group":
        return _grouped(value, step, sample, turn)
    scale, zero = _fit(rows(value) if apart else flat(value).view(1, -1), step, sample, turn)
    shape = (-1,) + (1,) * (value.dim() - 1)
    return _on_grid(value, scale.view(shape), zero.view(shape), step, turn)


def _grouped(value, step: Quantize, sample: int | None, turn):
    """Scales (C, G), one for every `group_size` consecutive inputs; the last group of a row may be shorter."""
    import torch

    inputs = value.reshape(len(value), -1)  # (C, n)
    groups = -(-inputs.shape[1] // step.group_size)
    with turn():
        padded = torch.nn.functional.pad(inputs, (0, groups * step.group_size - inputs.shape[1]))  # zeros widen no range
    scale, zero = _fit(padded.view(-1, step.group_size), step, sample, turn)
    return _on_grid(value, scale.view(-1, groups), zero.view(-1, groups), step, turn, step.group_size)


def _model_grids(values: dict, step: Quantize, sample: int | None, turn) -> dict:
    """One scale for all weights together."""
    import torch

    from core.weights import flat

    with turn():
        together = torch.cat([flat(value) for value in values.values()])
    scale, zero = _fit(together.view(1, -1), step, sample, turn)
    return {name: _on_grid(value, scale.view((1,) * value.dim()), zero.view((1,) * value.dim()), step, turn) for name, value in values.items()}


def _fit(rows, step: Quantize, sample: int | None, turn):
    from core.arithmetic.ranges import fit

    return fit(rows, step.weight_bits, step.symmetric, step.clipping, step.scale == "power_of_two", sample, turn)


def _on_grid(value, scale, zero, step: Quantize, turn, group: int | None = None):
    from core.arithmetic.grids import Uniform

    with turn():
        return Uniform.of(value, scale, zero, step.weight_bits, step.symmetric, group)
