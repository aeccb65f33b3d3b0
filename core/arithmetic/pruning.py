"""Which weights go, once every weight or every filter has a score: what the steps that prune have in common.

A step gives scores, and `drop_lowest` or `keep_filters` with `narrow` makes masks of them. What takes pictures to measure is
`remembered`, because a slider asks again and again. Called by `core.methods`; knows none of them, and imports torch only
inside functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from core.errors import BadRecipe
from core.keeping.remembered import Remembered

PREVIEW_SAMPLE = 1 << 17  # scores that a preview looks at to find the limit
RANK_SAMPLE = 1 << 14  # scores that tell about where a rank lies
ENTROPY_BINS = 100  # of the histogram of a filter's activations
ENTROPY_BATCH = 256  # pictures
POOLED_AT_ONCE = 1 << 17  # activations: they and their copy fit the processor's cache; fresh memory costs as much as the arithmetic
REMEMBERED_BYTES = 128 * 2**20


def drop_lowest(step, subject, scores: dict, context, threshold: float | None = None) -> None:
    """Prune the weights of the lowest scores: a share `step.sparsity`, of all together or, by `step.scope`, of each layer.

    `scores` has a tensor of the weight's shape, at least 0, for each name. With `threshold`, all scores below it go instead.
    Weights that an earlier step pruned go first.
    """
    sample = None if context.images_at_most is None else PREVIEW_SAMPLE
    scores = {name: pruned_first(score, subject.weights[name].mask) for name, score in scores.items()}
    if threshold is not None:
        kept = {name: score >= threshold for name, score in scores.items()}
    elif step.scope == "layer":
        kept = {name: keep_largest([score], step.sparsity, sample)[0] for name, score in scores.items()}
    else:
        kept = dict(zip(scores, keep_largest(list(scores.values()), step.sparsity, sample), strict=True))
    narrow(step, subject, kept)


def keep_largest(scores: list, sparsity: float, sample: int | None = None) -> list:
    """Masks (bool, shapes of `scores`) that drop exactly round(sparsity · n) of the n scores, the smallest.

    Among equal scores those that lie earlier in memory are dropped first, so the result does not depend on the sort.
    With `sample`, the limit is that of about so many evenly spaced scores, so the number dropped is nearly right.
    """
    import torch

    from core.weights import flat, unflat

    row = (torch.cat([flat(score) for score in scores]) if len(scores) > 1 else flat(scores[0])).numpy()  # (n,)
    if sample is not None and row.size > 2 * sample:
        few = row[:: row.size // sample]
        limit = np.partition(few, round(sparsity * (few.size - 1)))[round(sparsity * (few.size - 1))]
        return [score >= float(limit) for score in scores]
    drop = round(sparsity * row.size)
    if drop == 0:
        return [torch.ones_like(score, dtype=torch.bool) for score in scores]
    limit = of_rank(row, drop - 1)
    keep = row > limit
    surplus = row.size - drop - int(np.count_nonzero(keep))  # scores equal to the limit that stay
    if surplus:
        keep[np.flatnonzero(row == limit)[-surplus:]] = True
    sizes = [score.numel() for score in scores]
    return [unflat(part, score) for part, score in zip(torch.from_numpy(keep).split(sizes), scores, strict=True)]


def of_rank(row: np.ndarray, rank: int) -> np.floating:
    """The element (n,) that would stand at place `rank` if they were sorted.

    A sample tells between which two values it lies, and only what lies there is partitioned (Floyd and Rivest 1975, doi:10.1145/360680.360691): a
    third of the time of `np.partition` on all, and a twentieth where many are equal, as the scores of filters that never fire are.
    """
    stride = row.size // RANK_SAMPLE
    if stride > 1:
        few = np.sort(row[::stride])
        at, room = rank * few.size // row.size, 4 * math.isqrt(few.size)
        below = row < few[at - room] if at >= room else np.zeros(row.shape, bool)
        rank_inside = rank - int(np.count_nonzero(below))
        inside = ~below
        if at + room < few.size:
            inside &= row <= few[at + room]
        between = row[inside]
        if 0 <= rank_inside < between.size:
            return np.partition(between, rank_inside)[rank_inside]
    return np.partition(row, rank)[rank]


def pruned_first(score, mask):
    """`score` with −1, lower than any other, where `mask` (bool, or None) says that the weight is pruned already."""
    return score if mask is None else score.masked_fill(~mask, -1.0)


def narrow(step, subject, kept: dict) -> None:
    """Keep no more of each weight than `kept` (bool, of its shape) says, and note the layers that have lost all of it."""
    lost = []
    for name, keep in kept.items():
        before = subject.weights[name]
        after = before.pruned(keep)
        subject.set(name, after)
        if not after.mask.numpy().any() and (before.mask is None or before.mask.numpy().any()):  # numpy's stops at the first
            lost.append(name)
    if lost:
        subject.notes.append(f"{emptied(step)}{listed(lost)} to zero: what is put out there is the same for every picture.")


def emptied(step) -> str:
    """How `narrow`'s note of layers that have lost all begins."""
    return f"{step.name} set every weight of "


