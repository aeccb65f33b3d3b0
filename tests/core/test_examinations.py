"""Layers examined by a real cluster: kept for a reload, cancelled, done again when a worker is killed, newest first."""

from __future__ import annotations

import os
import signal

import pytest

from core.keeping import kept
from core.layers.facts import Layers
from core.layers.sensitivity import Sensitivity
from core.recipe import STEPS, Recipe
from core.store import CANCELLED, COMPLETE, RUNNING, SUPERSEDED
from core.work import Work
from tests.core.test_cluster import becomes, wait_for, worker_pids

pytestmark = pytest.mark.slow
MODEL, DATA, COUNT = "squeezenet1_1", "digits", 26  # layers: few, because each cell of a table is a model of its own


def sensitivity(name: str, *values, images: int = 150) -> Sensitivity:
    return Sensitivity(MODEL, DATA, STEPS.get(name)(), values, images)


def running(cluster, asked: Sensitivity, **options) -> str:
    identity = cluster.examine(asked, **options)["identity"]
    becomes(cluster, identity, RUNNING)
    return identity


def test_it_shows_what_is_measured_so_far_and_is_kept(cluster):
    asked = sensitivity("magnitude_prune", *(0.5, 0.6, 0.8, 0.9), images=250)  # long enough to be seen on its way on any machine
    rows = list(cluster.follow(cluster.examine(asked)["identity"]))
    assert rows[-1]["state"] == COMPLETE
    so_far = [row["preview"]["metrics"] for row in rows if row["preview"]]
    found = cluster.examined(asked.identity())
    assert so_far and so_far[0]["layers"] == found["layers"] and len(found["cells"]) == COUNT and all(len(cells) == 4 for cells in found["cells"])
    assert cluster.examine(asked)["state"] == COMPLETE  # at once, without asking anybody
    kept.drop(kept.path_of("layers", f"{asked.identity()}.json"))
    assert cluster.examine(asked)["state"] != COMPLETE
    cluster.cancel(asked.identity())


def test_what_is_not_kept_any_more_is_measured_again(cluster):
    asked = sensitivity("magnitude_prune", 0.5, images=50)
    becomes(cluster, cluster.examine(asked)["identity"], COMPLETE)
    first = cluster.examined(asked.identity())
    kept.drop(kept.path_of("layers", f"{asked.identity()}.json"))
    assert cluster.examine(asked)["state"] != COMPLETE
    wait_for(lambda: cluster.examined(asked.identity()))
    assert cluster.examined(asked.identity())["cells"] == first["cells"]


def test_layers_of_a_recipe(cluster):
    asked = Layers(Work(MODEL, DATA, Recipe.from_json({"steps": [{"step": "magnitude_prune"}, {"step": "quantize"}]})))
    becomes(cluster, cluster.examine(asked, lane="me")["identity"], COMPLETE)
    assert len(cluster.examined(asked.identity())["layers"]) == COUNT


def test_it_is_cancelled(cluster):
    identity = running(cluster, sensitivity("quantize", *(8, 7, 6, 5, 4, 3, 2), images=360))
    cluster.cancel(identity)
    becomes(cluster, identity, CANCELLED)


def test_the_newest_of_a_lane_wins(cluster):
    first = running(cluster, sensitivity("random_prune", *(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), images=350), lane="me")
    second = cluster.examine(sensitivity("random_prune", 0.5, images=100), lane="me")["identity"]
    assert becomes(cluster, first, CANCELLED)["stage"] == SUPERSEDED
    becomes(cluster, second, COMPLETE)


def test_a_killed_worker_is_replaced_and_the_work_done_again(cluster):
    asked = sensitivity("share_weights", 16, 4)
    identity = running(cluster, asked)
    busy = [worker for worker, tasks in cluster._connection.client.processing().items() if tasks]
    names = {facts["name"]: address for address, facts in cluster._connection.client.scheduler_info()["workers"].items()}
    pids = worker_pids(cluster)
    for name, address in names.items():
        if address in busy:
            os.kill(pids[name], signal.SIGKILL)
    becomes(cluster, identity, COMPLETE)
    assert cluster.examined(identity)
