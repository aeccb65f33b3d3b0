"""Mixed precision: each layer has the bits that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.errors import BadField
from core.methods.apply import applies
from core.recipe import GRID, Step, layers_param, param, register

PREVIEW_SAMPLE = 1 << 13


@register
@dataclass(frozen=True)
class MixedPrecision(Step):
    """Gives each layer its own bits, so that the average over all weights is at most `average_bits`.

    For every layer l and candidate b, D(l, b) is how far the model's answers move when that layer alone is rounded: the mean over
    calibration pictures of KL(softmax(z) ‖ softmax(z_{l,b})). From the fewest bits for all, the layer is given more whose D falls most for each bit
    that its weights cost, while the budget lasts. Grids are symmetric, one scale a channel, clipped by squared error. After Dong et al.
    2020, arXiv:1911.03852, with measured sensitivities in place of the Hessian's trace.
    """

    name: ClassVar[str] = "mixed_precision"
    title: ClassVar[str] = "Mixed precision"
    kind: ClassVar[str] = GRID

    average_bits: float = param(4.0, 2.0, 8.0, 0.25, unit="bits", help="Bits of a weight on average, at most.", harder="down")
    candidates: str = param("2, 3, 4, 6, 8", choices=("2, 3, 4, 6, 8", "2, 4, 8", "4, 8"), unit="bits", help="The bits that a layer may have.")
    images: int = param(100, 20, 1000, 20, unit="pictures", help="Calibration pictures that the sensitivity is measured on.")
    layers: str = layers_param()

    def bits(self) -> list[int]:
        return [int(bits) for bits in self.candidates.split(",")]

    def check(self) -> None:
        if self.average_bits < self.bits()[0]:
            raise BadField("mixed_precision.average_bits", self.average_bits, f"at least {self.bits()[0]} bits, the fewest of the candidates {self.candidates}")


@applies(MixedPrecision)
def apply(step: MixedPrecision, subject, context) -> None:
    from core.weights import Weight

    names = subject.chosen(step.layers)
    values = {name: subject.value(name) for name in names}
    grids = {}
    for name in names:
        with context.turn():
            grids[name] = {bits: _grid(values[name], bits, context) for bits in step.bits()}
    lost = _proxy(values, grids) if context.images_at_most is not None else _sensitivity(step, subject, values, grids, context)
    chosen = allocate(lost, {name: value.numel() for name, value in values.items()}, step.average_bits)
    with context.turn():
        for name in names:
            subject.set(name, Weight(values[name], subject.weights[name].mask, grids[name][chosen[name]]))
    counted = {bits: sum(1 for name in names if chosen[name] == bits) for bits in step.bits()}
    subject.notes.append("mixed_precision gave " + ", ".join(f"{count} layers {bits} bits" for bits, count in counted.items() if count) + ".")


def _grid(value, bits: int, context):
    from core.arithmetic.grids import Uniform
    from core.arithmetic.ranges import fit
    from core.weights import rows

    scale, zero = fit(rows(value), bits, True, "mse", sample=None if context.images_at_most is None else PREVIEW_SAMPLE)
    shape = (-1,) + (1,) * (value.dim() - 1)
    return Uniform.of(value, scale.view(shape), zero.view(shape), bits, True)


def _proxy(values: dict, grids: dict) -> dict[str, dict[int, float]]:
    """For previews, which look at no pictures: the rounding error as a share of the layer's squares."""
    return {
        name: {bits: float((grid.value() - values[name]).square().sum() / values[name].square().sum().clamp(min=1e-30)) for bits, grid in of_layer.items()}
        for name, of_layer in grids.items()
    }


def _sensitivity(step: MixedPrecision, subject, values: dict, grids: dict, context) -> dict[str, dict[int, float]]:
    """D(l, b) of the docstring, in nats a picture."""
    import torch

    from core.weights import Weight

    pictures = list(context.calibration(step.images, 50))
    answers = _answers(subject.module, pictures, context)
    found: dict[str, dict[int, float]] = {}
    total, done = sum(len(of_layer) for of_layer in grids.values()), 0
    for name, of_layer in grids.items():
        before = subject.weights[name]
        found[name] = {}
        for bits, grid in of_layer.items():
            subject.set(name, Weight(values[name], before.mask, grid))
            moved = _answers(subject.module, pictures, context)
            found[name][bits] = float(torch.nn.functional.kl_div(moved, answers, reduction="batchmean", log_target=True))
            done += 1
            context.report({"fraction": done / total})
        subject.set(name, before)
    return found


def _answers(module, pictures: list, context):
    """log softmax of the logits (n, K)."""
    import torch

    rows = []
    with torch.no_grad():
        for x in pictures:
            with context.turn():
                rows.append(module(x).log_softmax(1))
    return torch.cat(rows)


def allocate(lost: dict[str, dict[int, float]], sizes: dict[str, int], average: float) -> dict[str, int]:
    """Bits of each layer: what is lost falls as fast as it can for the bits spent, and their average stays within `average`."""
    candidates = sorted(next(iter(lost.values())))
    chosen = dict.fromkeys(lost, candidates[0])
    left = average * sum(sizes.values()) - candidates[0] * sum(sizes.values())
    while True:
        best, gain = None, 0.0
        for name, bits in chosen.items():
            for more in candidates[candidates.index(bits) + 1 :]:
                cost = (more - bits) * sizes[name]
                saved = (lost[name][bits] - lost[name][more]) / cost
                if cost <= left + 1e-6 and saved > gain:
                    best, gain = (name, more, cost), saved
        if best is None:
            return chosen
        name, more, cost = best
        chosen[name] = more
        left -= cost
