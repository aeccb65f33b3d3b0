"""Channel pruning: whole channels leave, the shapes get smaller, and every runtime gets faster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from core import zoo
from core.arithmetic import pruning
from core.errors import BadRecipe
from core.methods.apply import applies, fits
from core.recipe import STRUCTURE, Step, layers_param, param, register

NARROWEST = 1 / 3  # no layer keeps less than this part of the share that the whole model keeps
SHARED = ("l1", "l2", "bn_scale", "entropy")  # importances that grow with a layer's size
LIMITS = (0.0, *(float(f"{digit}e{power}") for power in range(-10, 4) for digit in (1, 2, 5)), 1e4)  # from a change of the loss to sums of |w|
TAYLOR_BATCH = 32  # pictures, fewer where they are large; the squared change of the loss is averaged over batches


@register
@dataclass(frozen=True)
class ChannelPrune(Step):
    """Removes the least important channels, with every weight that makes or reads them.

    Channels that residual connections or depthwise convolutions tie together fall together (Fang et al. 2023,
    arXiv:2301.12900). A channel's importance, over all weights w that make or read it and are tied to it:

    - taylor: mean over batches of (Σ w·dL/dw)², w those that read it: to first order the squared change of the loss
      when nothing reads the channel any more (Molchanov et al. 2019, arXiv:1906.10771)
    - l1: Σ|w|, l2: Σw² (arXiv:1608.08710); bn_scale: Σ|γ| of its batch norms (arXiv:1708.06519)
    - entropy: Σ H over the filters that make it, H = −Σ p·log2 p of a filter's rectified activation on calibration
      pictures (arXiv:1706.05791; exactly as in `core.arithmetic.pruning.filter_entropies`)
    - random: the control that every criterion must beat

    To compare layers (scope global), l1, l2, bn_scale and entropy are taken as shares of their layer's sum. With a threshold, channels of less
    importance leave, as it is and of every layer, but for one of each and what `round_to` keeps.
    """

    name: ClassVar[str] = "channel_prune"
    title: ClassVar[str] = "Prune channels"
    kind: ClassVar[str] = STRUCTURE

    sparsity: float = param(
        0.3, 0.0, 0.9, 0.05, harder="up",
        help="Share of the channels removed. A share p removes about 1 − (1 − p)² of the parameters, since a weight joins two channels.",
    )  # fmt: skip
    importance: str = param("taylor", choices=("taylor", "l2", "l1", "bn_scale", "entropy", "random"), help="What makes a channel worth keeping.")
    scope: str = param("global", choices=("global", "layer"), help="Compare channels over the whole model, or remove the same share of each layer.")
    round_to: int = param(8, choices=(1, 4, 8, 16), unit="channels", help="A layer keeps a multiple of this many channels; kernels like multiples of 8.")
    images: int = param(256, 32, 2000, 32, unit="pictures", help="Calibration pictures for taylor and entropy; the other importances read none.")
    layers: str = layers_param()
    threshold: float | None = param(
        None, stops=LIMITS, later=True, optional=True, harder="up",
        help="Remove the channels of less importance than this instead of a share: summed |w|, w², |γ|, bits, or squared change of the loss.",
    )  # fmt: skip

    @property
    def edition(self) -> str:
        """Thresholds of taylor were of a sum over batches once, which grew with the pictures."""
        return "mean over batches" if self.threshold is not None and self.importance == "taylor" else ""

    def check_model(self, model: str) -> None:
        """Raises `BadRecipe` when this model cannot be pruned so; reads the model list only."""
        facts = zoo.models().get(model, {})
        if facts.get("channel_prunable", True) is not True:
            raise BadRecipe(f"{self.name} cannot prune {model}: {facts['channel_prunable']}.")
        if self.importance == "bn_scale" and not facts.get("batch_norm", True):
            raise BadRecipe(f"{self.name} cannot rank the channels of {model} by bn_scale, because it has no batch norm; take l1, l2 or taylor.")


@fits(ChannelPrune)
def removable_groups(step: ChannelPrune, subject) -> list:
    """The groups all of whose makers are chosen, and which the importance can rank; raises `BadRecipe` when none is left.

    Where the share is too small to remove anything, whatever the scores are, a note says so.
    """
    from core.arithmetic import channels

    names = set(subject.chosen(step.layers))
    groups = channels.groups(subject.module, subject.architecture.input_size)
    within = [group for group in groups if all(f"{part.layer}.weight" in names for part in group.makers())]
    if not within:
        raise BadRecipe(
            f"channel_prune finds no channels to remove in layers {step.layers!r} of {subject.architecture.model}, because channels that are "
            "added together fall with all the layers that make them, and the classifier keeps its classes."
        )
    ranked = [group for group in within if group.norms()] if step.importance == "bn_scale" else within
    if not ranked:
        raise BadRecipe(f"channel_prune cannot rank the channels of layers {step.layers!r} by bn_scale, because no batch norm follows; take l1, l2 or taylor.")
    if len(ranked) < len(within):
        subject.notes.append(f"channel_prune left {len(within) - len(ranked)} layers whole, because no batch norm follows that ranks their channels.")
    if keeps_all(step, [group.units for group in ranked], [group.width for group in ranked]):
        subject.notes.append(f"channel_prune removed no channels, because {_why_none(step)}.")
    return ranked


@applies(ChannelPrune)
def apply(step: ChannelPrune, subject, context) -> None:
    import torch

    from core.arithmetic import channels

    step.check_model(subject.architecture.model)
    subject.chosen(step.layers)  # patterns that match nothing are refused at any sparsity
    if step.sparsity == 0 and step.threshold is None:
        return
    with context.turn():
        groups = removable_groups(step, subject)
    scores = _score(step, groups, subject, context)
    if step.threshold is None and step.importance in SHARED:
        scores = [score / score.sum().clamp_min(1e-30) for score in scores]
    values = [score.tolist() for score in scores]
    removed = select(step, values, [group.width for group in groups])
    if not any(removed) and not keeps_all(step, [group.units for group in groups], [group.width for group in groups]):
        subject.notes.append(f"channel_prune removed no channels, because {_why_none(step, values)}.")
    found = channels.groups(subject.module, subject.architecture.input_size)
    with context.turn():
        channels.remove(subject.module, [(group, torch.tensor(units, dtype=torch.int64)) for group, units in zip(groups, removed, strict=True)])
    whole = len(channels.untouched(subject.module, found))
    if whole:
        subject.notes.append(f"channel_prune left {whole} layers at full width, because {channels.whole_because(subject.architecture.model)}.")
    subject.rebuild()


def keeps_all(step: ChannelPrune, units: list[int], widths: list[int]) -> bool:
    """Whether the share rounds to nothing in every group, however the channels are ranked."""
    from core.arithmetic import channels

    if step.threshold is not None:
        return False
    if step.scope == "layer":  # each loses its share, whichever channels these are
        return not any(select(step, [[0.0] * count for count in units], widths))
    share = step.sparsity * sum(count * width for count, width in zip(units, widths, strict=True))
    kept = [max(1, count - math.floor(share / width + 0.5)) for count, width in zip(units, widths, strict=True)]
    return all(channels.nearest(*sizes, step.round_to) == sizes[1] for sizes in zip(kept, units, widths, strict=True))


def _why_none(step: ChannelPrune, scores: Sequence[Sequence[float]] = ()) -> str:
    """Why nothing is selected, as the end of a sentence."""
    if step.threshold is None:
        less = f"{100 * step.sparsity:g} % of them rounds to none"
    elif all(value >= step.threshold for score in scores for value in score):
        return f"none is of less importance than {step.threshold:g}"
    elif step.round_to == 1:
        return "one of each layer stays"
    else:
        less = f"those of less importance than {step.threshold:g} round to none"
    return less + (f" where a layer keeps a multiple of {step.round_to}" if step.round_to > 1 else "")


def _score(step: ChannelPrune, groups: list, subject, context) -> list:
    """How important each unit of each group is: tensors (units,)."""
    import torch

    if step.importance == "random":
        generator = torch.Generator().manual_seed(context.seed)
        return [torch.rand(group.units, generator=generator) for group in groups]
    if step.importance == "taylor":
        return _taylor(step, groups, subject, context)
    if step.importance == "entropy":
        return _entropy(step, groups, subject, context)
    with context.turn():
        return _magnitude(step.importance, groups, subject.module)


def _magnitude(importance: str, groups: list, module) -> list:
    """Sums of |w|, w² or |γ| over each unit."""
    from core.arithmetic import channels

    parts = [group.norms() if importance == "bn_scale" else group.weights() for group in groups]
    sizes = {}
    for path in {part.layer for chosen in parts for part in chosen}:
        size = module.get_submodule(path).weight.detach().abs()
        sizes[path] = size.square() if importance == "l2" else size
    return [channels.sums(group, chosen, sizes, module) for group, chosen in zip(groups, parts, strict=True)]


def _entropy(step: ChannelPrune, groups: list, subject, context) -> list:
    """Sums of the bits of the filters that make each unit."""
    from core.arithmetic import channels

    paths = list(dict.fromkeys(part.layer for group in groups for part in group.makers()))
    bits = dict(zip(paths, pruning.filter_entropies(subject, paths, step.images, context), strict=True))
    return [channels.sums(group, group.makers(), bits, subject.module) for group in groups]


def _taylor(step: ChannelPrune, groups: list, subject, context) -> list:
    """The mean over batches of (Σ w·dL/dw)² over the weights that read a unit; L is the cross-entropy on calibration pictures."""
    count = pruning.pictures(context, step.images)
    key = ("channels by taylor", count, step.layers)
    return pruning.remembered(key, subject, context, lambda: _measure_taylor(groups, subject.module, context, count))


def _measure_taylor(groups: list, module, context, count: int) -> list:
    import torch
    from torch.nn.functional import cross_entropy

    from core.arithmetic import channels

    scores: list = [0] * len(groups)
    readers = {path: module.get_submodule(path).weight for path in {part.layer for group in groups for part in group.readers()}}
    seen = batches = 0
    for x, labels in context.dataset.batches("calibration", context.input_size, TAYLOR_BATCH, count):
        with context.turn(), torch.enable_grad():
            gradients = torch.autograd.grad(cross_entropy(module(x), labels), list(readers.values()))
            change = {path: (weight * gradient).detach() for (path, weight), gradient in zip(readers.items(), gradients, strict=True)}
            scores = [score + channels.sums(group, group.readers(), change, module).square() for score, group in zip(scores, groups, strict=True)]
        seen, batches = seen + len(labels), batches + 1
        context.report({"fraction": seen / count})
    return [score.double() / batches for score in scores]  # float64, so that what differs differs still and ranks stay


def select(step: ChannelPrune, scores: list[list[float]], widths: list[int]) -> list[list[int]]:
    """The units to remove of each group, ascending: those of the lowest scores, the earlier of equals first.

    `widths` says how many channels a unit of each group has. At least one unit of each group stays.
    """
    from core.arithmetic import channels

    counts = [len(score) for score in scores]
    if step.threshold is not None:
        kept = [max(1, sum(value >= step.threshold for value in score)) for score in scores]
    elif step.scope == "layer":
        kept = [count - round(step.sparsity * count) for count in counts]
    else:
        kept = _kept_globally(step.sparsity, scores, widths)
    rounded = [channels.nearest(*sizes, step.round_to) for sizes in zip(kept, counts, widths, strict=True)]
    return [sorted(sorted(range(len(score)), key=score.__getitem__)[: len(score) - keep]) for score, keep in zip(scores, rounded, strict=True)]


def _kept_globally(sparsity: float, scores: list[list[float]], widths: list[int]) -> list[int]:
    """How many units each group keeps when the least important of all channels leave, but no group loses nearly everything."""
    kept = [len(score) for score in scores]
    least = [max(1, math.ceil(len(score) * (1 - sparsity) * NARROWEST)) for score in scores]
    left = sparsity * sum(count * width for count, width in zip(kept, widths, strict=True))
    for _score, group in sorted((score, group) for group, of_group in enumerate(scores) for score in of_group):
        if left < widths[group] / 2:
            break
        if kept[group] > least[group]:
            kept[group] -= 1
            left -= widths[group]
    return kept
