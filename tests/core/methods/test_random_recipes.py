"""Random recipes of up to five steps: whatever is allowed gives the same finite model each time, and a file that comes back.

The recipes are the same each time. PARETOSCOPE_TEST_SEED draws others, PARETOSCOPE_TEST_COUNT so many with each of the steps.
"""

from __future__ import annotations

import os
import random

import pytest
import torch

import core.methods  # noqa: F401  (registers the steps)
from core import artifact
from core.engine import measurable
from core.errors import ParetoscopeError
from core.methods.apply import apply
from core.models.architecture import Architecture
from core.recipe import STEPS, Recipe, params
from core.weights import Compressed

FIXED = {"epochs": 1, "images": 100, "iterations": 20, "model": "self", "teacher": "self", "candidates": "2, 4, 8"}
LAYERS = ("all", "all", "inner", "features.3, fc")
SEED, RECIPES = (int(os.environ.get(f"PARETOSCOPE_TEST_{name}", value)) for name, value in (("SEED", 0), ("COUNT", 2)))  # RECIPES with each of the steps


def step(name: str, draw: random.Random, layers: tuple[str, ...] = LAYERS) -> dict:
    """A step with every field drawn from what it accepts, its ends often; training and measuring are kept short."""
    made = {"step": name}
    for spec in params(STEPS.get(name)):
        if spec.name in FIXED:
            made[spec.name] = FIXED[spec.name]
        elif spec.name == "layers":
            made["layers"] = draw.choice(layers)
        elif spec.optional and draw.random() < 0.5:
            made[spec.name] = None
        elif spec.choices:
            made[spec.name] = draw.choice([choice for choice in spec.choices if choice is not None])
        elif spec.type is bool:
            made[spec.name] = draw.random() < 0.5
        else:
            low, high = spec.low, spec.high
            made[spec.name] = draw.choice((low, high)) if draw.random() < 0.2 else draw.randint(low, high) if spec.type is int else draw.uniform(low, high)
    return made


def recipes(name: str, seed: int | str, layers: tuple[str, ...] = LAYERS):
    """Recipes with that step in them, in any order that is accepted. What is refused is one sentence."""
    draw = random.Random(f"{name} {seed}")
    while True:
        names = [name, *draw.choices(list(STEPS), k=draw.randint(0, 4))]
        draw.shuffle(names)
        try:
            yield Recipe.from_json({"steps": [step(each, draw, layers) for each in names]})
        except ParetoscopeError as refused:
            one_sentence(refused)


def one_sentence(refused: ParetoscopeError) -> None:
    assert str(refused).endswith((".", "?")) and "\n" not in str(refused)


def made(recipe: Recipe, checkpoint, context) -> Compressed | None:
    subject = Compressed.of(checkpoint.load(), Architecture(checkpoint.model, checkpoint.classes, checkpoint.input_size))
    try:
        for each in recipe.steps:
            apply(each, subject, context)
    except ParetoscopeError as refused:  # layers in which a step finds nothing to do
        one_sentence(refused)
        return None
    return subject


@pytest.mark.slow
@pytest.mark.parametrize("name", list(STEPS))
def test_random_recipes_are_repeatable_finite_and_come_back_from_the_file(name, five_layer_checkpoint, context):
    left = RECIPES
    for recipe in recipes(name, SEED):
        try:
            left -= comes_back(recipe, five_layer_checkpoint, context)
        except Exception as error:
            error.add_note(f"PARETOSCOPE_TEST_SEED={SEED}: {recipe.canonical()}")
            raise
        if not left:
            break


def comes_back(recipe: Recipe, checkpoint, context) -> bool:
    """Whether the recipe is allowed on this model, in which case all that is promised of it holds."""
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    first = made(recipe, checkpoint, context)
    if first is None:
        return False
    with torch.no_grad():
        assert torch.isfinite(measurable(first)(x)).all()  # with rounded activations, where there are grids for them
    assert all(torch.isfinite(tensor).all() for tensor in first.module.state_dict().values())
    data = artifact.write(first, recipe=recipe).data
    assert data == artifact.write(made(recipe, checkpoint, context), recipe=recipe).data
    back = artifact.read(data)
    assert all(torch.equal(value, back.module.state_dict()[path]) for path, value in first.module.state_dict().items())
    assert back.activations == first.activations and all(torch.equal(weight.value(), first.value(path)) for path, weight in first.weights.items())
    return True
