"""What the controls do to a recipe."""

import functools
import itertools

import pytest

import core.methods  # noqa: F401
from core.errors import BadField, BadRecipe
from core.recipe import STEPS, Recipe
from pages.ui import edits
from pages.ui.link import View


def names(recipe):
    return [step.name for step in recipe.steps]


def test_sliders_add_change_and_remove_their_step():
    recipe = edits.set_bits(edits.set_sparsity(Recipe(), 0.8, edits.WEIGHTS), 4)
    assert names(recipe) == ["magnitude_prune", "quantize"]
    assert (edits.sparsity(recipe), edits.bits(recipe)) == (0.8, 4)
    recipe = edits.set_sparsity(recipe, 0.9, edits.WEIGHTS)
    assert edits.sparsity(recipe) == 0.9 and len(recipe.steps) == 2
    assert names(edits.set_bits(recipe, edits.BITS_OFF)) == ["magnitude_prune"]
    assert names(edits.set_sparsity(recipe, 0, edits.WEIGHTS)) == ["quantize"]
    assert edits.bits(Recipe()) == 32 and edits.sparsity(Recipe()) == 0


def test_steps_go_where_they_work():
    recipe = Recipe()
    for name in ("calibrate_batchnorm", "quantize", "distill", "magnitude_prune", "channel_prune"):
        recipe = edits.add(recipe, name)
    assert names(recipe) == ["channel_prune", "magnitude_prune", "distill", "quantize", "calibrate_batchnorm"]


def test_every_step_can_be_added():
    for name in STEPS:
        assert names(edits.add(Recipe(), name)) == [name]


def test_weights_become_channels_and_back():
    recipe = edits.set_bits(edits.set_sparsity(Recipe(), 0.95, edits.WEIGHTS), 4)
    channels = edits.set_sparsity(recipe, edits.sparsity(recipe), edits.CHANNELS)
    assert names(channels) == ["channel_prune", "quantize"] and edits.sparsity(channels) == 0.9  # the most that it takes
    assert names(edits.set_sparsity(channels, 0.5, edits.WEIGHTS)) == ["magnitude_prune", "quantize"]


def test_int8_and_repair_are_switches():
    recipe = edits.set_int8(Recipe(), True)
    assert edits.int8(recipe) and edits.bits(recipe) == 8
    assert not edits.int8(edits.set_int8(recipe, False))
    assert edits.set_int8(Recipe(), False) == Recipe()
    assert edits.repaired(edits.set_repair(Recipe(), True)) and edits.set_repair(edits.set_repair(Recipe(), True), False) == Recipe()


def test_temperature_changes_a_distillation_and_adds_none():
    assert edits.set_temperature(Recipe(), 8) == Recipe()
    assert edits.set_temperature(edits.add(Recipe(), "distill"), 8).steps[0].temperature == 8


def test_an_order_that_cannot_work_is_refused():
    recipe = edits.add(edits.add(Recipe(), "channel_prune"), "quantize")
    with pytest.raises(BadRecipe, match="before quantize"):
        edits.move(recipe, 0, 1)
    with pytest.raises(BadField):
        edits.set_field(recipe, 0, "sparsity", 2.0)


def test_moving_stops_at_the_ends():
    recipe = edits.add(edits.add(Recipe(), "magnitude_prune"), "quantize")
    assert names(edits.move(recipe, 0, 1)) == ["quantize", "magnitude_prune"]
    assert edits.move(recipe, 0, -1) == recipe and edits.move(recipe, 1, 1) == recipe
    assert names(edits.remove(recipe, 0)) == ["quantize"]


def test_training_pictures_count_epochs():
    recipe = edits.add(edits.add(Recipe(), "distill", epochs=3, images=1000), "finetune", epochs=1, images=500)
    assert edits.pictures(recipe) == 3500 and edits.trains(recipe)
    assert edits.pictures(Recipe()) == 0


@pytest.mark.parametrize("name", list(STEPS))
def test_every_step_can_be_added_to_the_opening_recipe(name):
    opening = View().recipe
    assert sorted(names(edits.add(opening, name))) == sorted([*names(opening), name])


def test_three_steps_can_be_added_in_any_order():
    for three in itertools.permutations((name for name, _kind in STEPS.items()), 3):
        assert set(names(functools.reduce(edits.add, three, Recipe()))) == set(three)


def test_what_has_to_be_before_or_behind_a_grid_is():
    assert names(edits.add(View().recipe, "equalize")) == ["magnitude_prune", "equalize", "quantize", "calibrate_batchnorm"]
    assert names(edits.add(View().recipe, "correct_bias")) == ["magnitude_prune", "quantize", "correct_bias", "calibrate_batchnorm"]
    alone = edits.add(Recipe(), "equalize")
    for recipe in (alone, edits.set_repair(alone, True), Recipe((*edits.set_repair(Recipe(), True).steps, *alone.steps))):
        assert edits.bits(edits.set_bits(recipe, 3)) == 3 and edits.int8(edits.set_int8(recipe, True))
    trained = edits.move(edits.set_bits(edits.add(Recipe(), "finetune"), 4), 0, 1)
    assert names(edits.add(trained, "correct_bias")) == ["quantize", "correct_bias", "finetune"]


@pytest.mark.parametrize("field", [{"granularity": "group"}, {"symmetric": False}, {"activation_scale": "dynamic"}])
def test_the_int8_switch_is_on_only_where_integer_kernels_run(field):
    recipe = Recipe.from_json({"steps": [{"step": "quantize", "weight_bits": 8, "activation_bits": 8} | field]})
    assert not edits.int8(recipe) and edits.int8(edits.set_int8(recipe, True))
