"""The scales of binary and ternary weights."""

from __future__ import annotations

import torch
from torch import Tensor


def means(sizes: Tensor, kept: Tensor, scaling: str) -> Tensor:
    """The mean of sizes (C, …) where `kept`: (C, 1, …) for each output channel, or (1, 1, …) for the tensor; 0 where none is kept."""
    dims = tuple(range(1 if scaling == "channel" else 0, sizes.dim()))
    total = torch.where(kept, sizes, torch.zeros(())).sum(dims, keepdim=True)
    return total / kept.sum(dims, keepdim=True).clamp(min=1)
