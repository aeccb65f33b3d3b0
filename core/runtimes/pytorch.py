"""Eager PyTorch, ready to be timed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def forward_pass(module: nn.Module, input_size: int, threads: int = 1, batch: int = 1) -> Callable[[], torch.Tensor]:
    """A forward pass of so many pictures (batch, 3, S, S), channels_last, in inference mode, on so many threads; ready to be timed."""
    pictures = torch.randn(batch, 3, input_size, input_size, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)
    module.eval()

    def call() -> torch.Tensor:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            return module(pictures)

    return call
