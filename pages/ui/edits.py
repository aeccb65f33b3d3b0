"""What a person does to a recipe, as functions from recipe to recipe. Knows nothing of Streamlit.

Every one may raise `BadField` or `BadRecipe`; the recipe that was there stays.
"""

from __future__ import annotations

import dataclasses

from core.recipe import GRID, PRUNE, REPAIR, STEPS, STRUCTURE, TRAIN, Param, Recipe, Step, params
from core.studies import gallery

ORDER = {STRUCTURE: 0, PRUNE: 1, TRAIN: 2, GRID: 3, REPAIR: 4}  # where a new step goes, if nobody says otherwise
JUST_BEFORE_GRID = 2.5
NOT_AFTER_GRID = (ORDER[STRUCTURE], JUST_BEFORE_GRID)
BITS_OFF = 32
WEIGHTS, CHANNELS = "magnitude_prune", "channel_prune"

# What the explorer's own controls add, where it is not the step's default; the gallery's runs are made of the same.
ADDED = {"quantize": {"clipping": "mse"}, "distill": gallery.DISTILL, "finetune": gallery.FINETUNE}


def find(recipe: Recipe, *names: str) -> int | None:
    """The position of the first step with one of these names."""
    return next((at for at, step in enumerate(recipe.steps) if step.name in names), None)


def field(step_name: str, field_name: str) -> Param:
    """What one field of a step accepts."""
    return next(spec for spec in params(STEPS.get(step_name)) if spec.name == field_name)


def steps_of(recipe: Recipe, steps) -> Recipe:
    return Recipe(tuple(steps), recipe.seed)


def add(recipe: Recipe, name: str, **fields) -> Recipe:
    """A new step where it usually belongs: structure, then pruning, training, grids, repair."""
    step_type = STEPS.get(name)
    step = step_type(**{key: value for key, value in (ADDED.get(name, {}) | fields).items() if key in {spec.name for spec in params(step_type)}})
    at = _place(recipe.steps, step)
    return steps_of(recipe, [*recipe.steps[:at], step, *recipe.steps[at:]])


def _place(steps: tuple[Step, ...], new: Step) -> int:
    """Before the first step of a higher rank; but what has to be behind a grid, or before it, is."""
    if new.first:
        return 0
    grids = [number for number, step in enumerate(steps) if step.kind == GRID]
    if new.behind_grid and grids:
        return grids[-1] + 1
    usual = next((number for number, step in enumerate(steps) if _rank(step) > _rank(new)), len(steps))
    if new.kind != GRID:
        return usual
    if not grids:
        usual = next((number for number, step in enumerate(steps) if step.behind_grid), usual)
    return max([usual, *(number + 1 for number, step in enumerate(steps) if _rank(step) in NOT_AFTER_GRID)])


def _rank(step: Step) -> float:
    return JUST_BEFORE_GRID if step.before_grid else ORDER.get(step.kind, 4)


def remove(recipe: Recipe, at: int) -> Recipe:
    return steps_of(recipe, [step for number, step in enumerate(recipe.steps) if number != at])


def move(recipe: Recipe, at: int, by: int) -> Recipe:
    steps = list(recipe.steps)
    to = min(max(at + by, 0), len(steps) - 1)
    steps.insert(to, steps.pop(at))
    return steps_of(recipe, steps)


def put(recipe: Recipe, at: int, step: Step) -> Recipe:
    return steps_of(recipe, [step if number == at else old for number, old in enumerate(recipe.steps)])


def set_field(recipe: Recipe, at: int, name: str, value) -> Recipe:
    return put(recipe, at, dataclasses.replace(recipe.steps[at], **{name: value}))


def set_sparsity(recipe: Recipe, value: float, name: str) -> Recipe:
    """Nothing pruned is no step; else the first pruning step, which is of the kind `name`, removes this share."""
    at = find(recipe, WEIGHTS, CHANNELS)
    spec = field(name, "sparsity")
    value = min(max(value, spec.low), spec.high)
    if value <= 0:
        return recipe if at is None else remove(recipe, at)
    if at is None:
        return add(recipe, name, sparsity=value)
    if recipe.steps[at].name == name:
        unset = {"threshold": None} if hasattr(recipe.steps[at], "threshold") else {}
        return put(recipe, at, dataclasses.replace(recipe.steps[at], sparsity=value, **unset))
    kept = {"layers": recipe.steps[at].layers}
    return add(remove(recipe, at), name, sparsity=value, **kept)


def sparsity(recipe: Recipe) -> float:
    at = find(recipe, WEIGHTS, CHANNELS)
    return 0.0 if at is None else recipe.steps[at].sparsity


def set_bits(recipe: Recipe, bits: float) -> Recipe:
    """32 bits are no step."""
    at = find(recipe, "quantize")
    if bits >= BITS_OFF:
        return recipe if at is None else remove(recipe, at)
    return add(recipe, "quantize", weight_bits=int(bits)) if at is None else set_field(recipe, at, "weight_bits", int(bits))


def bits(recipe: Recipe) -> int:
    at = find(recipe, "quantize")
    return BITS_OFF if at is None else recipe.steps[at].weight_bits


def set_int8(recipe: Recipe, on: bool) -> Recipe:
    """Weights and activations in 8 bits, which is what int8 kernels run; off, the weights' bits stay."""
    at = find(recipe, "quantize")
    if at is None:
        return add(recipe, "quantize", weight_bits=8, activation_bits=8, clipping="minmax") if on else recipe
    if not on:
        return set_field(recipe, at, "activation_bits", None)
    step = recipe.steps[at]
    kernels = {"symmetric": True, "activation_scale": "static", "granularity": "channel" if step.granularity == "group" else step.granularity}
    return put(recipe, at, dataclasses.replace(step, weight_bits=8, activation_bits=8, **kernels))


def int8(recipe: Recipe) -> bool:
    at = find(recipe, "quantize")
    return at is not None and recipe.steps[at].int8


def set_temperature(recipe: Recipe, value: float) -> Recipe:
    """Changes the distillation that is there; adds none."""
    at = find(recipe, "distill")
    return recipe if at is None else set_field(recipe, at, "temperature", value)


def set_repair(recipe: Recipe, on: bool) -> Recipe:
    """Batch norm re-estimated at the end, or nowhere."""
    at = find(recipe, "calibrate_batchnorm")
    if on:
        return recipe if at is not None else add(recipe, "calibrate_batchnorm")
    return steps_of(recipe, [step for step in recipe.steps if step.name != "calibrate_batchnorm"])


def repaired(recipe: Recipe) -> bool:
    return find(recipe, "calibrate_batchnorm") is not None


def trains(recipe: Recipe) -> bool:
    return any(step.kind == TRAIN for step in recipe.steps)


def pictures(recipe: Recipe) -> int:
    """Training pictures that a recipe passes over, epochs counted."""
    return sum(step.epochs * step.images for step in recipe.steps if step.kind == TRAIN)
