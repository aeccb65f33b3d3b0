"""The first look at a run's latency: before everything that takes long, interleaved, marked, and not in the book."""

from __future__ import annotations

import pytest

from core import engine
from core.metrics import latency
from core.metrics.latency import EAGER, FLOAT32, INT8
from core.recipe import Recipe
from core.runtimes import onnx
from core.work import Work
from tests import five_layers

CHANNELS, REPAIR = {"step": "channel_prune", "sparsity": 0.5, "importance": "l1", "round_to": 1}, {"step": "calibrate_batchnorm", "images": 100}
DISTILL = {"step": "distill", "images": 250, "epochs": 1}


@pytest.fixture(autouse=True)
def _short(monkeypatch, five_layer_checkpoint):
    monkeypatch.setattr(latency, "WARM_UP_SECONDS", 0.002)
    monkeypatch.setattr(latency.measure, "__kwdefaults__", latency.measure.__kwdefaults__ | {"blocks": 2, "block_seconds": 0.002, "tries": 1})


def run(*steps, book=None, first_look=True):
    """The result, what was reported, and the book."""
    events, book = [], book or latency.Memory()
    work = Work(five_layers.NAME, "digits", Recipe.from_json({"steps": list(steps)}))
    return engine.run(work, report=events.append, book=book, first_look=first_look), events, book


def looks(events: list[dict]) -> list[dict]:
    return [row for event in events for row in event.get("latencies", ())]


def test_it_comes_when_the_shapes_are_known_and_the_long_measurement_takes_its_place(monkeypatch):
    exported, export = [], onnx.export_float32
    monkeypatch.setattr(onnx, "export_float32", lambda module, size: exported.append(module) or export(module, size))
    result, events, book = run(CHANNELS, DISTILL, REPAIR)
    (row,) = looks(events)
    place = next(number for number, event in enumerate(events) if "latencies" in event)
    assert [event.get("stage") for event in events[:place]] == ["compress"] and any("curve" in event for event in events[place:])
    assert row["brief"] and row["runtime"] == FLOAT32 and 0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"] and "blocks" not in row
    (metrics,) = (event["metrics"] for event in events if "metrics" in event)
    final = {row["runtime"]: row for row in result.metrics["latencies"]}
    assert list(final) == [FLOAT32, EAGER] and not any("brief" in row for row in final.values())
    assert final[FLOAT32]["signature"] == row["signature"] and len(exported) == len(set(map(id, exported)))  # no graph twice
    assert metrics["artifact_bytes"] == result.metrics["artifact_bytes"]

    plain, unasked, _book = run(CHANNELS, DISTILL, REPAIR, first_look=False)
    assert looks(unasked) == [] and plain.predicted == result.predicted  # a look changes nothing
    _result, again, _book = run(CHANNELS, book=book)  # the same graph without the training: the book knows it
    assert [(row["ratio"], "brief" in row) for row in looks(again)] == [(final[FLOAT32]["ratio"], False)]


def test_a_training_that_is_kept_is_looked_at_at_once():
    run(CHANNELS, DISTILL | {"images": 260}, REPAIR)
    _result, events, _book = run(CHANNELS, DISTILL | {"images": 260}, REPAIR, {"step": "quantize", "weight_bits": 4})
    assert "latencies" in events[0]


def test_what_runs_as_int8_is_not_shown_as_float32():
    result, events, _book = run({"step": "quantize", "weight_bits": 8, "activation_bits": 8})
    assert looks(events) == [] and INT8 in {row["runtime"] for row in result.metrics["latencies"]}
