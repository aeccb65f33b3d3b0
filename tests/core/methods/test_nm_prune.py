"""N:M pruning against a loop over every group."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.errors import BadField
from core.methods import nm_prune
from core.methods.apply import apply
from core.methods.magnitude_prune import MagnitudePrune
from core.methods.nm_prune import NmPrune, keep_n_of_m


def slow_mask(weight: np.ndarray, n: int, m: int) -> np.ndarray:
    kept = np.ones(weight.shape, bool)
    rows = weight.reshape(*weight.shape[:2], -1)
    for out in range(rows.shape[0]):
        for position in range(rows.shape[2]):
            for start in range(0, rows.shape[1] - m + 1, m):
                group = np.abs(rows[out, start : start + m, position])
                for lost in np.argsort(group, kind="stable")[: m - n]:
                    kept.reshape(rows.shape)[out, start + lost, position] = False
    return kept


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (4, 8), (3, 5), (15, 16)])
@pytest.mark.parametrize("shape", [(6, 16), (4, 32, 3, 3), (5, 19, 1, 1), (8, 1, 3, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_masks_are_those_of_a_loop(n, m, shape, layout):
    weight = torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(1)).float()  # with many ties
    weight = weight.to(memory_format=layout) if len(shape) == 4 else weight
    mask = keep_n_of_m(weight.abs(), n, m)
    assert np.array_equal(mask.numpy(), slow_mask(weight.numpy(), n, m))
    assert len(shape) == 2 or mask.is_contiguous(memory_format=layout)


def test_the_model_holds_the_pattern_and_a_note_names_what_stays_dense(subject, context, monkeypatch):
    monkeypatch.setattr(nm_prune, "PIECE", 200)  # in several pieces
    apply(NmPrune(), subject, context)
    for name, weight in subject.weights.items():
        assert np.array_equal(weight.mask.numpy(), slow_mask(weight.latent.numpy(), 2, 4)) and weight.mask.stride() == weight.latent.stride(), name
    for name in ("features.3.weight", "features.9.weight", "fc.weight"):
        mask = subject.weights[name].mask
        assert (mask.unflatten(1, (-1, 4)).sum(2) == 2).all()
    assert all(subject.weights[name].mask.all() for name in ("features.0.weight", "features.6.weight"))  # 3 inputs, and depthwise
    assert subject.notes == ["nm_prune left inputs of features.0 and features.6 dense, because their number does not divide by 4."]


def test_what_was_pruned_before_goes_first(subject, context):
    apply(MagnitudePrune(sparsity=0.4), subject, context)
    before = {name: weight.mask for name, weight in subject.weights.items()}
    apply(NmPrune(n=1, m=4, layers="fc"), subject, context)
    after = subject.weights["fc.weight"].mask
    groups, pruned = after.unflatten(1, (-1, 4)).sum(2), before["fc.weight"].unflatten(1, (-1, 4)).sum(2)
    assert not (after & ~before["fc.weight"]).any() and torch.equal(groups, pruned.clamp(max=1))


@pytest.mark.parametrize(("n", "m"), [(4, 4), (8, 4), (2, 2)])
def test_n_must_be_below_m(n, m):
    with pytest.raises(BadField, match=f"nm_prune.n cannot be {n}; it takes a whole number below m, which is {m}"):
        NmPrune(n=n, m=m)
