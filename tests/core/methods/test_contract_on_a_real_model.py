"""The contract once more, on a shipped model: every registered step, with settings that are quick."""

from __future__ import annotations

import json

import pytest
import torch

import core.methods  # noqa: F401  (registers the steps)
from core import artifact, zoo
from core.datasets import load
from core.methods.apply import Context, apply
from core.models.architecture import Architecture
from core.recipe import GRID, PRUNE, STEPS, TRAIN, Recipe, params, step_from_json
from core.weights import Compressed

pytestmark = pytest.mark.slow
MODEL, DATASET = "shufflenet_v2_x0_5", "digits"
QUICK = {"epochs": 1, "images": 100, "iterations": 20, "candidates": "4, 8"}


def quick(name: str):
    known = {spec.name: spec for spec in params(STEPS.get(name))}
    given = {field: value for field, value in QUICK.items() if field in known and field != "images"}
    if "images" in known:
        given["images"] = max(known["images"].low, 100 if STEPS.get(name).kind == TRAIN else known["images"].low)
    return STEPS.get(name)(**{field: known[field].type(value) for field, value in given.items()})


def applied(step, source, architecture: Architecture) -> Compressed:
    subject = Compressed.of(source, architecture)
    apply(step, subject, Context(zoo.checkpoint(MODEL, DATASET), load(DATASET)))
    return subject


@pytest.mark.parametrize("name", list(STEPS))
def test_a_step_keeps_the_contract_on_a_shipped_model(name):
    checkpoint, step = zoo.checkpoint(MODEL, DATASET), quick(name)
    architecture = Architecture(MODEL, checkpoint.classes, checkpoint.input_size)
    source = checkpoint.load()
    before = {key: value.clone() for key, value in source.state_dict().items()}
    subject = applied(step, source, architecture)
    assert all(torch.equal(source.state_dict()[key], value) for key, value in before.items()), "the input model was touched"

    state = subject.module.state_dict()
    x = load(DATASET).prepare(load(DATASET).split("validation").images[:16], checkpoint.input_size)
    with torch.no_grad():
        answers = subject.module(x)
    assert answers.shape == (16, 10) and torch.isfinite(answers).all() and not subject.module.training
    assert all(torch.equal(subject.module.get_parameter(path), weight.value()) for path, weight in subject.weights.items())

    torch.rand(3)  # whatever ran before must not matter
    again = applied(step, source, architecture)
    assert state.keys() == again.module.state_dict().keys() and all(torch.equal(state[key], value) for key, value in again.module.state_dict().items())
    assert again.activations == subject.activations and again.notes == subject.notes

    assert step_from_json(json.loads(json.dumps(step.to_json()))) == step
    packed = artifact.write(subject, recipe=Recipe((step,)))
    back = artifact.read(packed.data)
    assert all(torch.equal(state[key], value) for key, value in back.module.state_dict().items()) and back.activations == subject.activations
    with torch.no_grad():
        assert torch.equal(back.module(x), answers)
    if step.kind in (PRUNE, GRID):
        assert packed.size <= artifact.write(Compressed.of(source, architecture), recipe=Recipe()).size
