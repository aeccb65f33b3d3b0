"""Gradient pruning against finite differences, gradients one picture at a time, and torch.nn.utils.prune."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune

from core.arithmetic import pruning
from core.keeping.remembered import Remembered
from core.methods.apply import apply
from core.methods.gradient_prune import LIMITS, GradientPrune, measure
from core.methods.magnitude_prune import MagnitudePrune
from core.recipe import Recipe
from core.weights import weights_of
from core.work import Work

IMAGES = 96  # three batches of 32


def slow_scores(module, context, score):
    """In float64, by backward() on one picture after the other."""
    module = copy.deepcopy(module).double()
    parameters = dict(weights_of(module))
    x, labels = next(iter(context.dataset.batches("calibration", 32, IMAGES, IMAGES)))
    totals = {name: torch.zeros(parameter.shape, dtype=torch.float64) for name, parameter in parameters.items()}
    for at in range(0, IMAGES, 32):
        module.zero_grad()
        for picture in range(at, at + 32):
            (cross_entropy(module(x[picture : picture + 1].double()), labels[picture : picture + 1]) / 32).backward()
        for name, parameter in parameters.items():
            totals[name] += (parameter * parameter.grad).abs() / 3 if score == "taylor" else parameter.grad / 3
    scores = {name: total.detach().abs() for name, total in totals.items()}  # contiguous, as torch flattens by view
    if score == "snip":
        scores = {name: found * parameters[name].detach().abs() for name, found in scores.items()}
        whole = sum(found.sum() for found in scores.values())
        scores = {name: found / whole for name, found in scores.items()}
    return scores


@pytest.mark.parametrize("score", ["gradient", "taylor", "snip"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_masks_are_torchs_own_on_scores_measured_slowly(subject, context, score, scope):
    scores = slow_scores(subject.module, context, score)
    reference = copy.deepcopy(subject.module).to(memory_format=torch.contiguous_format)  # torch flattens by view
    layers = [(reference.get_submodule(name.rpartition(".")[0]), "weight") for name in scores]
    if scope == "global":
        prune.global_unstructured(layers, prune.L1Unstructured, dict(zip(layers, scores.values(), strict=True)), amount=0.7)
    else:
        for (layer, kind), found in zip(layers, scores.values(), strict=True):
            prune.l1_unstructured(layer, kind, 0.7, importance_scores=found)
    apply(GradientPrune(sparsity=0.7, score=score, scope=scope, images=IMAGES), subject, context)
    differing = sum(int((layer.weight_mask.bool() != weight.mask).sum()) for (layer, _), weight in zip(layers, subject.weights.values(), strict=True))
    assert differing <= 4  # float32 may order two equal neighbours otherwise
    counts = [int(weight.mask.sum()) for weight in subject.weights.values()]
    assert sum(counts) == sum(int(layer.weight_mask.sum()) for layer, _ in layers)


def test_the_slope_is_that_of_finite_differences(subject, context):
    (slope,) = measure(subject.module, ["fc.weight"], context, IMAGES, batchwise=False)
    module = copy.deepcopy(subject.module).double()
    x, labels = next(iter(context.dataset.batches("calibration", 32, IMAGES, IMAGES)))
    for place in ((0, 0), (3, 7), (9, 31)):
        losses = []
        for change in (1e-6, -1e-6):
            with torch.no_grad():
                module.fc.weight[place] += change
                losses.append(float(cross_entropy(module(x.double()), labels)))
                module.fc.weight[place] -= change
        assert float(slope[place]) == pytest.approx(abs(losses[0] - losses[1]) / 2e-6, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("score", ["gradient", "taylor", "snip"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_threshold_is_the_score_itself(subject, context, score, scope):
    scores = slow_scores(subject.module, context, score)
    limit = min(LIMITS, key=lambda stop: abs(stop - float(torch.cat([found.flatten() for found in scores.values()]).median())))
    apply(GradientPrune(threshold=limit, score=score, scope=scope, images=IMAGES), subject, context)
    kept = {name: found >= limit for name, found in scores.items()}
    assert sum(int((kept[name] != weight.mask).sum()) for name, weight in subject.weights.items()) <= 4
    share = sum(int(mask.sum()) for mask in kept.values()) / sum(mask.numel() for mask in kept.values())
    assert limit > 0 and 0.2 < share < 0.8


def test_runs_of_a_threshold_are_not_taken_for_those_of_multiples_of_the_mean(five_layer_checkpoint):
    plain, limited = (Work(five_layer_checkpoint.model, "digits", Recipe((step,))) for step in (GradientPrune(), GradientPrune(threshold=0.001)))
    assert "absolute threshold" in limited._ground("cpu") and "absolute threshold" not in plain._ground("cpu")
    assert len(limited._ground("cpu")) == len(plain._ground("cpu")) + 1


def test_what_was_pruned_before_goes_first(subject, context):
    apply(MagnitudePrune(sparsity=0.5), subject, context)
    before = {name: weight.mask for name, weight in subject.weights.items()}
    apply(GradientPrune(sparsity=0.7, score="gradient", images=IMAGES), subject, context)  # its scores are not 0 where weights are
    assert all(not (weight.mask & ~before[name]).any() for name, weight in subject.weights.items())
    total = sum(weight.mask.numel() for weight in subject.weights.values())
    assert sum(int((~weight.mask).sum()) for weight in subject.weights.values()) == round(0.7 * total)


def test_a_preview_reads_few_pictures_and_another_sparsity_none(subject, context, monkeypatch):
    monkeypatch.setattr(pruning, "_REMEMBERED", Remembered(100))
    read, events = [], []
    whole = context.dataset.batches
    monkeypatch.setattr(context.dataset, "batches", lambda *given: read.append(given[3]) or whole(*given))
    quick = dataclasses.replace(context, images_at_most=40, report=events.append)
    apply(GradientPrune(sparsity=0.0), subject, quick)
    apply(GradientPrune(sparsity=0.5, score="snip"), subject, quick)
    apply(GradientPrune(sparsity=0.6, score="taylor", images=32), subject, quick)
    assert read == [40, 40, 32] and events[-1] == {"fraction": 1.0}  # nothing had changed, but snip needs other slopes than taylor
    assert sum(len(found) for found in pruning._REMEMBERED._values.values()) == 15


def test_what_is_remembered_stays_below_its_limit(subject, context, monkeypatch):
    monkeypatch.setattr(pruning, "_REMEMBERED", Remembered(100, lambda tensors: sum(tensor.nbytes for tensor in tensors)))
    measured = [[torch.zeros(20)], [torch.zeros(5)], [torch.zeros(30)]]
    for number, found in enumerate(measured):
        assert pruning.remembered(("a", number), subject, context, lambda found=found: found) is found
    assert len(pruning._REMEMBERED) == 0  # the last alone is too large
    pruning.remembered(("b",), subject, context, lambda: measured[1])
    assert pruning.remembered(("b",), subject, context, lambda: 1 / 0) is measured[1]
