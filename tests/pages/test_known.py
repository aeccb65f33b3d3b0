"""Measured runs: the store's take the place of the gallery's, and changes are seen."""

import pytest

from core.recipe import Recipe
from core.store import Store
from core.studies.known import Known, Shelf
from core.work import Work
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


@pytest.mark.parametrize("steps", [[{"step": "quantize"}, REPAIR, {"step": "correct_bias"}], [PRUNE | {"sparsity": 2.0}], [PRUNE | {"layers": "nowhere"}]])
def test_a_run_whose_recipe_is_refused_by_now_is_left_out(store, steps):
    old = result("resnet18", [PRUNE], 1) | {"recipe": {"seed": 0, "steps": steps}, "identity": "old"}
    known = Shelf(store, [*shipped(), old], "here").known("resnet18", "fashion_mnist")
    assert len(known.rows) == len(TRIED) - 1


def measured(model: str, dataset: str, **facts) -> dict:
    recipe = Recipe.from_json({"steps": [PRUNE]})
    return result("resnet18", [PRUNE], 1) | {"model": model, "dataset": dataset, "identity": Work(model, dataset, recipe, **facts).identity()}


def test_other_datasets_and_splits_stay_out(store):
    rows = [measured("resnet18", "fashion_mnist", split="test") | {"split": "test"}, measured("mobilenet_v3_small", "digits")]
    shelf = Shelf(store, rows, "here")
    assert shelf.known("resnet18", "fashion_mnist").rows == []
    assert len(shelf.known("mobilenet_v3_small", "digits").rows) == 1


def test_runs_of_another_checkpoint_or_of_part_of_the_split_stay_out(store, checkpoints):
    whole, part = measured("resnet18", "fashion_mnist"), measured("resnet18", "fashion_mnist", images=100)
    shelf = Shelf(store, [whole, part], "here")
    assert [row["identity"] for row in shelf.known("resnet18", "fashion_mnist").rows] == [whole["identity"]]
    (checkpoints / "resnet18.safetensors").write_bytes(b"trained anew")
    assert shelf.known("resnet18", "fashion_mnist").rows == []


def timed(row: dict, signature: str) -> dict:
    """The result with a graph signature in its latency and its baseline's."""
    metrics = row["metrics"] | {"latencies": [row["metrics"]["latencies"][0] | {"signature": signature}]}
    baseline = row["baseline"] | {"latencies": [row["baseline"]["latencies"][0] | {"signature": "base"}]}
    return row | {"metrics": metrics, "baseline": baseline}


def test_a_graph_that_was_timed_here_times_all_its_runs(store):
    shelf = Shelf(store, [timed(result("resnet18", [PRUNE], 1), "a"), timed(result("resnet18", [REPAIR], 1), "b")], "here")
    known = shelf.known("resnet18", "fashion_mnist")
    assert all(row["elsewhere"] for row in known.rows)
    assert known.untimed(known.rows[1], set())["graph"] == "b"  # the one at hand first
    assert known.untimed(None, {"a"})["graph"] == "b" and known.untimed(None, {"a", "b"}) is None
    own = {"runtime": "onnxruntime-float32", "threads": 1, "batch": 1, "ms_p10": 1.0, "ms_p50": 1.1, "ms_p90": 1.2}
    own |= {"ratio": 0.5, "ratio_low": 0.4, "ratio_high": 0.6}
    key = {"signature": "a", "baseline_signature": "base", "machine_id": "here", "runtime": "onnxruntime-float32", "threads": 1, "batch": 1}
    store.add_latencies([key | {"row": own | {"signature": "a"}, "measured_at": 0.0}])
    done = result("resnet18", TRIED[3], 1, machine="here")
    store.complete(done["identity"], done)  # what timed it changes the store as well
    rows = {row["graph"]: row for row in shelf.known("resnet18", "fashion_mnist").rows}
    assert rows["a"]["ratio"] == 0.5 and not rows["a"]["elsewhere"] and rows["b"]["elsewhere"]


def test_a_graph_that_is_timed_again_has_its_new_latency_in_all_its_runs(store):
    """Also in those of this machine, which came with the latency of their day."""
    own = timed(result("resnet18", [PRUNE], 1, machine="here"), "a")
    shelf = Shelf(store, [], "here")
    store.complete(own["identity"], own)
    before = shelf.known("resnet18", "fashion_mnist").rows[0]
    key = {"signature": "a", "baseline_signature": "base", "machine_id": "here", "runtime": "onnxruntime-float32", "threads": 1, "batch": 1}
    taken = {"runtime": "onnxruntime-float32", "threads": 1, "batch": 1, "ms_p10": 1.0, "ms_p50": 1.1, "ms_p90": 1.2, "ratio_low": 0.4, "ratio_high": 0.6}
    for moment, ratio in ((1.0, 0.5), (2.0, 0.55)):
        store.add_latencies([key | {"row": taken | {"ratio": ratio, "signature": "a", "measured_at": moment}, "measured_at": moment}])
        after = shelf.known("resnet18", "fashion_mnist").rows[0]
        assert after["ratio"] == after["ratio_float32"] == ratio and after["ms_p50"] == 1.1 and not after["elsewhere"]
        assert {name for name in after if after[name] != before[name]} <= {name for name in after if name.startswith(("ratio", "ms_"))}


