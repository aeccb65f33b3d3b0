"""What every registered step must do, on a real if tiny trained model. A new step is tested by existing."""

from __future__ import annotations

import gc
import json
import weakref

import pytest
import torch

import core.methods  # noqa: F401  (registers the steps)
from core import artifact
from core.engine import measurable
from core.errors import BadField
from core.methods.apply import apply
from core.metrics import cost
from core.models.architecture import Architecture
from core.recipe import GRID, PRUNE, STEPS, Recipe, params, step_from_json
from core.weights import Compressed

QUICK = {"epochs": 1, "images": 200}  # training steps are tried briefly
BESIDE = {("nm_prune", "n"): {"m": 16}, ("nm_prune", "m"): {"n": 1}}  # what another field must be at both ends of this one


def a_step(name: str, **given):
    known = {spec.name: spec for spec in params(STEPS.get(name))}
    quick = {field: value for field, value in QUICK.items() if field in known}
    return STEPS.get(name)(**(quick | given))


def fresh(checkpoint) -> Compressed:
    return Compressed.of(checkpoint.load(), Architecture(checkpoint.model, checkpoint.classes, checkpoint.input_size))


def boundary_steps(name: str) -> list:
    """One step for each end of each field's range."""
    found = []
    for spec in params(STEPS.get(name)):
        if spec.name in ("epochs", "images", "layers", "teacher", "model"):
            continue
        ends = list(spec.choices) or ([True, False] if spec.type is bool else [spec.low, spec.high])
        beside = BESIDE.get((name, spec.name), {})
        found += [a_step(name, **beside, **{spec.name: value}) for value in ends + ([None] if spec.optional else [])]
    return found


@pytest.mark.parametrize("name", list(STEPS))
def test_input_model_is_untouched(name, subject, context, five_layer_checkpoint):
    before = {key: value.clone() for key, value in five_layer_checkpoint.load().state_dict().items()}
    source = five_layer_checkpoint.load()
    apply(a_step(name), Compressed.of(source, subject.architecture), context)
    assert all(torch.equal(source.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", list(STEPS))
def test_same_seed_gives_the_same_weights(name, five_layer_checkpoint, context):
    made = []
    for _ in range(2):
        torch.rand(3)  # whatever ran before must not matter
        state = fresh(five_layer_checkpoint)
        apply(a_step(name), state, context)
        made.append(state)
    first, second = (state.module.state_dict() for state in made)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert made[0].activations == made[1].activations


@pytest.mark.parametrize("name", list(STEPS))
def test_its_memory_is_free_again_at_once(name, five_layer_checkpoint, context):
    """Not at some later garbage collection: a slider makes a network for every place it passes, and fresh memory costs as much as the arithmetic."""
    apply(a_step(name), fresh(five_layer_checkpoint), context)  # what is imported or remembered for good
    gc.collect()
    gc.disable()
    try:
        state = fresh(five_layer_checkpoint)
        before = weakref.ref(state.module)
        apply(a_step(name), state, context)
        artifact.packed_size(state)
        cost.macs(state.module, 32)
        measurable(state)(torch.zeros(1, 3, 32, 32))
        after = weakref.ref(state.module)
        del state
        assert before() is None and after() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("name", list(STEPS))
def test_module_equals_the_states_and_keeps_its_output_shape(name, subject, context):
    apply(a_step(name), subject, context)
    assert subject.module(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert not subject.module.training
    for weight_name, weight in subject.weights.items():
        assert torch.equal(subject.module.get_parameter(weight_name), weight.value())
        assert torch.isfinite(weight.value()).all()


@pytest.mark.parametrize("name", list(STEPS))
def test_json_round_trip_fills_in_every_default(name):
    step = a_step(name)
    stored = json.loads(json.dumps(step.to_json()))
    assert step_from_json(stored) == step
    assert set(stored) == {"step"} | {spec.name for spec in params(type(step))}
    assert Recipe((step_from_json({"step": name}),)).key() == Recipe((STEPS.get(name)(),)).key()


@pytest.mark.parametrize("name", list(STEPS))
def test_artifact_round_trip_is_bit_identical(name, subject, context, tmp_path):
    apply(a_step(name), subject, context)
    size = artifact.write(subject, tmp_path / "model.psc", Recipe((a_step(name),))).size
    assert (tmp_path / "model.psc").stat().st_size == size
    back = artifact.read(tmp_path / "model.psc")
    mine, theirs = subject.module.state_dict(), back.module.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert back.activations == subject.activations


@pytest.mark.parametrize("name", [name for name, kind in STEPS.items() if kind.kind in (PRUNE, GRID)])
def test_prune_and_grid_steps_never_enlarge_the_artifact(name, subject, context):
    before = artifact.write(subject, None, Recipe()).size
    apply(a_step(name), subject, context)
    assert artifact.write(subject, None, Recipe()).size <= before


@pytest.mark.parametrize("step", [step for name in STEPS for step in boundary_steps(name)], ids=lambda step: json.dumps(step.to_json())[9:90])
def test_boundary_values_work(step, subject, context):
    apply(step, subject, context)
    assert torch.isfinite(subject.module(torch.zeros(1, 3, 32, 32))).all()


@pytest.mark.parametrize("name,spec", [(name, spec) for name, kind in STEPS.items() for spec in params(kind)], ids=lambda value: getattr(value, "name", value))
def test_values_outside_are_refused_by_field_value_and_range(name, spec):
    for bad in ([spec.high + 1, spec.low - 1, float("nan")] if spec.low is not None and not spec.choices else []) + [[], {}, "no such thing" * 50]:
        with pytest.raises(BadField) as caught:
            STEPS.get(name)(**{spec.name: bad})
        assert f"{name}.{spec.name}" in str(caught.value) and spec.accepted in str(caught.value)


@pytest.mark.parametrize("name", [name for name, kind in STEPS.items() if "layers" in {spec.name for spec in params(kind)}])
def test_layers_that_match_nothing_are_refused(name, subject, context):
    with pytest.raises(BadField, match="no_such_layer"):
        apply(a_step(name, layers="no_such_layer*"), subject, context)


@pytest.mark.parametrize("name", list(STEPS))
def test_docstring_names_formula_and_source(name):
    assert "arXiv" in STEPS.get(name).__doc__ and all(spec.help.endswith(".") for spec in params(STEPS.get(name)))
