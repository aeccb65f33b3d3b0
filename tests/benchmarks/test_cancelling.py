"""How long what is cancelled goes on: its row says so, and its cores are free, within a second. Wants a quiet machine."""

from __future__ import annotations

import time

import pytest

from core.recipe import Recipe
from core.store import CANCELLED, RUNNING
from core.turns import Turns
from core.work import Work
from tests.core.test_cancelling import RECIPES, STAGES, cluster, state, until  # noqa: F401  (a fixture among them)

pytestmark = pytest.mark.benchmark
LIMIT = 1.0  # seconds
WATCHED = 1.5


@pytest.mark.parametrize("doing", list(RECIPES))
def test_it_stops_within_a_second(cluster, doing):  # noqa: F811
    turns = Turns()
    identity = cluster.submit(Work("resnet18", "fashion_mnist", Recipe.from_json({"steps": RECIPES[doing]}), latency=False))["identity"]
    until(lambda: state(cluster, identity) == RUNNING)
    until(lambda: cluster.store.find(identity)["stage"] == STAGES[doing] if doing in STAGES else turns.held() > 0)
    time.sleep(0.2)
    asked = time.monotonic()
    cluster.cancel(identity)
    said = until(lambda: state(cluster, identity) == CANCELLED)
    computing = asked
    while time.monotonic() - asked < WATCHED:  # between two batches a core is free for a moment, so it is looked at for longer
        if turns.held():
            computing = time.monotonic()
        time.sleep(0.001)
    print(f"\n{doing}: cancelled after {said:.2f} s, the last batch ended after {computing - asked:.2f} s")
    assert said < LIMIT and computing - asked < LIMIT
