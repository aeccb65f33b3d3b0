"""What the hints of a teacher cost: the features that its classifier reads, which are in memory while a student trains.

`Work.check` asks before any work, `core.keeping.teachers` before it computes them. Imports no torch.
"""

from __future__ import annotations

from safetensors import safe_open

from core import zoo
from core.datasets import Dataset
from core.errors import BadRecipe
from core.zoo import Checkpoint

LARGEST = 256 * 2**20  # bytes


def width(checkpoint: Checkpoint) -> int:
    """How many features the classifier of a checkpoint reads of each picture, by the shapes that its file begins with."""
    with safe_open(checkpoint.path, framework="numpy") as stored:
        return stored.get_slice(zoo.models()[checkpoint.model]["weights"][-1]).get_shape()[1]


def check(checkpoint: Checkpoint, dataset: Dataset, images: int) -> None:
    """Raises `BadRecipe` when the features (2, n, W) float32 of the first `images` training pictures would take more than `LARGEST`."""
    each = 2 * 4 * width(checkpoint)
    if images * each <= LARGEST:
        return
    count, most = min(images, len(dataset.split("train"))), LARGEST // each
    if count > most:
        raise BadRecipe(
            f"The hints of {checkpoint.model} on {count:,} pictures take {each * count:,} bytes, and at most {LARGEST:,} are kept in memory; "
            f"take at most {most // 100 * 100:,} images, or leave the hints out."
        )
