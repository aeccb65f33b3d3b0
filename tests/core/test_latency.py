"""Latency: what a signature depends on, and the statistics of a measurement, with a clock that is not the machine's."""

import contextlib
import json

import numpy as np
import pytest
import torch
from scipy import stats

from core.machine import machine
from core.methods.apply import Context
from core.methods.quantize import Quantize
from core.methods.quantize import apply as quantize
from core.metrics import latency
from core.metrics.latency import EAGER, FLOAT32, INT8, signature
from core.models.architecture import Architecture
from core.runtimes import onnx as runtime
from core.weights import ActivationGrid, Compressed
from tests.five_layers import FiveLayers

ROW = {"runtime", "threads", "batch", "ms_p10", "ms_p50", "ms_p90", "ratio", "ratio_low", "ratio_high"}


class Clock:
    """Stands still but for the calls that are timed, which each take as long as `seconds` says of their number."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def call(self, seconds):
        number = 0

        def take() -> None:
            nonlocal number
            self.now += seconds(number)
            number += 1

        return take


def alone():
    return lambda: 0.0


def crowded():
    return lambda: 1.0


def measured(mine, theirs, others=alone, **options) -> tuple[dict, float]:
    """The row for two calls of these lengths, and how long it took by their own clock."""
    clock = Clock()
    row = latency.measure(clock.call(mine), clock.call(theirs), clock=clock, others=others, **options)
    return row, clock.now


def noisy(mean: float, seed: int):
    lengths = mean * (1 + 0.1 * np.random.default_rng(seed).random(100_000))
    return lambda number: float(lengths[number])


def subject() -> Compressed:
    torch.manual_seed(0)
    return Compressed.of(FiveLayers().eval(), Architecture("resnet18", 10, 32))


def test_a_preview_may_come_between_two_blocks():
    asked, watched = iter([False, True]), []

    def others():
        watched.append(None)
        return lambda: 0.0

    row, _seconds = measured(lambda number: 0.001, lambda number: 0.002, others, pause=lambda: next(asked, False))
    assert row["ratio"] == pytest.approx(0.5) and "disturbed" not in row
    assert len(watched) == 2  # what the preview computed is not held against the measurement


def test_half_the_time_is_a_ratio_of_one_half():
    row, _seconds = measured(lambda number: 0.001, lambda number: 0.002)
    assert [row[name] for name in ("ratio", "ratio_low", "ratio_high")] == pytest.approx([0.5] * 3)
    assert [row[name] for name in ("ms_p10", "ms_p50", "ms_p90")] == pytest.approx([1.0] * 3)
    assert "disturbed" not in row
    assert latency.verdict(row) == "faster"


@pytest.mark.parametrize("seed", range(8))
def test_equal_graphs_are_not_told_apart(seed):
    row, _seconds = measured(noisy(0.001, seed), noisy(0.001, 100 + seed))
    assert row["ratio_low"] <= 1.005
    assert row["ratio_high"] >= 0.995
    assert row["ratio"] == pytest.approx(1, abs=0.01)


def test_most_intervals_of_equal_graphs_hold_one():
    rows = [measured(noisy(0.005, seed), noisy(0.005, 500 + seed))[0] for seed in range(40)]
    assert sum(latency.verdict(row) == "not distinguishable" for row in rows) >= 34


def test_a_slow_drift_of_the_machine_cancels_out():
    row, _seconds = measured(lambda number: 0.001 * (1 + number / 1000), lambda number: 0.001 * (1 + number / 1000))
    assert row["ratio"] == pytest.approx(1, abs=0.02)


def test_percentiles_are_numpys():
    clock = Clock()
    lengths = iter(np.random.default_rng(0).uniform(0.001, 0.002, 100_000))
    taken = []

    def call():
        taken.append(next(lengths))
        clock.now += taken[-1]

    row = latency.measure(call, call, same=True, clock=clock, others=alone)
    kept = taken[-round(len(taken) * 0.5) :]  # warm-up aside, any half of uniform values has these percentiles nearly
    np.testing.assert_allclose([row["ms_p10"], row["ms_p50"], row["ms_p90"]], np.percentile(kept, [10, 50, 90]) * 1000, rtol=0.05)
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == (1.0, 1.0, 1.0)


def test_a_busy_machine_is_measured_three_times_and_then_marked():
    _calm, once = measured(lambda number: 0.001, lambda number: 0.001)
    row, thrice = measured(lambda number: 0.001, lambda number: 0.001, crowded)
    assert row["disturbed"] is True
    assert 2 < thrice / once < 3.5


def test_one_disturbance_is_measured_again_and_forgotten():
    loads = iter([0.9, 0.0])
    row, _seconds = measured(lambda number: 0.001, lambda number: 0.002, lambda: lambda: next(loads))
    assert "disturbed" not in row
    assert next(loads, None) is None


def test_a_block_that_takes_far_longer_than_the_others_is_a_disturbance():
    row, _seconds = measured(lambda number: 0.001 if number % 450 < 400 else 0.01, lambda number: 0.001)
    assert row["disturbed"] is True


@pytest.mark.parametrize(("length", "most"), [(0.0001, 1.5), (0.02, 2.0), (0.3, 5.5)])
def test_the_time_of_a_measurement_is_bounded(length, most):
    _row, seconds = measured(lambda number: length, lambda number: length)
    assert seconds < most


def test_a_machine_that_becomes_crowded_while_measuring_does_not_hold_up_the_work():
    row, seconds = measured(lambda number: 0.001 if number < 100 else 0.05, lambda number: 0.001 if number < 100 else 0.05, crowded)
    assert row["disturbed"] is True
    assert seconds < 20  # six blocks of sixty calls, once; not three times fifteen


def test_the_interval_is_that_of_scipys_bootstrap():
    ratios = np.random.default_rng(3).normal(0.9, 0.02, 15)
    ours = latency.bootstrap(ratios)
    theirs = stats.bootstrap((ratios,), np.median, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    assert ours[0] == np.median(ratios)
    assert ours[1:] == pytest.approx([theirs.low, theirs.high], abs=0.004)
    assert ours == latency.bootstrap(ratios)


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.8, 0.9, "faster"), (1.1, 1.2, "slower"), (0.9, 1.1, "not distinguishable"), (1.0, 1.0, "not distinguishable")]
)
def test_the_verdict_is_that_of_the_interval(low, high, word):
    assert latency.verdict({"ratio_low": low, "ratio_high": high}) == word


def test_a_signature_knows_neither_values_nor_zeros_nor_codes():
    plain, changed = subject(), subject()
    for name, weight in changed.weights.items():
        changed.set(name, weight.pruned(torch.rand_like(weight.latent) > 0.5))
    quantize(Quantize(weight_bits=4), changed, Context(None, None))
    for kind in (FLOAT32, EAGER):
        assert signature(changed, kind) == signature(plain, kind)


def test_a_signature_knows_shapes_runtime_threads_and_batch():
    plain, thinner = subject(), subject()
    thinner.architecture = Architecture("resnet18", 10, 32, {"conv1.weight": [32, 3, 7, 7]})
    every = [signature(plain, FLOAT32), signature(plain, EAGER), signature(thinner, FLOAT32)]
    every += [signature(plain, FLOAT32, threads=2), signature(plain, FLOAT32, batch=8)]
    assert len(set(every)) == len(every)


def test_an_int8_signature_knows_what_is_on_grids_but_not_which_grids():
    first, second, partial = subject(), subject(), subject()
    for one, layers, scale in [(first, "all", 0.1), (second, "all", 0.2), (partial, "inner", 0.1)]:
        quantize(Quantize(weight_bits=8, layers=layers), one, Context(None, None))
        one.activations = {"x": ActivationGrid(scale, 0, 8)}
    assert signature(first, INT8) == signature(second, INT8)
    assert signature(first, INT8) != signature(partial, INT8)
    partial.activations = {}
    assert signature(first, FLOAT32) == signature(partial, FLOAT32)


@pytest.fixture
def quick(monkeypatch):
    """Real sessions, short blocks."""
    for name, value in [("WARM_UP_SECONDS", 0.002), ("LEAST_BLOCKS", 2), ("TRIES", 1)]:
        monkeypatch.setattr(latency, name, value)
    monkeypatch.setattr(latency.measure, "__kwdefaults__", latency.measure.__kwdefaults__ | {"blocks": 2, "block_seconds": 0.002})


def test_what_is_in_the_book_is_not_measured_again(quick):
    entered = []

    @contextlib.contextmanager
    def exclusive():
        entered.append(True)
        yield

    base, book = subject(), latency.Memory()
    rows, file_bytes, notes = latency.latencies(base, base, book, exclusive)
    assert [row["runtime"] for row in rows] == [FLOAT32, EAGER]
    assert all(set(row) >= ROW for row in rows)
    assert all((row["ratio"], row["ratio_low"], row["ratio_high"]) == (1, 1, 1) for row in rows)
    assert file_bytes == len(runtime.export_float32(base.module, 32))
    assert len(entered) == 2

    pruned = subject()
    pruned.set("fc.weight", pruned.weights["fc.weight"].pruned(torch.rand(10, 32) > 0.5))
    assert latency.latencies(pruned, base, book, exclusive) == (rows, file_bytes, notes) and not notes
    assert len(entered) == 2
    json.dumps(rows)


def test_an_int8_recipe_has_three_rows_and_deploys_its_int8_file(quick):
    base, small = subject(), subject()
    quantize(Quantize(weight_bits=8), small, Context(None, None))
    from core.arithmetic.activations import observe

    small.activations = observe(small.module, [torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))], 8)
    rows, file_bytes, _notes = latency.latencies(small, base, latency.Memory())
    assert [row["runtime"] for row in rows] == [FLOAT32, INT8, EAGER]
    assert file_bytes == len(runtime.export_int8(small))
    assert [row["ratio"] == 1.0 for row in rows] == [True, False, True]


def test_the_machine_has_one_name():
    facts = machine()
    assert facts == machine()
    assert len(facts["id"]) == 16
    assert facts["cores"] >= 1
    json.dumps(facts)