def lost_by_share(step, subject) -> list[str]:
    """The weights of which a share within each layer leaves none, whatever they are: so few that it rounds to all of them."""
    if getattr(step, "scope", "") != "layer" or getattr(step, "threshold", None) is not None:
        return []
    names = subject.chosen(step.layers)
    if step.takes_filters:
        names = filter_layers(step, names, subject.chosen("all")[-1])
    counts = {name: subject.value(name).numel() for name in names}
    return [name for name, count in counts.items() if round(step.sparsity * count) == count]


def listed(names: list[str]) -> str:
    """The layers of these weights in words, at most three by name."""
    layers = [name.removesuffix(".weight") for name in names]
    if len(layers) > 3:
        layers[3:] = [f"{len(layers) - 3} more"]
    return " and ".join([", ".join(layers[:-1]), layers[-1]] if len(layers) > 1 else layers)


def filter_layers(step, names: list[str], classifier: str) -> list[str]:
    """The weights among `names` that may lose whole filters: all but the classifier's. Raises `BadRecipe` when that is none."""
    found = [name for name in names if name != classifier]
    if not found:
        raise BadRecipe(f"{step.name} finds no filters in layers {step.layers!r}, because the classifier keeps its classes; name a layer before it.")
    return found


def keep_filters(subject, units: list[tuple], sparsity: float) -> dict:
    """Masks (bool, shapes of the weights) without the first units, for as long as at most a share `sparsity` is pruned.

    A unit is the name of a weight (C, …) and the numbers of some of its C filters; `units` has every filter of the weights
    that it names, first to go first. What an earlier step pruned counts as pruned.
    """
    left = unpruned(subject, list(dict.fromkeys(name for name, _filters in units)))
    kept = {name: [True] * len(counts) for name, counts in left.items()}
    total = sum(subject.value(name).numel() for name in left)
    room = round(sparsity * total) - (total - sum(map(sum, left.values())))
    for name, filters in units:
        size = sum(left[name][row] for row in filters)
        if size > room:
            break
        room -= size
        for row in filters:
            kept[name][row] = False
    return spread(subject, kept)


def without_filters(subject, units: list[tuple]) -> dict:
    """Masks (bool, shapes of the weights) without all of these units, of the weights that they name."""
    kept = {name: [True] * len(subject.value(name)) for name, _filters in units}
    for name, filters in units:
        for row in filters:
            kept[name][row] = False
    return spread(subject, kept)


def unpruned(subject, names: list[str]) -> dict[str, list[int]]:
    """How many weights of each of its C filters no earlier step has pruned, by name."""
    found = {}
    for name in names:
        value, mask = subject.value(name), subject.weights[name].mask
        found[name] = [value[0].numel()] * len(value) if mask is None else mask.flatten(1).sum(1).tolist()
    return found


def spread(subject, kept: dict[str, list[bool]]) -> dict:
    """Whether each of its C filters is kept, by name → masks of the shapes and strides of the weights (C, …)."""
    import torch

    masks = {}
    for name, keep in kept.items():
        value = subject.value(name)
        masks[name] = torch.empty_like(value, dtype=torch.bool).copy_(torch.tensor(keep).view(-1, *[1] * (value.dim() - 1)))
    return masks


def pictures(context, wanted: int) -> int:
    """How many calibration pictures a step reads that wants so many."""
    count = min(wanted, len(context.dataset.split("calibration")))
    return count if context.images_at_most is None else min(count, context.images_at_most)


def filter_entropies(subject, paths: list[str], images: int, context) -> list:
    """How many bits each filter of the layers at `paths` tells of a picture: (C,) float64 each, (0,) where a layer is not run as a module.

    H = −Σ p·log2 p over 100 bins between the filter's least and largest activation on calibration pictures (Luo and Wu 2017,
    arXiv:1706.05791). Its activation is max(0, y) averaged over all positions, y what it puts out after the batch norm that
    follows at once, if one does; so a filter that never fires tells nothing.
    """
    count = pictures(context, images)
    return remembered(("entropy", count, *paths), subject, context, lambda: _measure_entropies(subject.module, paths, context, count))


