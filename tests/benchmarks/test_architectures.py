"""Every kind of step on the smallest torchvision model of each family: fine, or refused with one sentence; whatever else happens is a failure.

    make benchmark ARGS="-k test_architectures"                                      the whole table, a line a model and setting
    make benchmark ARGS="-k 'test_architectures and swin_t and not factorize'"      a part of it

Fine is what answers with finite numbers, holds plain weights equal to their states, and comes back from its file bit for bit.
"""

from __future__ import annotations

import functools
import itertools
import time

import pytest
import torch

from core.errors import ParetoscopeError
from core.recipe import STEPS
from tests import architectures
from tests.core.methods.test_random_recipes import recipes

pytestmark = pytest.mark.benchmark
MODELS = [*architectures.smallest().values(), "resnext50_32x4d"]  # the last for its grouped convolutions

whole = functools.lru_cache(maxsize=1)(architectures.whole)


def test_every_step_is_tried():
    assert {setting.step["step"] for setting in architectures.SETTINGS} == set(STEPS)


@pytest.mark.parametrize("setting", architectures.SETTINGS, ids=architectures.Setting.words)
@pytest.mark.parametrize("model", MODELS)
def test_a_step_is_fine_or_refused_with_a_sentence(model, setting):
    torch.set_num_threads(1)
    started = time.perf_counter()
    try:
        recipe = setting.recipe()
        subject = architectures.made(recipe, model, whole(model))
        took = time.perf_counter() - started
        wrong = architectures.faults(subject, recipe, model)
        said = "; ".join(wrong) or "fine"
    except ParetoscopeError as refused:
        took, wrong, said = time.perf_counter() - started, [], f"refused: {refused}"
        assert str(refused).endswith(".") and "\n" not in str(refused)
    print(f"\n{model:18s} {setting.words():86s} {took:6.1f} s  {said}", end="", flush=True)
    assert not wrong


@pytest.mark.parametrize("model", MODELS)
def test_random_recipes_are_fine_or_refused_with_a_sentence(model):
    """Three of up to five steps each that are not refused; the first three steps that they are drawn with go round the families."""
    torch.set_num_threads(1)
    names = list(STEPS)
    for number in range(3):
        name = names[(3 * MODELS.index(model) + number) % len(names)]
        for recipe in itertools.islice(recipes(name, model, ("all", "inner")), 20):
            started = time.perf_counter()
            try:
                subject = architectures.made(recipe, model, whole(model))
            except ParetoscopeError as refused:
                assert str(refused).endswith(".") and "\n" not in str(refused)
                continue
            said = architectures.faults(subject, recipe, model)
            print(
                f"\n{model:18s} {' '.join(step.name for step in recipe.steps):86s} {time.perf_counter() - started:6.1f} s  {'; '.join(said) or 'fine'}", end=""
            )
            assert not said, recipe.canonical()
            break
