"""Contribution pruning against a loop that removes every filter and evaluates what is left."""

from __future__ import annotations

import copy
import dataclasses
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy

from core.arithmetic import pruning
from core.datasets import load
from core.errors import BadRecipe
from core.keeping.remembered import Remembered
from core.methods import contribution_prune
from core.methods.apply import apply
from core.methods.contribution_prune import ContributionPrune, unit_size
from core.methods.magnitude_prune import MagnitudePrune
from core.recipe import Recipe
from core.weights import Compressed
from core.work import Work

IMAGES = 96


@pytest.fixture(scope="module")
def slow_ranking(five_layer_checkpoint) -> list[tuple]:
    """(pictures lost, loss, name, filter), sorted, of every filter before the classifier."""
    module = five_layer_checkpoint.load()
    x, labels = next(iter(load("digits").batches("calibration", 32, IMAGES, IMAGES)))
    found = []
    for name, parameter in module.named_parameters():
        for row in range(len(parameter)) if parameter.dim() == 4 else ():
            without = copy.deepcopy(module).double()
            with torch.no_grad():
                without.get_parameter(name)[row] = 0
                logits = without(x.double())
            found.append((-int((logits.argmax(1) == labels).sum()), float(cross_entropy(logits, labels)), name, row))
    return sorted(found)


@pytest.mark.parametrize("sparsity", [0.2, 0.6, 0.99])
def test_what_leaves_is_what_brute_force_finds_cheapest(subject, context, slow_ranking, sparsity):
    expected = {name: torch.ones_like(subject.value(name), dtype=torch.bool) for name in list(subject.weights)[:-1]}
    room = round(sparsity * sum(mask.numel() for mask in expected.values()))
    for _right, _loss, name, row in slow_ranking:
        if expected[name][row].numel() > room:
            break
        room -= expected[name][row].numel()
        expected[name][row] = False
    apply(ContributionPrune(sparsity=sparsity, images=IMAGES), subject, context)
    assert all(torch.equal(subject.weights[name].mask, mask) for name, mask in expected.items())
    assert subject.weights["fc.weight"].mask is None


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 2.0, 100.0])
def test_with_a_threshold_all_leave_that_cost_less_alone(subject, context, slow_ranking, threshold):
    x, labels = next(iter(context.dataset.batches("calibration", 32, IMAGES, IMAGES)))
    with torch.no_grad():
        whole = int((copy.deepcopy(subject.module).double()(x.double()).argmax(1) == labels).sum())
    expected = {name: torch.ones_like(subject.value(name), dtype=torch.bool) for name in list(subject.weights)[:-1]}
    for right, _loss, name, row in slow_ranking:
        expected[name][row] = not 100 * (whole + right) / IMAGES < threshold
    apply(ContributionPrune(threshold=threshold, images=IMAGES), subject, context)
    masks = {name: weight.mask if weight.mask is not None else torch.ones_like(weight.value(), dtype=torch.bool) for name, weight in subject.weights.items()}
    assert all(torch.equal(masks[name], mask) for name, mask in expected.items()) and masks["fc.weight"].all()


def test_within_each_layer_the_cheapest_of_it_leave(subject, context, slow_ranking):
    apply(ContributionPrune(sparsity=0.5, images=IMAGES, scope="layer"), subject, context)
    for name in list(subject.weights)[:-1]:
        filters = [row for _right, _loss, layer, row in slow_ranking if layer == name]
        gone = {row for row in filters if not subject.weights[name].mask[row].any()}
        assert gone == set(filters[: len(filters) // 2])


def test_measuring_leaves_the_model_as_it_was_and_tells_how_far_it_is(subject, context, monkeypatch):
    monkeypatch.setattr(pruning, "_REMEMBERED", Remembered(100))
    before = {name: tensor.clone() for name, tensor in subject.module.state_dict().items()}
    events, turns = [], []

    class Turn:
        def __enter__(self):
            turns.append(1)

        def __exit__(self, *_):
            pass

    apply(ContributionPrune(sparsity=0.0, images=64), subject, dataclasses.replace(context, report=events.append, turn=Turn))
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.module.state_dict().items())
    assert [event["fraction"] for event in events] == pytest.approx([(number + 1) / 72 for number in range(72)])  # 8 + 16 + 16 + 32 filters
    assert len(turns) >= 72
    apply(ContributionPrune(sparsity=0.5, images=64), subject, dataclasses.replace(context, report=events.append))
    assert len(events) == 72  # from memory


def test_a_preview_makes_few_evaluations_of_few_pictures(subject, context, monkeypatch):
    monkeypatch.setattr(pruning, "_REMEMBERED", Remembered(100))
    asked = []
    monkeypatch.setattr(contribution_prune, "_evaluate", lambda _module, _context, count: asked.append(count) or (len(asked), 1.0))
    apply(ContributionPrune(), subject, dataclasses.replace(context, images_at_most=100))
    assert set(asked) == {16} and len(asked) <= 32


@pytest.mark.parametrize(
    ("filters", "most", "size"),
    [([8, 16, 16, 32], 256, 1), ([8, 16, 16, 32], 36, 2), ([64] * 20, 256, 6), ([4096, 4096, 10], 256, 33), ([8, 8, 8], 1, 4), ([1], 5, 1)],
)
def test_units_are_as_small_as_the_evaluations_allow(filters, most, size):
    def units(k):
        return sum(len(range(0, count, min(k, -(-count // 2)))) for count in filters)

    assert unit_size(filters, most) == size
    assert units(size) <= max(most, 2 * len(filters)) and (size == 1 or units(size - 1) > max(most, 2 * len(filters)))


def test_units_are_filters_of_neighbouring_weight(subject, monkeypatch):
    units = contribution_prune._units(subject, list(subject.weights)[:-1], 20)
    for name in list(subject.weights)[:-1]:
        own = [filters for of, filters in units if of == name]
        weight = subject.value(name).abs().flatten(1).sum(1)
        assert sorted(row for unit in own for row in unit) == list(range(len(weight)))
        assert all(weight[lighter].max() <= weight[heavier].min() for lighter, heavier in pairwise(own))


def test_what_was_pruned_before_counts_and_goes_first(subject, context):
    with torch.no_grad():
        masks = {name: torch.ones_like(weight.latent, dtype=torch.bool) for name, weight in subject.weights.items()}
    masks["features.3.weight"][4] = False
    masks["features.9.weight"][:, :8] = False
    for name, mask in masks.items():
        subject.set(name, subject.weights[name].pruned(mask))
    apply(ContributionPrune(sparsity=0.5, images=IMAGES), subject, context)
    names = list(masks)[:-1]
    zeros = sum(int((~subject.weights[name].mask).sum()) for name in names)
    total = sum(masks[name].numel() for name in names)
    assert 0.4 * total < zeros <= 0.5 * total
    assert not any((subject.weights[name].mask & ~masks[name]).any() for name in names)


def test_a_second_pass_with_a_smaller_share_changes_nothing(subject, context):
    apply(MagnitudePrune(sparsity=0.6, scope="layer"), subject, context)
    before = Compressed.of(subject.module, subject.architecture).module.state_dict()
    apply(ContributionPrune(sparsity=0.3, images=32), subject, context)
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.module.state_dict().items())


def test_the_classifier_alone_is_refused_before_any_work():
    with pytest.raises(BadRecipe, match="contribution_prune finds no filters in layers 'fc'"):
        Work("resnet18", "digits", Recipe((ContributionPrune(layers="fc"),)))