def _measure_entropies(module, paths: list[str], context, count: int) -> list:
    import torch

    layers = {module.get_submodule(path): path for path in paths}
    pooled: dict[str, list] = {path: [] for path in paths}
    waiting: list = []  # a layer's path, and what it put out: counted once it is known whether a batch norm reads it at once
    scratch = torch.empty(POOLED_AT_ONCE)

    def count_in(path: str, output, channels_at: int):
        fired = output.movedim(channels_at, -1).reshape(batch, -1, output.shape[channels_at])  # (B, positions, C)
        means = torch.empty(batch, fired.shape[2])
        at_once = max(1, POOLED_AT_ONCE // fired[0].numel())
        for start in range(0, batch, at_once):
            part, out = fired[start : start + at_once], means[start : start + at_once]
            room = scratch[: part.numel()].view(part.shape) if part.numel() <= POOLED_AT_ONCE else torch.empty(part.shape)
            torch.mean(torch.clamp_min(part, 0, out=room), 1, out=out)
        pooled[path].append(means)

    def count_waiting():
        if waiting:
            path, output = waiting
            count_in(path, output, 1 if isinstance(module.get_submodule(path), torch.nn.Conv2d) else -1)
            waiting.clear()

    def before(layer, inputs):
        if waiting and not (isinstance(layer, torch.nn.BatchNorm2d) and inputs[0] is waiting[1]):
            count_waiting()  # now: what comes next may write into it

    def after(layer, _inputs, output):
        if waiting:  # and so this is the batch norm that read it
            count_in(waiting[0], output, 1)
            waiting.clear()
        elif layer in layers and isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            waiting[:] = layers[layer], output

    parts = [layer for layer in module.modules() if not any(layer.children())]
    hooks = [hook for layer in parts for hook in (layer.register_forward_pre_hook(before), layer.register_forward_hook(after))]
    seen = 0
    try:
        with torch.no_grad():
            for x in context.calibration(count, ENTROPY_BATCH):
                batch = len(x)
                with context.turn():
                    module(x)
                    count_waiting()
                seen += batch
                context.report({"fraction": seen / count})
    finally:
        for hook in hooks:
            hook.remove()
    with context.turn():
        return [histogram_entropy(torch.cat(rows)) if rows else torch.empty(0, dtype=torch.float64) for rows in pooled.values()]


def histogram_entropy(values, bins: int = ENTROPY_BINS):
    """values (n, C) → bits (C,) float64 of each column's histogram, between its least and its largest value."""
    import torch

    values = values.to(torch.float64, copy=True)
    low, span = values.amin(0), values.amax(0) - values.amin(0)
    place = values.sub_(low).mul_(bins / span.clamp_min(1e-300)).int().clamp_(0, bins - 1)  # (n, C)
    place += torch.arange(0, values.shape[1] * bins, bins, dtype=torch.int32)
    counts = torch.bincount(place.reshape(-1), minlength=values.shape[1] * bins)
    shares = torch.arange(len(values) + 1, dtype=torch.float64) / len(values)
    bits = torch.special.entr(shares) / np.log(2)  # of every count that there can be
    return bits[counts].view(-1, bins).sum(1)


_REMEMBERED: Remembered[list] = Remembered(REMEMBERED_BYTES, lambda tensors: sum(tensor.nbytes for tensor in tensors))


def remembered(kind: tuple, subject, context, measure: Callable[[], list]) -> list:
    """`measure()`, a list of tensors, or what it gave for the same network and pictures before; not to be changed in place.

    `kind` says what is measured, on how many pictures.
    """
    with context.turn():
        key = (*kind, context.dataset.fingerprint, context.input_size, repr(subject.module), _fingerprint(subject.module))
    return _REMEMBERED.get(key, measure)


def _fingerprint(module) -> tuple:
    """Sum of every tensor's bits, as whole numbers: differs wherever training, pruning or repair has passed, and takes 5 ms where a hash takes 100."""
    from core.weights import flat

    return tuple(_sum_of_bits(flat(tensor).numpy()) for tensor in module.state_dict().values())


def _sum_of_bits(row: np.ndarray) -> int:
    octets = row.view(np.uint8)
    whole = octets.size // 8 * 8
    return int(octets[:whole].view(np.int64).sum()) + int.from_bytes(octets[whole:].tobytes(), "little")
