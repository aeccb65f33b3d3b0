"""Random recipes of up to five steps: whatever is allowed gives the same finite model each time, and a file that comes back."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import core.methods  # noqa: F401  (registers the steps)
from core import artifact
from core.errors import ParetoscopeError
from core.methods.apply import apply
from core.recipe import STEPS, Recipe, params
from core.weights import Compressed
from tests import five_layers

FIXED = {"epochs": 1, "images": 100, "iterations": 20, "model": "self", "teacher": "self", "candidates": "2, 4, 8"}
LAYERS = ("all", "inner", "features.3, fc")


@st.composite
def steps(draw) -> dict:
    """One step with every field drawn from what it accepts; training and measuring are kept short."""
    name = draw(st.sampled_from(list(STEPS)))
    step = {"step": name}
    for spec in params(STEPS.get(name)):
        if spec.name in FIXED:
            step[spec.name] = FIXED[spec.name]
        elif spec.name == "layers":
            step["layers"] = draw(st.sampled_from(LAYERS))
        elif spec.optional and draw(st.booleans()):
            step[spec.name] = None
        elif spec.choices:
            step[spec.name] = draw(st.sampled_from([choice for choice in spec.choices if choice is not None]))
        elif spec.type is bool:
            step[spec.name] = draw(st.booleans())
        elif spec.type is int:
            step[spec.name] = draw(st.integers(int(spec.low), int(spec.high)))
        elif spec.name == "learning_rate":
            step[spec.name] = draw(st.floats(spec.low, 0.02))
        elif spec.type is float:
            step[spec.name] = draw(st.floats(spec.low, spec.high))
    return step


def made(recipe: Recipe, checkpoint, architecture, context) -> Compressed:
    subject = Compressed.of(checkpoint.load(), architecture)
    for step in recipe.steps:
        apply(step, subject, context)
    return subject


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(steps(), min_size=1, max_size=5))
def test_random_recipes_are_repeatable_finite_and_come_back_from_the_file(five_layer_checkpoint, context, drawn):
    from core.architecture import Architecture

    five_layers.register()  # whoever measured the model list anew has forgotten it
    architecture = Architecture(five_layer_checkpoint.model, five_layer_checkpoint.classes, five_layer_checkpoint.input_size)
    try:
        recipe = Recipe.from_json({"steps": drawn})
        first = made(recipe, five_layer_checkpoint, architecture, context)
    except ParetoscopeError as refused:  # an order or a layer that cannot be: one sentence
        assert str(refused).endswith((".", "?")) and "\n" not in str(refused)
        return
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answers = first.module(x)
    assert torch.isfinite(answers).all(), json.dumps(drawn)
    second = made(recipe, five_layer_checkpoint, architecture, context)
    data = artifact.write(first, recipe=recipe).data
    assert data == artifact.write(second, recipe=recipe).data
    back = artifact.read(data)
    assert all(torch.equal(value, back.module.state_dict()[name]) for name, value in first.module.state_dict().items())
    for name, weight in first.weights.items():
        assert torch.equal(weight.value(), first.value(name))
