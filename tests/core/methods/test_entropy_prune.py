"""Entropy pruning, of filters, weights and channels, against numpy's histograms and scipy's entropy."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import nn

from core import zoo
from core.arithmetic import channels, pruning
from core.datasets import load
from core.errors import BadRecipe
from core.methods.apply import Context, apply
from core.methods.channel_prune import ChannelPrune, select
from core.methods.entropy_prune import EntropyPrune
from core.methods.magnitude_prune import MagnitudePrune
from core.models.architecture import Architecture
from core.recipe import Recipe
from core.weights import Compressed
from core.work import Work

IMAGES = 160


def slow_entropies(module, context) -> dict[str, np.ndarray]:
    """The network run layer by layer on all pictures at once, one filter at a time."""
    (x,) = context.calibration(IMAGES, batch_size=IMAGES)
    found = {}
    for number, layer in enumerate(module.features):
        x = layer(x.clone()).detach()
        if isinstance(layer, nn.ReLU):  # convolution, batch norm, ReLU
            means = x.numpy().mean((2, 3), dtype=np.float64)
            found[f"features.{number - 2}.weight"] = np.array([entropy(np.histogram(column, 100)[0] / IMAGES, base=2) for column in means.T])
    return found


def test_entropies_of_filters_are_numpys(subject, context):
    expected = slow_entropies(subject.module, context)
    *paths, classifier = (name.removesuffix(".weight") for name in subject.weights)
    found = pruning.filter_entropies(subject, paths, IMAGES, context)
    for path, bits in zip(paths, found, strict=True):
        np.testing.assert_allclose(bits.numpy(), expected[f"{path}.weight"], atol=2 * entropy([1, 159], base=2))  # a picture on the edge of a bin
    assert classifier == "fc" and not any(layer._forward_hooks for layer in subject.module.modules())


def test_a_constant_tells_nothing_and_a_coin_one_bit():
    values = torch.stack([torch.ones(64), torch.arange(64) % 2 * 5.0, torch.arange(64) % 4 - 8.0], 1)
    assert pruning.histogram_entropy(values).tolist() == [0, 1, 2]


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_whole_filters_leave_lowest_entropy_first_up_to_the_share(subject, context, scope, sparsity):
    names = list(subject.weights)[:-1]
    bits = dict(zip(names, pruning.filter_entropies(subject, [name.removesuffix(".weight") for name in names], IMAGES, context), strict=True))
    apply(EntropyPrune(sparsity=sparsity, scope=scope, images=IMAGES), subject, context)
    assert subject.weights["fc.weight"].mask is None
    for of_layers in [names] if scope == "global" else [[name] for name in names]:
        gone = {(name, row): not subject.weights[name].mask[row].any() for name in of_layers for row in range(len(bits[name]))}
        assert all(subject.weights[name].mask[row].all() for (name, row), lost in gone.items() if not lost)  # whole filters
        lost = [float(bits[name][row]) for (name, row), whether in gone.items() if whether]
        stays = {place: float(bits[place[0]][place[1]]) for place, whether in gone.items() if not whether}
        assert max(lost) <= min(stays.values())
        total = sum(subject.value(name).numel() for name in of_layers)
        zeros = sum(int((~subject.weights[name].mask).sum()) for name in of_layers)
        following = subject.value(min(stays, key=stays.get)[0])[0].numel()
        assert zeros <= round(sparsity * total) < zeros + following


def test_a_threshold_in_bits_takes_every_filter_below(subject, context):
    expected = slow_entropies(subject.module, context)
    limit = float(np.median(np.concatenate(list(expected.values()))).round(1))
    apply(EntropyPrune(threshold=limit, images=IMAGES), subject, context)
    for name, bits in expected.items():
        clear = np.abs(bits - limit) > 0.05
        assert np.array_equal(subject.weights[name].mask.flatten(1).any(1).numpy()[clear], (bits >= limit)[clear])


def slow_information(values: dict[str, np.ndarray], kept: dict[str, np.ndarray]) -> list[tuple]:
    """(bits, |w|, layer, place) of every kept weight, one at a time."""
    found = []
    for name, value in values.items():
        known = value[kept[name]]
        low, width = known.min(), 256 / (known.max() - known.min())
        bins = [min(int((number - low) * width), 255) for number in known]
        bits = {place: -np.log2(bins.count(place) / len(bins)) for place in set(bins)}
        found += [(bits[place], abs(number), name, at) for place, number, at in zip(bins, known, np.flatnonzero(kept[name]), strict=True)]
    return sorted(found)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("before", [0.0, 0.5])
def test_the_commonest_weights_leave_first_and_the_smaller_of_equals(subject, context, scope, before):
    apply(MagnitudePrune(sparsity=before, scope=scope), subject, context)
    kept = {name: weight.mask.numpy().flatten() for name, weight in subject.weights.items()}
    values = {name: weight.latent.contiguous().numpy().ravel() for name, weight in subject.weights.items()}
    ranked = slow_information(values, kept)
    for names in [list(values)] if scope == "global" else [[name] for name in values]:
        own = [entry for entry in ranked if entry[2] in names]
        drop = round(0.8 * sum(values[name].size for name in names)) - sum(int((~kept[name]).sum()) for name in names)
        for _bits, _size, name, at in own[:drop]:
            kept[name][at] = False
    apply(EntropyPrune(sparsity=0.8, granularity="weight", scope=scope), subject, context)
    assert all(np.array_equal(subject.weights[name].mask.numpy().ravel(), mask) for name, mask in kept.items())


def test_a_threshold_in_bits_takes_every_weight_of_commoner_bins(subject, context):
    value = subject.value("fc.weight").numpy().ravel()
    expected = np.ones(value.size, bool)
    for bits, _size, _name, at in slow_information({"fc": value}, {"fc": expected.copy()}):
        expected[at] = bits >= 6.5
    apply(EntropyPrune(threshold=6.5, granularity="weight", layers="fc"), subject, context)
    assert np.array_equal(subject.weights["fc.weight"].mask.numpy().ravel(), expected) and not expected.all()


def test_a_preview_watches_few_pictures_and_ranks_weights_nearly_alike(subject, context):
    read = []
    watched = SimpleNamespace(fingerprint="few", split=context.dataset.split, batches=lambda *given: read.append(given[3]) or context.dataset.batches(*given))
    quick = dataclasses.replace(context, images_at_most=50, dataset=watched)
    for sparsity in (0.2, 0.0):
        apply(EntropyPrune(sparsity=sparsity), Compressed.of(subject.module, subject.architecture), quick)
    assert read == [50]  # the second from memory
    states = [Compressed.of(subject.module, subject.architecture) for _ in range(2)]
    for state, place in zip(states, (context, quick), strict=True):
        apply(EntropyPrune(sparsity=0.7, granularity="weight"), state, place)
    first, second = (torch.cat([weight.mask.flatten() for weight in state.weights.values()]) for state in states)
    assert float((first == second).float().mean()) > 0.999


def test_filters_of_the_classifier_are_refused_before_any_work():
    recipe = Recipe((EntropyPrune(layers="fc"),))
    with pytest.raises(BadRecipe, match="entropy_prune finds no filters in layers 'fc', because the classifier keeps its classes"):
        Work("resnet18", "digits", recipe)
    Work("resnet18", "digits", Recipe((EntropyPrune(layers="fc", granularity="weight"),)))


def test_attention_shows_no_filters_and_a_note_says_so():
    plain = Architecture.plain("vit_b_16", 10, 32)
    layer = "encoder.layers.encoder_layer_0"
    subject = Compressed.of(plain.build(), plain)
    apply(EntropyPrune(layers=f"{layer}.*", images=32), subject, Context(SimpleNamespace(input_size=32), load("digits")))
    assert [name for name, weight in subject.weights.items() if weight.mask is not None] == [f"{layer}.mlp.0.weight", f"{layer}.mlp.3.weight"]
    assert "left" in subject.notes[0] and "self_attention.in_proj_weight" in subject.notes[0] and "self_attention.out_proj" in subject.notes[0]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_channels_leave_by_the_entropy_of_the_filters_that_make_them(subject, context, scope):
    step = ChannelPrune(sparsity=0.5, importance="entropy", scope=scope, round_to=1, images=IMAGES)
    bits = slow_entropies(subject.module, context)
    groups = channels.groups(subject.module, 32)
    assert [[part.layer for part in group.makers()] for group in groups] == [["features.0"], ["features.3"], ["features.9"]]
    shares = [bits[f"{group.layer}.weight"] / bits[f"{group.layer}.weight"].sum() for group in groups]
    expected = select(step, [share.tolist() for share in shares], [1, 1, 1])
    weights = [subject.module.get_submodule(group.layer).weight.detach().clone() for group in groups]
    apply(step, subject, context)
    for group, weight, gone in zip(groups, weights, expected, strict=True):
        stays = [row for row in range(len(weight)) if row not in gone]
        after = subject.module.get_submodule(group.layer).weight
        assert after.shape[0] == len(stays)
        assert after.shape[1] != weight.shape[1] or torch.equal(after, weight[stays])


def test_the_model_list_knows_the_classifier_as_the_last_weight():
    assert all(facts["weights"][-1].split(".")[0] in ("fc", "classifier", "head", "heads") for facts in zoo.models().values() if "weights" in facts)
