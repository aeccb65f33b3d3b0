"""How long a model takes for a picture here, and so whether a preview can be had, or an estimate of the time stands in its place.

    instead(work, base, dataset)      # None, or the seconds that the run will take

Measured once a process on a few pictures, and only where arithmetic says that it may matter: 64 pictures of 32×32 always fit. Asked by `engine.preview`.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from core.recipe import TRAIN

if TYPE_CHECKING:
    from core.datasets import Dataset
    from core.weights import Compressed
    from core.work import Work

LEAST = 64  # pictures below which an accuracy says too little to be shown
LONGEST = 1.0  # seconds that they may take
SURELY_FIT = 7_500_000_000  # multiply-adds that any processor does in that time
BACKWARD = 3.0  # a training picture in forward passes
LATENCY_SECONDS = 12.0  # of a slow model, three runtimes one after the other

_SECONDS: dict[tuple, float] = {}


def instead(work: Work, base: Compressed, dataset: Dataset, turn=contextlib.nullcontext) -> float | None:
    """None where at least 64 pictures fit a preview; else about how many seconds the run of `work` takes, by the speed of its uncompressed model."""
    from core.metrics import cost

    size = base.architecture.input_size
    if LEAST * cost.macs(base.module, size) <= SURELY_FIT:
        return None
    each = seconds_a_picture(work, base, dataset, turn)
    return None if LEAST * each <= LONGEST else _of_run(work, dataset, each)


def seconds_a_picture(work: Work, base: Compressed, dataset: Dataset, turn=contextlib.nullcontext) -> float:
    """Measured on a few validation pictures after one to warm up, in seconds."""
    import torch

    size = base.architecture.input_size
    key = (work.model, work.checkpoint.hash, dataset.fingerprint, torch.get_num_threads())
    if key not in _SECONDS:
        x, _labels = next(dataset.batches(work.split, size, LEAST, LEAST))
        few = x[: max(1, min(len(x), 4))]
        with torch.inference_mode():
            with turn():
                base.module(few[:1])
            with turn():
                started = time.monotonic()
                base.module(few)
                _SECONDS[key] = (time.monotonic() - started) / len(few)
    return _SECONDS[key]


def _of_run(work: Work, dataset: Dataset, each: float) -> float:
    """Every picture that a step reads or trains on, the evaluation, and the latency."""
    count = len(dataset.split(work.split))
    pictures = float(count if work.images is None else min(work.images, count))
    for step in work.recipe.steps:
        read = min(getattr(step, "images", 0) or 0, len(dataset.split(step.reads)))
        pictures += read * (BACKWARD * step.epochs if step.kind == TRAIN else 1)
    return each * pictures + (LATENCY_SECONDS if work.latency else 0.0)
