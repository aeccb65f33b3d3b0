"""Cancelling what really computes: a real cluster with the real engine stops within a few batches, and its cores are free."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest

from core.cluster import connect
from core.errors import ClusterError
from core.jobs.connection import stop_office
from core.jobs.turns import Turns
from core.recipe import Recipe
from core.store import CANCELLED, COMPLETE, RUNNING
from core.work import Work

pytestmark = pytest.mark.alone
QUIET = 1.0  # seconds without a batch, after which none is expected any more
RECIPES = {
    "training": [{"step": "distill", "epochs": 50, "images": 4000}],
    "evaluating": [{"step": "magnitude_prune", "sparsity": 0.37}],
    "sharing weights": [{"step": "share_weights", "clusters": 200}, {"step": "finetune", "epochs": 50}],
    "roundings": [{"step": "quantize", "weight_bits": 4}, {"step": "round_adaptively", "iterations": 2000, "images": 1000}],
}
# Batches that may begin before the worker has heard of the cancelling: a second's on a quiet machine, and fewer than are left.
MOST_BATCHES = {"training": 10, "evaluating": 10, "sharing weights": 100, "roundings": 200}
STAGES = {"training": "train", "evaluating": "evaluate"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    place = tmp_path_factory.mktemp("cancelling")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETOSCOPE_HOME", str(place / "home"))
        patch.setenv("PARETOSCOPE_TURNS", str(place / "turns"))
        (place / "history").mkdir()
        patch.setenv("PARETOSCOPE_TURNS_HISTORY", str(place / "history"))
        patch.delenv("PARETOSCOPE_ENGINE", raising=False)
        opened = connect()
        warm = opened.submit(Work("squeezenet1_1", "digits", latency=False))["identity"]  # torch is imported
        until(lambda: state(opened, warm) == COMPLETE)
        yield opened
        opened.close()
        with contextlib.suppress(ClusterError):  # it takes long
            stop_office()


def state(cluster, identity: str) -> str | None:
    return (cluster.store.find(identity) or {}).get("state")


def until(true, seconds: float = 120.0) -> float:
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, f"nothing within {seconds:g} seconds"
        time.sleep(0.01)
    return time.monotonic() - started


def batches(since: float) -> int:
    """How many were begun after a moment, of those that have ended."""
    lines = [line.split() for file in Path(os.environ["PARETOSCOPE_TURNS_HISTORY"]).iterdir() for line in file.read_text().splitlines()]
    return sum(float(begun) > since for _token, begun, _ended in lines)


def computing(cluster, turns: Turns, doing: str) -> str:
    """The identity of a run that is in the midst of it."""
    wanted = Work("resnet18", "fashion_mnist", Recipe.from_json({"steps": RECIPES[doing]}), latency=False)
    identity = cluster.submit(wanted)["identity"]
    until(lambda: state(cluster, identity) == RUNNING)
    if doing in STAGES:
        until(lambda: cluster.store.find(identity)["stage"] == STAGES[doing])
    else:
        until(lambda: turns.held() > 0)
    time.sleep(0.2)
    assert state(cluster, identity) == RUNNING, "it was done too soon"
    return identity


@pytest.mark.parametrize("doing", list(RECIPES))
def test_it_stops_within_a_few_batches(cluster, doing):
    turns = Turns()
    identity = computing(cluster, turns, doing)
    asked = time.monotonic()
    cluster.cancel(identity)
    until(lambda: state(cluster, identity) == CANCELLED, 10.0)  # a second on a quiet machine
    held = time.monotonic()
    while time.monotonic() - held < QUIET:  # between two batches a core is free for a moment
        if turns.held():
            held = time.monotonic()
            assert held - asked < 60, "it goes on"
        time.sleep(0.001)
    assert batches(asked) <= MOST_BATCHES[doing]
    assert cluster.store.find(identity)["message"] == "Cancelled."
