"""Random pruning against torch's counts, and every criterion against random pruning."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

from core import zoo
from core.datasets import load
from core.methods.apply import Context, apply
from core.methods.contribution_prune import ContributionPrune
from core.methods.entropy_prune import EntropyPrune
from core.methods.gradient_prune import GradientPrune
from core.methods.magnitude_prune import MagnitudePrune
from core.methods.random_prune import RandomPrune
from core.metrics.accuracy import evaluate
from core.models.architecture import Architecture
from core.weights import Compressed


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.8, 0.99])
def test_layer_scope_leaves_as_many_as_torch(subject, context, sparsity):
    reference = copy.deepcopy(subject.module).to(memory_format=torch.contiguous_format)  # torch flattens by view
    apply(RandomPrune(sparsity=sparsity, scope="layer"), subject, context)
    for name, weight in subject.weights.items():
        layer = reference.get_submodule(name.rpartition(".")[0])
        prune.random_unstructured(layer, "weight", amount=sparsity)
        assert int(weight.mask.sum()) == int(layer.weight_mask.sum())


def test_every_place_is_as_likely_as_any_other(subject, context):
    draws, zeros = 200, 0
    for context.seed in range(draws):
        state = Compressed.of(subject.module, subject.architecture)
        apply(RandomPrune(sparsity=0.5), state, context)
        zeros = zeros + np.concatenate([(~weight.mask).numpy().ravel() for weight in state.weights.values()]).astype(int)
    assert zeros.sum() == draws * round(0.5 * zeros.size)
    assert zeros.std() == pytest.approx((draws / 4) ** 0.5, rel=0.1)  # binomial; a place that is preferred would widen it
    assert abs(zeros - draws / 2).max() < 6 * (draws / 4) ** 0.5


def test_what_was_pruned_before_goes_first(subject, context):
    apply(MagnitudePrune(sparsity=0.5), subject, context)
    before = {name: weight.mask for name, weight in subject.weights.items()}
    apply(RandomPrune(sparsity=0.6), subject, context)
    assert all(not (weight.mask & ~before[name]).any() for name, weight in subject.weights.items())
    assert sum(int((~mask).sum()) for mask in before.values()) < sum(int((~weight.mask).sum()) for weight in subject.weights.values())


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("later", [RandomPrune, MagnitudePrune, GradientPrune, functools.partial(EntropyPrune, granularity="weight")])
def test_a_lesser_share_after_a_greater_one_is_said_to_change_nothing_and_changes_nothing(later, scope, subject, context):
    first, second = MagnitudePrune(sparsity=0.6, scope=scope), later(sparsity=0.5, scope=scope)
    assert second.idle((first,), {}) == "magnitude_prune before it prunes as much already"
    apply(first, subject, context)
    before = {name: weight.mask for name, weight in subject.weights.items()}
    apply(second, subject, context)
    assert all(torch.equal(weight.mask, before[name]) for name, weight in subject.weights.items())


def top1(step) -> float:
    checkpoint, dataset = zoo.checkpoint("squeezenet1_1", "fashion_mnist"), load("fashion_mnist")
    subject = Compressed.of(checkpoint.load(), Architecture.plain("squeezenet1_1", checkpoint.classes, checkpoint.input_size))
    apply(step, subject, Context(checkpoint, dataset, seed=1))
    assert not any(torch.isnan(parameter).any() for parameter in subject.module.parameters())
    return 100 * float(evaluate(subject.module, dataset, checkpoint.input_size, "validation", 1000).right.mean())


# Four fifths of squeezenet1_1 in whole filters leave every criterion at chance until it is trained again, so filters are compared at three tenths.
INFORMED = {
    "magnitude": MagnitudePrune(sparsity=0.8), "gradient": GradientPrune(sparsity=0.8, score="gradient"), "taylor": GradientPrune(sparsity=0.8),
    "snip": GradientPrune(sparsity=0.8, score="snip"), "entropy of weights": EntropyPrune(sparsity=0.8, granularity="weight"),
    "entropy of filters": EntropyPrune(sparsity=0.3), "contribution": ContributionPrune(sparsity=0.3, images=96),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", INFORMED)
def test_every_criterion_beats_chance_on_a_shipped_checkpoint(name):
    step = INFORMED[name]
    assert top1(step) > top1(RandomPrune(sparsity=step.sparsity)) + 10  # points, of 1,000 pictures
