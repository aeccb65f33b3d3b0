"""Magnitude pruning against torch.nn.utils.prune."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

from core.arithmetic.pruning import RANK_SAMPLE, keep_largest, of_rank
from core.methods.apply import apply
from core.methods.magnitude_prune import MagnitudePrune
from core.weights import Weight, weights_of


def layers_of(module):
    return [(module.get_submodule(name.rpartition(".")[0]), "weight") for name, _ in weights_of(module)]


def without_ties(subject) -> None:
    """Give all weights other magnitudes: of those that are alike torch may drop any."""
    total = sum(weight.latent.numel() for weight in subject.weights.values())
    places = (torch.randperm(total, generator=torch.Generator().manual_seed(5)) + 1).float() / total
    for name, weight in list(subject.weights.items()):
        part, places = places[: weight.latent.numel()], places[weight.latent.numel() :]
        subject.set(name, Weight(part.view(weight.latent.shape) * torch.where(weight.latent < 0, -1.0, 1.0)))


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.8, 0.99])
def test_global_scope_gives_the_masks_of_torch(subject, context, sparsity):
    without_ties(subject)
    reference = copy.deepcopy(subject.module).to(memory_format=torch.contiguous_format)  # torch flattens by view
    prune.global_unstructured(layers_of(reference), prune.L1Unstructured, amount=sparsity)
    apply(MagnitudePrune(sparsity=sparsity), subject, context)
    for (layer, _), weight in zip(layers_of(reference), subject.weights.values()):
        assert torch.equal(layer.weight_mask.bool(), weight.mask)
        assert torch.equal(layer.weight, weight.value())


def test_layer_scope_gives_the_masks_of_torch(subject, context):
    without_ties(subject)
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


N = 5 * RANK_SAMPLE + 3
ROWS = {
    "normal": lambda draw: draw.normal(size=N),
    "half are zero": lambda draw: draw.normal(size=N) * (draw.random(N) < 0.5),
    "all alike": lambda draw: np.ones(N),
    "ascending": lambda draw: np.arange(N),
    "the sample is all of one kind": lambda draw: np.where(np.arange(N) % 5, draw.normal(size=N), 7.0),  # nothing near the rank is in it
    "fewer than a sample": lambda draw: draw.normal(size=1000),
}


def test_scores_that_are_no_numbers_stand_last_as_in_a_sort():
    row = np.random.default_rng(0).random(N).astype(np.float32)
    row[::300] = np.nan
    assert of_rank(row, N // 2) == np.sort(row)[N // 2]


@pytest.mark.parametrize("kind", list(ROWS))
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.8, 0.999, 1.0])
def test_the_element_of_a_rank_is_that_of_a_sort(kind, share):
    row = ROWS[kind](np.random.default_rng(1)).astype(np.float32)
    rank = round(share * (row.size - 1))
    assert of_rank(row, rank) == np.sort(row)[rank]
