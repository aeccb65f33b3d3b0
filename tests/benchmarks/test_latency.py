"""How well a latency repeats, and how fast what is shipped is. Leave the machine alone meanwhile."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest

from core import engine
from core.jobs.turns import Turns
from core.metrics import latency
from core.metrics.latency import EAGER, FLOAT32, INT8
from core.recipe import Recipe
from core.studies import gallery
from core.studies.points import words
from core.work import Work

TRIES, WITHIN, LEAST = 10, 0.05, 9
SPEED_UPS = {"resnet18": 3.0, "mobilenet_v3_small": 1.5}  # times as fast as float32 in ONNX Runtime, one thread, batch 1
COPIED, COPIES, UNEVEN = 128 * 2**20, 15, 1.15  # bytes, how often, and how much longer at one time than at another means a host that is not quiet
MOST_POINTS, NEARLY = 1.0, 1.1  # points of top-1 that may be lost; by how much a shipped ratio may miss the limit and still be tried


HALF = Recipe.from_json({"steps": [{"step": "channel_prune", "sparsity": 0.5}]})
SMALL = "mobilenet_v3_small"
REPEATED = [pytest.param(model, FLOAT32, HALF, id=model) for model in gallery.MODELS] + [
    pytest.param(SMALL, INT8, gallery.preset("int8"), id=f"{SMALL}-int8"),
    pytest.param(SMALL, EAGER, HALF, id=f"{SMALL}-eager"),
]


def memory_seconds() -> float:
    """How long it takes to copy more than a cache holds: what others on the same host slow down, and no counter of this machine shows."""
    source = np.ones(COPIED, np.uint8)
    target, taken = np.empty_like(source), []
    for _ in range(COPIES):
        started = time.perf_counter()
        np.copyto(target, source)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


@pytest.mark.parametrize(("model", "runtime", "recipe"), REPEATED)
def test_the_ratio_repeats_within_five_percent_in_nine_of_ten_tries(model, runtime, recipe, capsys):
    work = Work(model, "fashion_mnist", recipe)
    base, subject = engine.loaded(work.model, work.dataset, work.checkpoint.hash), engine.shaped(work, engine.Hooks())
    rows, probes = [], [memory_seconds()]
    for _ in range(TRIES):
        rows.append(latency.row(runtime, subject, base, latency.Memory(), Turns().exclusive))
        probes.append(memory_seconds())
    middle, uneven = statistics.median(row["ratio"] for row in rows), max(probes) / min(probes)
    near = sum(abs(row["ratio"] / middle - 1) <= WITHIN for row in rows)
    with capsys.disabled():
        marked = sum(bool(row.get("disturbed")) for row in rows)
        ratios = sorted(round(row["ratio"], 3) for row in rows)
        print(f"\n{model}, {words(recipe)}, {runtime}: ratios {ratios}; {near} of {TRIES} within 5 %, {marked} disturbed; memory within {uneven:.2f} ×")
    if near < LEAST and uneven > UNEVEN:
        pytest.skip(f"copying memory took up to {uneven:.2f} times as long as at its best: others on the host are at it; try again when they are quiet")
    assert near >= LEAST


@pytest.mark.parametrize(("model", "times"), SPEED_UPS.items())
def test_a_shipped_recipe_is_as_much_faster_at_no_more_than_a_point_lost(model, times, capsys):
    """Every shipped run that comes near by the shipped figures is timed here and now, in turns with the baseline."""
    found = []
    for row in gallery.runs():
        shipped = {each["runtime"]: each["ratio"] for each in row["metrics"]["latencies"] if each["runtime"] != EAGER}
        if row["model"] != model or row["difference"]["top1"] < -MOST_POINTS or min(shipped.values(), default=1.0) > NEARLY / times:
            continue
        work = Work(model, row["dataset"], Recipe.from_json(row["recipe"]))
        base, subject = engine.loaded(work.model, work.dataset, work.checkpoint.hash), engine.shaped(work, engine.Hooks())
        here = latency.row(min(shipped, key=shipped.get), subject, base, latency.Memory(), Turns().exclusive)
        found.append((here["ratio_high"], words(work.recipe), row["difference"], here))
    with capsys.disabled():
        for _high, recipe, lost, here in sorted(found, key=lambda each: each[0]):
            print(
                f"\n{model}, {recipe}: {1 / here['ratio']:.2f} × as fast ({1 / here['ratio_high']:.2f} … {1 / here['ratio_low']:.2f}) in {here['runtime']}, "
                f"{lost['top1']:+.2f} points ({lost['low']:+.2f} … {lost['high']:+.2f}), n = 5,000" + (", disturbed" if here.get("disturbed") else "")
            )
    assert min(here["ratio"] for *_rest, here in found) <= 1 / times
