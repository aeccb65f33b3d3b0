"""How long what is cancelled goes on: its row says so, and its cores are free, within a second. Wants a quiet machine."""

from __future__ import annotations

import time

import pytest

from core.jobs.turns import Turns
from core.store import CANCELLED
from tests.core.test_cancelling import RECIPES, cluster, computing, state, until  # noqa: F401  (a fixture among them)

pytestmark = pytest.mark.benchmark
LIMIT = 1.0  # seconds
WATCHED = 1.5


@pytest.mark.parametrize("doing", list(RECIPES))
def test_it_stops_within_a_second(cluster, doing):  # noqa: F811
    turns = Turns()
    identity = computing(cluster, turns, doing)
    asked = time.monotonic()
    cluster.cancel(identity)
    said = until(lambda: state(cluster, identity) == CANCELLED)
    last = asked
    while time.monotonic() - asked < WATCHED:  # between two batches a core is free for a moment, so it is looked at for longer
        if turns.held():
            last = time.monotonic()
        time.sleep(0.001)
    print(f"\n{doing}: cancelled after {said:.2f} s, the last batch ended after {last - asked:.2f} s")
    assert said < LIMIT and last - asked < LIMIT
