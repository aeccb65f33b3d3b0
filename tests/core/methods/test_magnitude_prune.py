"""Magnitude pruning against torch.nn.utils.prune."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.utils import prune

from core.methods.apply import apply
from core.methods.magnitude_prune import MagnitudePrune
from core.pruning import keep_largest
from core.weights import weights_of


def layers_of(module):
    return [(module.get_submodule(name.rpartition(".")[0]), "weight") for name, _ in weights_of(module)]


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.8, 0.99])
def test_global_scope_gives_the_masks_of_torch(subject, context, sparsity):
    reference = copy.deepcopy(subject.module).to(memory_format=torch.contiguous_format)  # torch flattens by view
    prune.global_unstructured(layers_of(reference), prune.L1Unstructured, amount=sparsity)
    apply(MagnitudePrune(sparsity=sparsity), subject, context)
    for (layer, _), weight in zip(layers_of(reference), subject.weights.values()):
        assert torch.equal(layer.weight_mask.bool(), weight.mask)
        assert torch.equal(layer.weight, weight.value())


def test_layer_scope_gives_the_masks_of_torch(subject, context):
    reference = copy.deepcopy(subject.module).to(memory_format=torch.contiguous_format)  # torch flattens by view
    for layer, kind in layers_of(reference):
        prune.l1_unstructured(layer, kind, amount=0.6)
    apply(MagnitudePrune(sparsity=0.6, scope="layer"), subject, context)
    assert all(torch.equal(layer.weight_mask.bool(), weight.mask) for (layer, _), weight in zip(layers_of(reference), subject.weights.values()))


def test_threshold_keeps_what_is_at_least_as_large(subject, context):
    plain = {name: weight.value().clone() for name, weight in subject.weights.items()}
    apply(MagnitudePrune(threshold=0.05), subject, context)
    for name, weight in subject.weights.items():
        assert torch.equal(weight.value(), torch.where(plain[name].abs() >= 0.05, plain[name], 0.0))


def test_ties_are_dropped_in_order_and_in_the_exact_number():
    masks = keep_largest([torch.ones(5), torch.tensor([[1.0, 2.0]])], 4 / 7)
    assert masks[0].tolist() == [False, False, False, False, True] and masks[1].tolist() == [[True, True]]


def test_pruning_again_narrows_the_mask(subject, context):
    apply(MagnitudePrune(sparsity=0.5), subject, context)
    before = {name: weight.mask.clone() for name, weight in subject.weights.items()}
    apply(MagnitudePrune(sparsity=0.7), subject, context)
    assert all(not (weight.mask & ~before[name]).any() for name, weight in subject.weights.items())
    zeros = sum(int((~weight.mask).sum()) for weight in subject.weights.values())
    assert zeros == round(0.7 * sum(weight.mask.numel() for weight in subject.weights.values()))


def test_only_the_chosen_layers_change(subject, context):
    apply(MagnitudePrune(sparsity=0.9, layers="fc"), subject, context)
    assert [name for name, weight in subject.weights.items() if weight.mask is not None] == ["fc.weight"]


def test_a_layer_that_loses_everything_is_named_once(subject, context):
    apply(MagnitudePrune(threshold=10.0, layers="fc, features.0"), subject, context)
    assert subject.notes == ["magnitude_prune set every weight of features.0 and fc to zero: what is put out there is the same for every picture."]
    apply(MagnitudePrune(threshold=10.0, layers="fc"), subject, context)
    assert len(subject.notes) == 1


def test_a_preview_finds_nearly_the_same_limit_by_a_sample():
    score = torch.randn(600, 600, generator=torch.Generator().manual_seed(0)).abs()
    (exact,), (sampled,) = keep_largest([score], 0.8), keep_largest([score], 0.8, 1 << 14)
    assert not torch.equal(exact, sampled) and float(sampled.float().mean()) == pytest.approx(0.2, abs=0.01)
