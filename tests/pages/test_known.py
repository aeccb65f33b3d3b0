"""Measured runs: the store's take the place of the gallery's, and changes are seen."""

import pytest

from core.store import Store
from pages.ui.known import Shelf
from tests.pages.conftest import PRUNE, REPAIR, TRIED, result, shipped


@pytest.fixture
def store(home):
    made = Store()
    yield made
    made.close()


def test_models_are_kept_apart_and_the_baseline_aside(store):
    known = Shelf(store, shipped(), "here").known("resnet18", "fashion_mnist")
    assert len(known.rows) == len(TRIED) - 1 and {row["model"] for row in known.rows} == {"resnet18"}
    assert known.baseline["top1"] == 92.0 and known.baseline["elsewhere"]
    assert {row["model"] for row in known.others} == {"squeezenet1_1"}
    assert known.find(known.rows[0]["id"]) is known.rows[0] and known.find(known.baseline["id"]) is known.baseline
    assert known.find("nothing") is None


def test_what_is_measured_here_replaces_and_stays(store):
    shelf = Shelf(store, shipped(), "here")
    own = result("resnet18", [PRUNE, REPAIR], 2, machine="here")
    store.complete(own["identity"], own)
    row = next(row for row in shelf.known("resnet18", "fashion_mnist").rows if row["key"] == own["key"])
    assert row["top1"] == 90.0 and not row["elsewhere"]
    foreign = result("resnet18", [PRUNE, REPAIR], 3, machine="elsewhere")
    store.complete(foreign["identity"] + "-other", foreign)
    row = next(row for row in shelf.known("resnet18", "fashion_mnist").rows if row["key"] == own["key"])
    assert row["top1"] == 90.0


def test_a_new_run_appears_at_the_next_look(store):
    shelf = Shelf(store, (), "here")
    assert shelf.known("resnet18", "fashion_mnist").rows == []
    own = result("resnet18", [PRUNE], 1, machine="here")
    store.complete(own["identity"], own)
    known = shelf.known("resnet18", "fashion_mnist")
    assert len(known.rows) == 1
    assert known.baseline["artifact_bytes"] == 44_700_000  # from what the run recorded of it


def test_other_datasets_and_splits_stay_out(store):
    shelf = Shelf(store, [result("resnet18", [PRUNE], 1) | {"split": "test"}, result("resnet18", [PRUNE], 1) | {"dataset": "digits"}], "here")
    assert shelf.known("resnet18", "fashion_mnist").rows == []
    assert len(shelf.known("resnet18", "digits").rows) == 1
