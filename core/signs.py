"""The scales of binary and ternary weights, and the two values that the inputs of their layers may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.activations import inputs_of, observe
from core.recipe import RANGE_PICTURES

if TYPE_CHECKING:
    from core.methods.apply import Context
    from core.weights import Compressed


def means(sizes: Tensor, kept: Tensor, scaling: str) -> Tensor:
    """The mean of sizes (C, …) where `kept`: (C, 1, …) for each output channel, or (1, 1, …) for the tensor; 0 where none is kept."""
    dims = tuple(range(1 if scaling == "channel" else 0, sizes.dim()))
    total = torch.where(kept, sizes, torch.zeros(())).sum(dims, keepdim=True)
    return total / kept.sum(dims, keepdim=True).clamp(min=1)


def binary_inputs(subject: Compressed, names: list[str], context: Context) -> None:
    """Let what the layers of these weights read be 0 or a scale, set from calibration pictures; pictures themselves keep 8 bits."""
    found = inputs_of(subject.module, names)
    subject.activations |= observe(subject.module, list(context.calibration(RANGE_PICTURES)), 1, found, context.turn)
