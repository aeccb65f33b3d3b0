"""How well a latency repeats. Leave the machine alone meanwhile."""

from __future__ import annotations

import statistics

from core import engine
from core.metrics import latency
from core.metrics.latency import FLOAT32
from core.recipe import Recipe
from core.turns import Turns
from core.work import Work

TRIES, WITHIN, LEAST = 10, 0.05, 9


def test_the_ratio_repeats_within_five_percent_in_nine_of_ten_tries(capsys):
    recipe = Recipe.from_json({"steps": [{"step": "channel_prune", "sparsity": 0.5}]})
    work = Work("resnet18", "fashion_mnist", recipe)
    base, subject = engine.loaded(work.model, work.dataset, work.checkpoint.hash), engine.shaped(work, engine.Hooks())
    rows = [latency.row(FLOAT32, subject, base, latency.Memory(), Turns().exclusive) for _ in range(TRIES)]
    middle = statistics.median(row["ratio"] for row in rows)
    near = sum(abs(row["ratio"] / middle - 1) <= WITHIN for row in rows)
    with capsys.disabled():
        marked = sum(bool(row.get("disturbed")) for row in rows)
        ratios = sorted(round(row["ratio"], 3) for row in rows)
        print(f"\nresnet18, half the channels: ratios {ratios}; {near} of {TRIES} within 5 %, {marked} marked as disturbed")
    assert near >= LEAST
