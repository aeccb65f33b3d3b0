"""Weights must be numbers: the one sentence about those that are not (NaN, infinite), before anything computes with them.

Asked where weights come from: `core.zoo` when a checkpoint is read, `core.training` when one is made. All steps between keep finite weights finite.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from core.errors import BadInput


def check_finite(tensors: Mapping[str, Tensor], what: str, mend: str) -> None:
    """Raises `BadInput` that names the first of `tensors` with a number that is not finite; `what` begins its sentence, `mend` ends it."""
    for name, tensor in tensors.items():
        bad = 0 if not tensor.is_floating_point() or _all_finite(tensor) else int((~tensor.isfinite()).sum())
        if bad:
            numbers = "1 number that is" if bad == 1 else f"{bad:,} numbers that are"
            raise BadInput(f"{what} has {numbers} NaN or infinite in {name}, and takes finite ones only; {mend}.")


def _all_finite(tensor: Tensor) -> bool:
    """By the extremes, which pass NaN on, in a tenth of the time that a look at each number takes."""
    return not tensor.numel() or all(bool(end.isfinite()) for end in tensor.aminmax())
