"""Weight sharing: all weights of a layer, or of the model, take one of a few values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.methods.apply import applies, fits
from core.recipe import GRID, Step, layers_param, param, register

PREVIEW_SAMPLE = 1 << 16  # weights that a preview clusters
MOST_ALIKE = 16  # clusters, up to which "exact" is as it always was


@register
@dataclass(frozen=True)
class ShareWeights(Step):
    """Replaces each weight by the nearest of k shared values: w ≈ entries[code], the k centres of one-dimensional k-means.

    From the exact start the squared error Σ (w − entries[code])² of trained layers is within 2 % of the least. From the other starts, which the
    paper compares, it is what Lloyd's iteration reaches: of resnet18 in 16 clusters up to a fifth above the least, of other models and with more
    clusters many times the least.

    Pruned weights stay 0 and take no part. One codebook for each layer or one for all. A training step that follows trains the entries, by
    the sum of their weights' gradients. Han et al. 2016, arXiv:1510.00149.
    """

    name: ClassVar[str] = "share_weights"
    title: ClassVar[str] = "Share weights"
    kind: ClassVar[str] = GRID

    clusters: int = param(16, 2, 256, 1, unit="values", help="How many different values the weights that share a codebook may have.", harder="down")
    init: str = param(
        "exact",
        choices=("exact", "linear", "density", "kmeans++"),
        help="Where k-means starts: near the least error, evenly over the range, over the ranks, or drawn; from the last three it may end far above the least.",
    )
    scope: str = param("layer", choices=("layer", "model"), help="A codebook for each layer, or one for all of them.")
    layers: str = layers_param()

    @property
    def edition(self) -> str:
        """Starts were drawn among eight times as many weights once, and "exact" cut many clusters too coarsely where few weights lie far out."""
        if self.init == "kmeans++":
            return "drawn among few"
        return "groups as dense as centres" if self.init == "exact" and self.clusters > MOST_ALIKE else ""


@fits(ShareWeights)
def too_few(step: ShareWeights, subject) -> None:
    """Note the weights of fewer numbers than there are to be clusters, and those of fewer distinct ones as they are now, 0 aside."""
    names = subject.chosen(step.layers)
    parts = [names] if step.scope == "model" else [[name] for name in names]
    sure, now = [], []
    for part in parts:
        values = [subject.value(name) for name in part]
        if sum(value.numel() for value in values) < step.clusters:
            sure += part
        elif not _are_distinct(values, step.clusters):
            now += part
    _note(step, subject, sure)
    if now:
        few = f"share_weights finds fewer than {step.clusters} distinct weights in {_named(now)}"
        subject.notes.append(f"{few} once the steps before it are done, unless training changes that.")


@applies(ShareWeights)
def apply(step: ShareWeights, subject, context) -> None:
    from core.arithmetic.grids import Codebook
    from core.weights import Weight

    names = subject.chosen(step.layers)
    shared = _entries([subject.value(name) for name in names], step, context) if step.scope == "model" else None
    fewer = []
    for number, name in enumerate(names):
        value = subject.value(name)
        entries = shared if shared is not None else _entries([value], step, context)
        codes = _codes(value, entries, context.turn)
        with context.turn():
            subject.set(name, Weight(value, subject.weights[name].mask, Codebook(codes, entries)))
        if len(entries) - 1 < step.clusters and (context.images_at_most is None or value.numel() <= PREVIEW_SAMPLE):
            fewer.append(name)
        context.report({"fraction": (number + 1) / len(names)})
    _note(step, subject, fewer)


def _are_distinct(values: list, count: int) -> bool:
    """Whether at least `count` different numbers other than 0 are among the values."""
    import numpy as np

    from core.weights import flat

    rows = [flat(value).numpy() for value in values]
    looks = ([row[: 4 * count] for row in rows], rows)  # the first is enough nearly always
    return any(np.count_nonzero(np.unique(np.concatenate(look))) >= count for look in looks)


def _named(names: list[str]) -> str:
    return f"{', '.join(names[:4])}{', …' if len(names) > 4 else ''}"


def _note(step: ShareWeights, subject, fewer: list[str]) -> None:
    if fewer:
        subject.notes.append(f"share_weights found fewer than {step.clusters} distinct weights in {_named(fewer)}.")


def _entries(values: list, step: ShareWeights, context):
    """(k + 1,) float32: 0, then the centres of the values that are not 0, ascending."""
    import numpy as np
    import torch

    from core.arithmetic.clusters import centres
    from core.weights import flat

    rows = [flat(value).numpy() for value in values]
    row = _together(rows, context.turn) if len(rows) > 1 else rows[0]
    if context.images_at_most is not None:
        row = row[:: max(1, row.size // PREVIEW_SAMPLE)]
    found = centres(row, step.clusters, step.init, context.seed, context.turn)
    return torch.from_numpy(np.concatenate([np.zeros(1, np.float32), found]))


def _together(rows: list, turn):
    """The rows one behind the other, (n,) float32."""
    import numpy as np

    from core.arithmetic.clusters import pieces

    whole, end = np.empty(sum(row.size for row in rows), np.float32), 0
    for part in (part for row in rows for part in pieces(row)):
        with turn():
            whole[end : end + part.size] = part
        end += part.size
    return whole


def _codes(value, entries, turn):
    """What `core.arithmetic.grids.nearest` gives, a piece at a time."""
    import torch

    from core.arithmetic.clusters import pieces
    from core.arithmetic.grids import nearest
    from core.weights import flat, unflat

    made = []
    for part in pieces(flat(value).numpy()):
        with turn():
            made.append(nearest(torch.from_numpy(part), entries))
    with turn():
        return unflat(torch.cat(made) if len(made) > 1 else made[0], value)
