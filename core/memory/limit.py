"""What the training steps have in common to train with less memory: their two fields, what is refused before any work, and the note of a run.

How it is done is in `core.memory.recompute`, what it takes in `core.memory.saved`. Imports no torch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from core.errors import BadField
from core.recipe import param

if TYPE_CHECKING:
    from core.weights import Compressed

MB = 1e6
LARGEST = 100_000.0  # MB
LIMITS = (*(round(lead * 10.0**decade, 1) for decade in range(5) for lead in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)), LARGEST)


def recomputing_param():
    """The field that every training step shares: trade computing for memory."""
    return param(
        False, later=True,
        help="Compute activations again instead of keeping them: in deep networks a third of the memory or less, for a sixth to nine tenths more time.",
    )  # fmt: skip


def memory_limit_param():
    """The field beside it: how much memory there is."""
    return param(
        None, stops=LIMITS, start=LARGEST, optional=True, later=True, unit="MB",
        help="Most MB of activations held at a time, with as little as possible computed again; without a limit, as little as possible is held.",
    )  # fmt: skip


def limited(step) -> bool:
    """Whether the step has a limit that says something."""
    return step.checkpoint_activations and step.memory_limit is not None


def check_limit(step, subject: Compressed, batch: int) -> None:
    """Raises `BadField` where even the least that training this network takes is above the limit. What the steps before add (rounded weights) comes on top."""
    from core.memory.recompute import least

    if limited(step):
        _fitted(least, step, subject.module, subject, batch)


def recomputed(step, module, subject: Compressed, batch: int, turn: Callable = contextlib.nullcontext):
    """`module`, as it is going to be trained, with its activations computed again; and the note that says what that was measured to hold.

    Raises `BadField` where it takes more than the step's limit. The network, its statistics and the random numbers stay what they are.
    """
    from core.memory.recompute import within
    from core.memory.saved import FEW

    trained, held = _fitted(within, step, module, subject, batch, turn)
    rounded = any(weight.mask is not None or weight.grid is not None for weight in subject.weights.values()) or bool(subject.activations)
    what = "activations, roundings and masks" if rounded else "activations"
    limit = "" if step.memory_limit is None else f", within its limit of {step.memory_limit:,g} MB,"
    how = f"measured on {' and '.join(map(str, FEW))} pictures for batches of {batch}"
    if not trained.forgotten:
        return trained, f"{step.name} held {held.plain / MB:,.1f} MB of {what} at a time{limit} and computed none again, {how}."
    return trained, f"{step.name} held at most {held.most / MB:,.1f} MB of {what} at a time{limit} instead of {held.plain / MB:,.1f} MB, {how}."


def _fitted(how: Callable, step, module, subject: Compressed, batch: int, turn: Callable = contextlib.nullcontext):
    """What `how` (`recompute.within`, `recompute.least`) gives under the step's limit; raises `BadField` where that is too little."""
    from core.memory.recompute import TooLittle

    architecture = subject.architecture
    try:
        return how(None if step.memory_limit is None else step.memory_limit * MB, module, architecture.input_size, batch, turn)
    except TooLittle as error:
        least = math.ceil(10 * error.least / MB) / 10
        accepted = f"{least:,.1f} MB or more, which is the least that training {architecture.model} in batches of {batch} holds"
        raise BadField(f"{step.name}.memory_limit", step.memory_limit, accepted) from None
