"""Questions about a piece of work keep their identities, under which answers lie in people's homes, and their form in rows of the store."""

from __future__ import annotations

import dataclasses
import json

import pytest

from core.exports import FORMATS, Export, export
from core.layers.facts import Layers
from core.packed.size_parts import SizeParts
from core.recipe import Recipe
from core.targets.graphs import Operators
from core.timing import timings
from core.timing.timings import Timings
from core.work import Work

RECIPE = Recipe.from_json({"steps": [{"step": "magnitude_prune", "sparsity": 0.8}, {"step": "finetune", "epochs": 1}]})
WORK = Work("resnet18", "fashion_mnist", RECIPE, "test", 100)
IDENTITIES = {  # as their versions give them
    "size": "12147b8cd3803eff", "layers": "a307a6d9ba7fc177", "graph": "bbde132928e3bcf0", "timings": "afbf600353cb13f5", "export": "c956447cad0a29ab",
}  # fmt: skip
ASKED = (SizeParts(WORK), Layers(WORK), Operators(WORK), Timings(WORK, 1, 8, ("pytorch-float32", "onnxruntime-float32")), Export(WORK, "onnx"))


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.kind)
def test_identities_stay_and_what_a_run_is_measured_on_does_not_count(asked, monkeypatch):
    onnx = dataclasses.replace(FORMATS.get("onnx"), version=lambda: "a version")
    monkeypatch.setattr(FORMATS, "get", lambda name: onnx)
    monkeypatch.setattr(Work, "identity", lambda work: f"{work.model} {work.dataset} {work.recipe.seed} {work.split} {work.images} {work.latency}")
    for module in (timings, export):
        monkeypatch.setattr(module, "machine", lambda: {"id": "a machine"})
    assert asked.identity() == IDENTITIES[asked.kind]
    assert dataclasses.replace(asked, work=asked.work.baseline()).trains is False
    assert asked.trains == (asked.kind != "timings"), "shapes do not depend on the training"


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.kind)
def test_what_is_asked_is_the_same_after_its_way_through_json(asked):
    again = type(asked).from_json(json.loads(json.dumps(asked.to_json())))
    assert again == asked and (again.model, again.dataset) == ("resnet18", "fashion_mnist")
