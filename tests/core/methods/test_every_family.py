"""Weights pruned, put on a grid and batch norms repaired, in this order, on the smallest torchvision model of every family that is quick enough.

The others are in tests/benchmarks/test_architectures.py, which tries every step on all of them.
"""

from __future__ import annotations

import pytest
import torch

from core import zoo
from core.recipe import Recipe, step_from_json
from tests import architectures

STEPS = ({"step": "magnitude_prune", "sparsity": 0.9}, {"step": "quantize", "weight_bits": 4})
REPAIR = {"step": "calibrate_batchnorm", "images": 50}
TOO_SLOW = {"maxvit_t", "alexnet", "vit_b_16", "vgg11"}  # 224×224 pictures, or 57 to 129 million weights to pack


def test_the_families_are_torchvisions_and_the_teaching_models():
    assert len(architectures.smallest()) == 18 and TOO_SLOW | {"lenet_300_100", "resnet18"} <= set(architectures.smallest().values())


@pytest.mark.slow
@pytest.mark.parametrize("model", [model for model in architectures.smallest().values() if model not in TOO_SLOW])
def test_an_ordered_combination_works_and_comes_back_from_its_file(model):
    steps = [*STEPS, *([REPAIR] if zoo.models()[model]["batch_norm"] else [])]
    recipe = Recipe(tuple(step_from_json(step) for step in steps))
    subject = architectures.made(recipe, model, architectures.whole(model))
    assert architectures.faults(subject, recipe, model) == []
    zeros, count = (sum(int(f(subject.value(name))) for name in subject.weights) for f in (lambda value: (value == 0).sum(), torch.numel))
    assert zeros >= 0.9 * count - len(subject.weights)