def test_what_no_run_comes_with_is_found_by_the_graphs_that_runs_name(store):
    here = result("resnet18", TRIED[3], 1, machine="here")
    shelf = Shelf(store, [timed(result("resnet18", [PRUNE], 1), "a"), timed(result("resnet18", [REPAIR], 1), "b"), timed(here, "a")], "here")
    before = shelf.known("resnet18", "fashion_mnist").rows
    assert {row["ratio_litert"] for row in before} == {None}
    key = {"machine_id": "here", "runtime": "litert-float32", "threads": 1, "batch": 1}
    litert = {"runtime": "litert-float32", "threads": 1, "batch": 1, "ratio": 0.7}
    older = key | {"signature": "o", "baseline_signature": "p", "row": litert | {"ratio": 0.1, "beside": ["a", "base"], "measured_at": 1.0}, "measured_at": 1.0}
    of_another_model = key | {"signature": "m", "baseline_signature": "n", "row": litert | {"ratio": 0.2, "beside": ["a", "other"]}, "measured_at": 0.0}
    newer = key | {"signature": "l", "baseline_signature": "k", "row": litert | {"beside": ["a", "base"], "measured_at": 2.0}, "measured_at": 2.0}
    uncompressed = key | {"signature": "k", "baseline_signature": "k", "row": litert | {"ratio": 1.0, "beside": ["base", "base"]}, "measured_at": 0.0}
    store.add_latencies([of_another_model, newer, older, uncompressed])  # by a command too: no run changes
    rows = shelf.known("resnet18", "fashion_mnist").rows
    assert {(row["graph"], row["ratio_litert"], row["ratio_litert_int8"]) for row in rows} == {("a", 0.7, None), ("b", None, None)} and len(rows) == 3
    baseline = shelf.known("resnet18", "fashion_mnist").baseline
    assert baseline["identity"] is None and baseline["ratio_litert"] == 1.0, "as the runs have recorded it"
    assert {row["ratio_litert"] for row in before} == {None}, "rows that were given away stay as they are"


def test_differences_between_runs_are_paired(store):
    import numpy as np

    from core.datasets import load
    from core.metrics.accuracy import paired_difference

    labels = load("fashion_mnist").split("validation").labels
    rng = np.random.default_rng(0)
    predicted = [np.where(rng.random(len(labels)) < share, labels, (labels + 1) % 10).astype("<u2") for share in (0.90, 0.905)]
    for number, (steps, told) in enumerate(zip(([PRUNE], [REPAIR]), predicted)):
        row = result("resnet18", steps, 0, machine="here")
        row["metrics"] |= {"top1": 100 * float((told == labels).mean()), "artifact_bytes": 1000 - 100 * number}
        store.complete(row["identity"], row, told.tobytes())
    shelf = Shelf(store, (), "here")
    known = shelf.known("resnet18", "fashion_mnist")
    expected = paired_difference(predicted[0] == labels, predicted[1] == labels)
    assert shelf.difference(*known.rows) == expected
    better, worse = sorted(known.rows, key=lambda row: row["top1"])[::-1]
    tied = expected["low"] <= 0 <= expected["high"]
    assert (worse["id"] in shelf.ties(known, "artifact_bytes")) == (tied and worse["artifact_bytes"] >= better["artifact_bytes"])


def test_what_is_set_apart_is_found_but_not_drawn(store):
    student = result("resnet18", [{"step": "student", "model": "squeezenet1_1"}, {"step": "finetune"}], 1)
    shelf = Shelf(store, shipped(), "here", apart=[student])
    store.import_gallery([student | {"predicted": b""}])
    known = shelf.known("resnet18", "fashion_mnist")
    row = known.find(f"resnet18/{student['key']}")
    assert row["identity"] == student["identity"] and row not in known.rows and known.apart == [row]
    untimed = row | {"ratio": None}
    assert Known(apart=[untimed]).untimed(untimed, ()) is untimed and Known(apart=[untimed]).untimed(None, ()) is None  # timed once it is at hand
    assert student["identity"] not in {row["identity"] for row in shelf.known("squeezenet1_1", "fashion_mnist").others}
