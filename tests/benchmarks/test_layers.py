"""What the sensitivity of every layer costs against as many whole evaluations: one ratio, the two sides taking turns in one run."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.benchmark

MODEL, DATA, ROUNDS = "resnet18", "fashion_mnist", 3
AT_MOST = 0.6


def seconds_of(job) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


@pytest.mark.parametrize(
    ("step", "fields", "images", "rounds", "at_most"),
    [
        ("magnitude_prune", {}, 250, ROUNDS, AT_MOST),
        ("magnitude_prune", {}, 500, ROUNDS, AT_MOST),
        ("quantize", {}, 250, ROUNDS, AT_MOST),
        ("quantize", {"activation_bits": 8}, 500, 1, 0.85),
    ],
)
def test_a_table_of_sensitivities_costs_a_part_of_its_evaluations(step, fields, images, rounds, at_most, record_property):
    """Every layer of resnet18 at five settings: 105 cells, against compressing and evaluating 105 times.

    250 pictures are what the page begins with. `quantize` with activations looks for their ranges in each cell, on either side: 500 pictures beside those
    that are evaluated.
    """
    import statistics

    import torch

    from core import engine
    from core.datasets import load
    from core.layers.sensitivity import Sensitivity, measure
    from core.recipe import STEPS

    torch.set_num_threads(1)
    asked = Sensitivity(MODEL, DATA, STEPS.get(step)(**fields), images=images)
    pairs = [(layer, value) for layer in asked.layers for value in asked.values]
    dataset = load(DATA)
    found: dict = {}

    def ours() -> None:
        found.update(measure(asked))

    def whole() -> None:
        for layer, value in pairs:
            work = asked.work(layer, value)
            predictions = engine.predict(engine.compress(work), dataset, work, engine.Hooks())
            at = found["cells"][asked.layers.index(layer)][asked.values.index(value)]
            assert at["top1"] == 100 * int(predictions.right.sum()) / len(predictions)

    engine.predict(engine.compress(asked.baseline()), dataset, asked.baseline(), engine.Hooks())  # warm
    ratios = []
    for _ in range(rounds):
        mine, theirs = seconds_of(ours), seconds_of(whole)
        ratios.append(mine / theirs)
        print(f"\n{MODEL}, {step}, {len(pairs)} cells of {images} pictures: {mine:.1f} s against {theirs:.1f} s, {mine / theirs:.3f} × (at most {at_most})")
    ratio = statistics.median(ratios)
    record_property("ratio", ratio)
    assert found["whole"] == "" and ratio <= at_most
