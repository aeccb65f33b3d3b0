"""What the engine costs on top of what cannot be avoided: ratios in one run, the two sides taking turns."""

from __future__ import annotations

import statistics
import time

import pytest

from core.recipe import Recipe
from core.work import Work

pytestmark = pytest.mark.benchmark

ROUNDS = 5
STEPS = [{"step": "magnitude_prune", "sparsity": 0.8}, {"step": "quantize", "weight_bits": 4}]


def seconds_of(job) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_compress_evaluate_and_pack_cost_little_more_than_looking_at_the_pictures(model, record_property):
    """Compress + evaluate + artifact over the whole validation split, against a bare channels_last forward loop."""
    import torch

    from core import engine
    from core.datasets import load

    work = Work(model, "fashion_mnist", Recipe.from_json({"steps": STEPS}), latency=False)
    module = work.checkpoint.load()
    pictures, _ = load("fashion_mnist").tensors("validation", 32)

    def bare() -> None:
        with torch.inference_mode():
            for start in range(0, len(pictures), 250):
                module(pictures[start : start + 250]).argmax(1)

    def ours() -> None:
        result = engine.run(work)
        assert result.metrics["images"] == len(pictures)

    bare(), ours()  # warm both
    ratios = []
    for _ in range(ROUNDS):
        ratios.append(seconds_of(ours) / seconds_of(bare))
    ratio = statistics.median(ratios)
    record_property("ratio", ratio)
    print(f"\n{model}: {ratio:.3f} × the bare loop (rounds {', '.join(f'{each:.3f}' for each in ratios)}; {torch.get_num_threads()} threads)")
    assert ratio <= 1.2
