"""Cross-layer equalization: the same function with channels of like ranges, which one scale a tensor can serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.methods.apply import applies, fits
from core.recipe import REPAIR, Step, param, register


@register
@dataclass(frozen=True)
class Equalize(Step):
    """Scales the channels between two layers that a ReLU joins, since relu(s·x) = s·relu(x) for s > 0.

    Channel i leaves the first layer divided by s_i and its weights in the second are multiplied by it; s_i = √(r1_i / r2_i) gives both the range
    √(r1_i · r2_i), where r1_i and r2_i are the largest |w| that make and read it. A batch norm after the first layer takes the factor,
    and also whatever brings the rows of that layer to one range. The function stays the same. Goes before every grid. Nagel et al. 2019,
    arXiv:1906.04721, section 4.1.
    """

    name: ClassVar[str] = "equalize"
    title: ClassVar[str] = "Equalize"
    kind: ClassVar[str] = REPAIR
    before_grid: ClassVar[bool] = True

    passes: int = param(2, 1, 10, 1, help="How often all pairs of layers are gone through; each pass moves ranges one layer on.")


@fits(Equalize)
def joined(step: Equalize, subject) -> list:
    """The pairs of layers that can be equalized; with a note where there are none."""
    from core.arithmetic import equalizing

    found = equalizing.pairs(subject.module)
    if not found:
        subject.notes.append("equalize found no two layers joined by a ReLU alone, so there was nothing to equalize.")
    return found


@applies(Equalize)
def apply(step: Equalize, subject, context) -> None:
    from core.arithmetic import equalizing

    found = joined(step, subject)
    if not found:
        return
    for number in range(step.passes):
        with context.turn():
            for pair in found:
                equalizing.balance(subject, pair)
        context.report({"fraction": (number + 1) / step.passes})
    with context.turn():
        equalizing.even_rows(subject)
