"""Entropy pruning: the filters, or the weights, that carry least information become zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from core.arithmetic import pruning
from core.methods.apply import applies
from core.recipe import PRUNE, Step, choose, layers_param, param, register

WEIGHT_BINS = 256  # of a layer's histogram of weights


@register
@dataclass(frozen=True)
class EntropyPrune(Step):
    """Sets to zero what is least informative: of all chosen layers together (global), or of each layer alone.

    - filter: the weights of whole output filters. A filter's entropy is H = −Σ p_i·log2 p_i in bits, where p_i is the share of
      the calibration pictures whose activation lies in bin i of 100 between the filter's least and largest: max(0, y) averaged over
      all positions, y after batch norm (Luo and Wu 2017, arXiv:1706.05791). Biases stay, and so does the classifier.
    - weight: single weights. A weight's information is −log2 p in bits, where p is the share of its own layer's weights in
      its bin, one of 256 between the layer's least and largest weight. The commonest go first, the smaller |w| of equals.

    Filters leave, lowest H first, while at most round(sparsity · n) of their layers' n weights are zero; of n single weights exactly
    so many leave. With a threshold, all below so many bits leave. What an earlier step pruned goes first, and is in no
    histogram of weights. Shapes do not change.
    """

    name: ClassVar[str] = "entropy_prune"
    title: ClassVar[str] = "Prune by entropy"
    kind: ClassVar[str] = PRUNE
    goes_by: ClassVar[str] = "information"

    sparsity: float = param(0.3, 0.0, 0.99, 0.01, help="Share of the weights set to zero, those that tell least first.", harder="up")
    threshold: float | None = param(
        None, 0.0, 24.0, 0.1, optional=True, unit="bits", harder="up", help="Set to zero what has less information than this, instead of a share."
    )
    granularity: str = param("filter", choices=("filter", "weight"), help="Whole output filters by their activations, or single weights by their histogram.")
    scope: str = param("global", choices=("global", "layer"), help="Compare over the whole model, or within each layer.")
    images: int = param(256, 32, 2000, 32, unit="pictures", help="Calibration pictures that filters are watched on; weights need none.")
    layers: str = layers_param()

    def undone_by(self, later: Step) -> str:
        return "" if self.granularity == "filter" else super().undone_by(later)  # whole filters stay zero in factors

    def check_layers(self, names: list[str]) -> None:
        found = choose(names, self.layers)
        if self.granularity == "filter":
            pruning.filter_layers(self, found, names[-1])


@applies(EntropyPrune)
def apply(step: EntropyPrune, subject, context) -> None:
    names = subject.chosen(step.layers)
    if step.granularity == "filter":
        _drop_filters(step, pruning.filter_layers(step, names, subject.chosen("all")[-1]), subject, context)
        return
    scores = _information(step, names, subject, context)
    with context.turn():
        pruning.drop_lowest(step, subject, scores, context, step.threshold)


def _drop_filters(step: EntropyPrune, names: list[str], subject, context) -> None:
    bits = pruning.filter_entropies(subject, [name.rpartition(".")[0] for name in names], step.images, context)
    known = {name: found.tolist() for name, found in zip(names, bits, strict=True) if len(found) == len(subject.value(name))}
    unseen = [name for name in names if name not in known]
    if unseen:
        subject.notes.append(f"entropy_prune left {pruning.listed(unseen)} whole, because attention runs their weights itself and shows no activations.")
    if not known:
        return
    with context.turn():
        pruning.narrow(step, subject, _kept_filters(step, known, subject))


def _kept_filters(step: EntropyPrune, bits: dict[str, list[float]], subject) -> dict:
    """Masks from the entropy of each filter, by name."""
    if step.threshold is not None:
        return pruning.spread(subject, {name: [entropy >= step.threshold for entropy in found] for name, found in bits.items()})
    left = pruning.unpruned(subject, list(bits))
    filters = [(name, [row]) for name, found in bits.items() for row in range(len(found))]
    order = np.lexsort((np.concatenate(list(bits.values())), np.concatenate([np.array(left[name]) > 0 for name in bits])))  # stable
    units = [filters[place] for place in order]
    if step.scope == "global":
        return pruning.keep_filters(subject, units, step.sparsity)
    kept = {}
    for name in bits:
        kept |= pruning.keep_filters(subject, [unit for unit in units if unit[0] == name], step.sparsity)
    return kept


def _information(step: EntropyPrune, names: list[str], subject, context) -> dict:
    """The bits of each weight where a threshold is compared with them; else scores of the same order, and of |w| among equal bits."""
    import torch

    from core.weights import flat, unflat

    binned, largest = {}, 0.0
    for name in names:
        with context.turn():
            value, mask = subject.value(name), subject.weights[name].mask
            row = flat(value).numpy()
            binned[name] = bins(row, None if mask is None else flat(torch.empty_like(value, dtype=torch.bool).copy_(mask)).numpy())
            largest = max(largest, float(np.abs(row).max()))
    levels = np.unique(np.concatenate([bits for _place, bits in binned.values()]))
    precision = np.float64 if context.images_at_most is None else np.float32
    scores = {}
    for name, (place, bits) in binned.items():
        with context.turn():
            value = subject.value(name)
            if step.threshold is not None:
                row = bits.astype(precision)[place]
            else:
                row = np.abs(flat(value).numpy()) * precision(0.5 / (largest or 1.0))
                row += np.searchsorted(levels, bits).astype(precision)[place]
            scores[name] = unflat(torch.from_numpy(row), value)
    return scores


def bins(row: np.ndarray, kept: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """A layer's weights (n,) → the bin of each (n,) uint8, and the information −log2 p (256,) of each bin, among those `kept` (n,) bool."""
    known = row if kept is None else row[kept]
    if not known.size:
        return np.zeros(row.size, np.uint8), np.zeros(WEIGHT_BINS)
    low, high = known.min(), known.max()
    place = ((row - low) * (WEIGHT_BINS / (high - low) if high > low else 0)).clip(0, WEIGHT_BINS - 1).astype(np.uint8)
    counts = np.bincount(place if kept is None else place[kept], minlength=WEIGHT_BINS)
    with np.errstate(divide="ignore"):
        return place, -np.log2(counts / known.size)
