"""How many threads torch may compute with in this process."""

from __future__ import annotations

import os


def use_threads(count: int) -> None:
    """Fix the thread count before torch's libraries read it, and in torch itself; imports torch."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(count)
    import torch

    torch.set_num_threads(count)
