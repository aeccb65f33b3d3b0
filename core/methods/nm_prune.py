"""N:M pruning: of every m consecutive inputs, n are kept, a pattern that sparse tensor cores can run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.arithmetic import pruning
from core.errors import BadField
from core.methods.apply import applies
from core.recipe import PRUNE, STRUCTURE, Step, layers_param, param, register

PIECE = 1 << 19  # weights compared in one turn


@register
@dataclass(frozen=True)
class NmPrune(Step):
    """Keeps the n largest |w| of every m consecutive inputs of each output, and sets the others to zero.

    A kernel (out, in, height, width) is grouped along its input channels, at each position (height, width) by itself; a
    matrix (out, in) along its rows. For inputs k·m … k·m + m − 1 exactly m − n weights become zero, the earlier of equals first,
    and weights that an earlier step pruned before all others. The last in mod m inputs stay dense, and so does a layer of
    fewer than m inputs, such as a depthwise convolution. Shapes do not change. 2:4 is what sparse tensor cores run
    (Mishra et al. 2021, arXiv:2104.08378).
    """

    name: ClassVar[str] = "nm_prune"
    title: ClassVar[str] = "Prune n of m"
    kind: ClassVar[str] = PRUNE

    n: int = param(2, 1, 15, 1, title="Kept (n)", unit="weights", help="Weights kept of every m consecutive inputs; fewer than m.", harder="down")
    m: int = param(4, 2, 16, 1, title="Of every (m)", unit="weights", help="Consecutive inputs that are compared with each other.", harder="up")
    layers: str = layers_param()

    def undone_by(self, later: Step) -> str:
        if later.kind == STRUCTURE:
            return f"{later.name} takes inputs out of the groups of {self.m}; put {self.name} after {later.name}"
        return super().undone_by(later)

    def check(self) -> None:
        if self.n >= self.m:
            raise BadField("nm_prune.n", self.n, f"a whole number below m, which is {self.m}")


def _note_dense(step: NmPrune, subject) -> None:
    """Of weights whose inputs are not all in whole groups of m."""
    names = [name for name in subject.chosen(step.layers) if subject.value(name).shape[1] % step.m]
    if names:
        subject.notes.append(f"nm_prune left inputs of {pruning.listed(names)} dense, because their number does not divide by {step.m}.")


@applies(NmPrune)
def apply(step: NmPrune, subject, context) -> None:
    import torch

    for name in subject.chosen(step.layers):
        value = subject.value(name)
        with context.turn():
            score = pruning.pruned_first(value.abs(), subject.weights[name].mask)
            kept = torch.empty_like(value, dtype=torch.bool)
        rows = max(1, PIECE // value[0].numel())
        for mine, part in zip(kept.split(rows), score.split(rows), strict=True):
            with context.turn():
                mine.copy_(keep_n_of_m(part, step.n, step.m))
        with context.turn():
            pruning.narrow(step, subject, {name: kept})
    _note_dense(step, subject)


def keep_n_of_m(score, n: int, m: int):
    """score (out, in, …) → its mask (bool) that keeps the n largest of every m consecutive inputs, and all of the last in mod m."""
    import torch

    keep = torch.ones_like(score, dtype=torch.bool)
    whole = score.shape[1] // m * m
    if whole == 0:
        return keep
    members = score[:, :whole].unflatten(1, (-1, m)).unbind(2)  # m of (out, in // m, …)
    before = [torch.zeros_like(member, dtype=torch.uint8) for member in members]  # how many of its group go before it
    for i in range(m):
        for j in range(i + 1, m):
            sooner = members[i] <= members[j]
            before[j] += sooner
            before[i] += ~sooner
    keep[:, :whole] = torch.stack([count >= m - n for count in before], 2).flatten(1, 2)
    return keep
