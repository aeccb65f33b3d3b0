"""Accuracy with its uncertainty: top-1 and top-5 with Wilson intervals, and paired comparisons on the same pictures.

`evaluate` is the only loop that runs a model over a split. The statistics below it need numpy and scipy alone.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
Z = 1.959963984540054  # the normal quantile of CONFIDENCE, two-sided


@dataclass(frozen=True)
class Predictions:
    """What a model said about the first n pictures of a split."""

    predicted: np.ndarray  # (n,) uint16, the most probable label, of equal ones the first
    labels: np.ndarray  # (n,) int64, the true label
    in_top5: np.ndarray  # (n,) bool, the true label is among the five most probable

    @property
    def right(self) -> np.ndarray:
        return self.predicted == self.labels  # (n,) bool

    def first(self, count: int) -> Predictions:
        return Predictions(self.predicted[:count], self.labels[:count], self.in_top5[:count])

    def __len__(self) -> int:
        return len(self.labels)


def evaluate(
    module,
    dataset,
    input_size: int,
    split: str = "validation",
    images: int | None = None,
    *,
    batch_size: int = 250,
    seconds: float | None = None,
    at_least: int = 64,
    turn: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    report: Callable[[float], None] = lambda fraction: None,
) -> Predictions:
    """Run `module` over the first `images` pictures of a split, in batches, in inference mode.

    With `seconds`, stop before the batch that would not fit that time (but not before `at_least` pictures). `turn` is entered
    around every batch and may wait, or raise `Cancelled`. `report` receives the fraction done.
    """
    import torch

    from core import device

    count = len(dataset.split(split)) if images is None else min(images, len(dataset.split(split)))
    predicted, truth, in_top5, seen = [], [], [], 0
    started = time.monotonic()
    where, module = device.place(), device.on(module)
    with torch.inference_mode():
        for x, labels in dataset.batches(split, input_size, batch_size, count):
            with turn():
                logits = module(x.to(where)).cpu()  # (B, K)
                best = logits.topk(min(5, logits.shape[1]), dim=1).indices
            # of equal logits, which int8 networks have, the first: numpy takes that behind every runtime, and topk takes any
            predicted.append(logits.argmax(1).numpy().astype(np.uint16))
            truth.append(labels.numpy())
            in_top5.append((best == labels[:, None]).any(1).numpy())
            seen += len(labels)
            report(seen / count)
            spent = time.monotonic() - started
            if seconds is not None and seen >= at_least and spent + spent / len(predicted) > seconds:
                break
    return Predictions(np.concatenate(predicted), np.concatenate(truth), np.concatenate(in_top5))


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion, in percent (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    share = right / count
    centre = share + Z * Z / (2 * count)
    spread = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    scale = 100 / (1 + Z * Z / count)
    return max(0.0, (centre - spread) * scale), min(100.0, (centre + spread) * scale)


def paired_difference(right: np.ndarray, baseline_right: np.ndarray) -> dict[str, float]:
    """Difference of two accuracies on the same pictures: `top1`, `low`, `high`, in points (compressed less baseline).

    The interval is Agresti and Min's adjusted Wald interval for matched pairs (2005, doi:10.1002/sim.1781): half a picture
    is added to each of the four cells. Both arguments (n,) bool, of the same first n pictures.
    """
    count = len(right)
    gained = int((right & ~baseline_right).sum())
    lost = int((~right & baseline_right).sum())
    total = count + 2
    delta = (gained - lost) / total
    spread = Z * math.sqrt(max(0.0, (gained + lost + 1) - (gained - lost) ** 2 / total)) / total
    return {"top1": 100 * (gained - lost) / count, "low": 100 * (delta - spread), "high": 100 * (delta + spread)}


def summary(predictions: Predictions) -> dict[str, float | int]:
    """`top1`, `top1_low`, `top1_high`, `top5` in percent, and `images`."""
    right = int(predictions.right.sum())
    low, high = wilson(right, len(predictions))
    return {
        "top1": 100 * right / len(predictions), "top1_low": low, "top1_high": high,
        "top5": 100 * float(predictions.in_top5.mean()), "images": len(predictions),
    }  # fmt: skip
