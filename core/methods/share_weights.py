"""Weight sharing: all weights of a layer, or of the model, take one of a few values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.methods.apply import applies
from core.recipe import GRID, Step, layers_param, param, register

PREVIEW_SAMPLE = 1 << 16  # weights that a preview clusters


@register
@dataclass(frozen=True)
class ShareWeights(Step):
    """Replaces each weight by the nearest of k shared values: w ≈ entries[code], the k centres of one-dimensional k-means.

    The squared error Σ (w − entries[code])² is within 2 % of the least from the exact start; from the others, which the paper
    compares, what Lloyd's iteration reaches. Pruned weights stay 0 and take no part. One codebook for each layer or one for all. A
    training step that follows trains the entries, by the sum of their weights' gradients. Han et al. 2016, arXiv:1510.00149.
    """

    name: ClassVar[str] = "share_weights"
    title: ClassVar[str] = "Share weights"
    kind: ClassVar[str] = GRID

    clusters: int = param(16, 2, 256, 1, unit="values", help="How many different values the weights that share a codebook may have.", harder="down")
    init: str = param(
        "exact",
        choices=("exact", "linear", "density", "kmeans++"),
        help="Where k-means starts: near the least error, evenly over the range, over the ranks, or drawn.",
    )
    scope: str = param("layer", choices=("layer", "model"), help="A codebook for each layer, or one for all of them.")
    layers: str = layers_param()


@applies(ShareWeights)
def apply(step: ShareWeights, subject, context) -> None:
    from core.grids import Codebook, nearest
    from core.weights import Weight

    names = subject.chosen(step.layers)
    entries: dict = {}
    if step.scope == "model":
        with context.turn():
            shared = _entries([subject.value(name) for name in names], step, context)
        entries = dict.fromkeys(names, shared)
    fewer = []
    for number, name in enumerate(names):
        with context.turn():
            value = subject.value(name)
            if name not in entries:
                entries[name] = _entries([value], step, context)
            grid = Codebook(nearest(value, entries[name]), entries[name])
            subject.set(name, Weight(value, subject.weights[name].mask, grid))
        if len(entries[name]) - 1 < step.clusters and (context.images_at_most is None or value.numel() <= PREVIEW_SAMPLE):
            fewer.append(name)
        context.report({"fraction": (number + 1) / len(names)})
    if fewer:
        subject.notes.append(f"share_weights found fewer than {step.clusters} distinct weights in {', '.join(fewer[:4])}{', …' if len(fewer) > 4 else ''}.")


def _entries(values: list, step: ShareWeights, context):
    """(k + 1,) float32: 0, then the centres of the values that are not 0, ascending."""
    import numpy as np
    import torch

    from core.clusters import centres
    from core.weights import flat

    row = np.concatenate([flat(value).numpy() for value in values]) if len(values) > 1 else flat(values[0]).numpy()
    if context.images_at_most is not None:
        row = row[:: max(1, row.size // PREVIEW_SAMPLE)]
    found = centres(row, step.clusters, step.init, context.seed)
    return torch.from_numpy(np.concatenate([np.zeros(1, np.float32), found]))
