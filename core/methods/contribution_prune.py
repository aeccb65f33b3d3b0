"""Contribution pruning, the oracle: remove each unit, look what that does to accuracy, and let the cheapest go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.arithmetic import pruning
from core.methods.apply import applies
from core.recipe import PRUNE, Step, choose, layers_param, param, register

MOST_UNITS = 256  # evaluations of a run
PREVIEW_UNITS, PREVIEW_IMAGES = 32, 16
BATCH = 64  # pictures


@register
@dataclass(frozen=True)
class ContributionPrune(Step):
    """Sets those filters to zero whose removal costs the least accuracy, as measured by removing them one unit at a time.

    The cost of a unit U is top1(w) − top1(w with w_U = 0) on calibration pictures; of equal costs that with the smaller
    cross-entropy without U goes first. Units leave in this order, ranked once, while at most round(sparsity · n) of their layers' n
    weights are zero, of all layers together (global) or of each alone. With a threshold, all leave that cost less alone. The oracle of Molchanov et al. 2016,
    arXiv:1611.06440, by accuracy.

    A unit is k filters of one layer with neighbouring Σ|w|, at most half of the layer. k is the least number for which there
    are at most 256 units, or two a layer where that is more; each is one evaluation. Biases stay, and so does the classifier. What an
    earlier step pruned goes first. Shapes do not change. A preview has at most 32 units, or two a layer, and 16 pictures.
    """

    name: ClassVar[str] = "contribution_prune"
    title: ClassVar[str] = "Prune by contribution"
    kind: ClassVar[str] = PRUNE
    looks: ClassVar[int] = MOST_UNITS
    takes_filters: ClassVar[bool] = True

    sparsity: float = param(
        0.3, 0.0, 0.99, 0.01, help="Share of the weights set to zero, in whole filters, those that accuracy misses least first.", harder="up"
    )
    images: int = param(256, 32, 2000, 32, unit="pictures", help="Labelled calibration pictures of each of up to 256 evaluations.")
    layers: str = layers_param()
    threshold: float | None = param(
        None, -10.0, 100.0, 0.1, later=True, optional=True, unit="points", harder="up",
        help="Set to zero every unit whose removal alone costs fewer points of top-1 than this, on the calibration pictures, instead of a share.",
    )  # fmt: skip
    scope: str = param("global", choices=("global", "layer"), later=True, help="Compare units over the whole model, or within each layer.")

    def undone_by(self, later: Step) -> str:
        return ""  # whole filters stay zero in factors, too

    def check_layers(self, names: list[str]) -> None:
        pruning.filter_layers(self, choose(names, self.layers), names[-1])


@applies(ContributionPrune)
def apply(step: ContributionPrune, subject, context) -> None:
    names = pruning.filter_layers(step, subject.chosen(step.layers), subject.chosen("all")[-1])
    preview = context.images_at_most is not None
    count = pruning.pictures(context, min(step.images, PREVIEW_IMAGES) if preview else step.images)
    with context.turn():
        units = _units(subject, names, PREVIEW_UNITS if preview else MOST_UNITS)
    key = ("contribution", count, len(units), *names)
    found = pruning.remembered(key, subject, context, lambda: measure(subject.module, units, context, count))
    right, loss = (figures.tolist() for figures in found)
    whole = 0 if step.threshold is None else _evaluate(subject.module, context, count)[0]
    with context.turn():
        left = pruning.unpruned(subject, names)
        alive = [any(left[name][row] for row in filters) for name, filters in units]
        order = sorted(range(len(units)), key=lambda unit: (alive[unit], -right[unit], loss[unit], unit))
        if step.threshold is not None:
            cheap = [units[unit] for unit in order if not alive[unit] or 100 * (whole - right[unit]) / count < step.threshold]
            kept = pruning.without_filters(subject, cheap)
        else:
            parts = [names] if step.scope == "global" else [[name] for name in names]
            kept = {}
            for part in parts:
                kept |= pruning.keep_filters(subject, [units[unit] for unit in order if units[unit][0] in part], step.sparsity)
        pruning.narrow(step, subject, kept)


def _units(subject, names: list[str], most: int) -> list[tuple]:
    """Every filter of the weights `names` in one unit: (name, the numbers of its filters), weakest first in each layer."""
    filters = [len(subject.value(name)) for name in names]
    size = unit_size(filters, most)
    found = []
    for name, count in zip(names, filters, strict=True):
        weakest_first = subject.value(name).abs().flatten(1).sum(1).argsort(stable=True)
        found += [(name, unit.tolist()) for unit in weakest_first.split(min(size, -(-count // 2)))]
    return found


def unit_size(filters: list[int], most: int) -> int:
    """The least k for which layers of so many filters, cut into units of k or of half a layer, have at most `most` units, or two a layer."""
    for size in range(1, max(filters)):
        if sum(-(-count // min(size, -(-count // 2))) for count in filters) <= max(most, 2 * len(filters)):
            return size
    return max(filters)


def measure(module, units: list[tuple], context, count: int) -> list:
    """Right answers (U,) int64 and mean cross-entropy (U,) float64 on the first `count` calibration pictures, without each unit."""
    import torch

    from core.weights import clone

    module = clone(module)  # the states of the weights may share their tensors with the module
    right, loss = torch.zeros(len(units), dtype=torch.int64), torch.zeros(len(units), dtype=torch.float64)
    for number, (name, filters) in enumerate(units):
        value = module.get_parameter(name).detach()
        removed = value[filters]
        value[filters] = 0
        right[number], loss[number] = _evaluate(module, context, count)
        value[filters] = removed
        context.report({"fraction": (number + 1) / len(units)})
    return [right, loss]


def _evaluate(module, context, count: int) -> tuple[int, float]:
    import torch
    from torch.nn.functional import cross_entropy

    right, loss = 0, 0.0
    with torch.no_grad():
        for x, labels in context.dataset.batches("calibration", context.input_size, BATCH, count):
            with context.turn():
                logits = module(x)  # (B, K)
                right += int((logits.argmax(1) == labels).sum())
                loss += float(cross_entropy(logits, labels, reduction="sum"))
    return right, loss / count
