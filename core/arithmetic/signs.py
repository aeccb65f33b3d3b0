"""The scales of binary and ternary weights, and the two values that the inputs of their layers may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from core.arithmetic.activations import inputs_of, observe
from core.recipe import RANGE_PICTURES

if TYPE_CHECKING:
    from core.methods.apply import Context
    from core.weights import Compressed


def means(sizes: Tensor, kept: Tensor | None, scaling: str) -> Tensor:
    """The mean of sizes (C, …) where `kept` (1.0 or 0.0; None: everywhere): (C, 1, …) for each output channel, or (1, 1, …) for the tensor; 0 where none is."""
    inner, outer = tuple(range(1, sizes.dim())), () if scaling == "channel" else (0,)
    if kept is None:
        return sizes.sum(outer + inner, keepdim=True) / (sizes.numel() if outer else sizes[0].numel())
    count = kept.sum(inner, keepdim=True).double()  # of one output float32 counts exactly
    return (sizes * kept).sum(outer + inner, keepdim=True) / (count.sum(outer, keepdim=True) if outer else count).clamp(min=1).float()


def binary_inputs(subject: Compressed, names: list[str], context: Context) -> None:
    """Let what the layers of these weights read be 0 or a scale, set from calibration pictures; pictures themselves keep 8 bits."""
    found = inputs_of(subject.module, names)
    subject.activations |= observe(subject.module, list(context.calibration(RANGE_PICTURES)), 1, found, context.turn)
