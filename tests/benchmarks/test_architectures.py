"""Every kind of step on the smallest torchvision model of each family: fine, or refused with one sentence; whatever else happens is a failure.

    make benchmark ARGS="-k test_architectures"                                      the whole table, a line a model and setting
    make benchmark ARGS="-k 'test_architectures and swin_t and not factorize'"      a part of it

Fine is what answers with finite numbers, holds plain weights equal to their states, and comes back from its file bit for bit.
"""

from __future__ import annotations

import functools
import time

import pytest
import torch

from core.errors import ParetoscopeError
from core.recipe import STEPS
from tests import architectures

pytestmark = pytest.mark.benchmark
BY_CHECKPOINT = {"distill"}  # learns by the loop of finetune, from a trained teacher, which most families have none of here
MODELS = [*architectures.smallest().values(), "resnext50_32x4d"]  # the last for its grouped convolutions

whole = functools.lru_cache(maxsize=1)(architectures.whole)


def test_every_step_is_tried():
    assert {setting.step["step"] for setting in architectures.SETTINGS} == set(STEPS) - BY_CHECKPOINT


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
