"""Packed files come back bit for bit, are as small as they should be, and told before they are made."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core import artifact, zoo
from core.arithmetic.grids import Uniform
from core.errors import ParetoscopeError
from core.models.architecture import Architecture
from core.recipe import Recipe
from core.weights import ActivationGrid, Compressed, Weight
from tests.random_states import FIVE, ONE, check_same, grid_of, random_mask, random_subject, set_states

masks = st.sampled_from([None, 0.0, 0.001, 0.2, 0.6, 1.0])
grids = st.one_of(st.none(), st.tuples(st.sampled_from([2, 3, 4, 5, 6, 7, 8, 16]), st.booleans(), st.sampled_from(["model", "tensor", "channel"])))


@settings(max_examples=40)
@given(st.lists(st.tuples(masks, grids), min_size=5, max_size=5), st.integers(0, 1000))
def test_every_state_comes_back_bit_for_bit(states, seed):
    subject = set_states(random_subject(FIVE, seed), states, seed)
    check_same(artifact.read(artifact.write(subject).data), subject)


@settings(max_examples=25)
@given(st.lists(st.tuples(masks, grids), min_size=5, max_size=5))
def test_weights_of_a_single_number_come_back(states):
    subject = set_states(random_subject(ONE), states, 7)
    check_same(artifact.read(artifact.write(subject).data), subject)


@pytest.mark.parametrize("model", ["squeezenet1_1", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_real_models_come_back(model):
    """Each weight in another state, over all layers of a real network; the same pictures give the same answers."""
    subject = random_subject(Architecture(model, 10, 32))
    kinds = [(0.2, (4, True, "channel")), (None, (8, False, "tensor")), (0.1, None), (None, None), (0.02, (2, False, "channel"))]
    set_states(subject, [kinds[place % len(kinds)] for place in range(len(subject.weights))], 3)
    found = artifact.read(artifact.write(subject).data)
    check_same(found, subject)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(found.module(x), subject.module(x))


FAMILIES = {facts["family"]: model for model, facts in sorted(zoo.models().items(), key=lambda entry: -entry[1]["parameters"])}  # the smallest of each


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_of_every_family_is_read_without_its_weights(family):
    plain = Architecture.plain(FAMILIES[family], 10, zoo.models()[FAMILIES[family]]["smallest_input"])
    fingerprint, weights, lengths, _others = artifact._layout(json.dumps(plain.to_json()))
    module = plain.build()
    assert fingerprint == artifact._fingerprint(module) and weights
    assert lengths == {name: tensor.numel() for name, tensor in module.state_dict().items() if tensor.is_floating_point()}


def test_the_layout_in_memory_does_not_matter():
    """Masks and codes may lie as (C, H, W) or as (H, W, C): the file is the same, byte for byte."""
    name = "features.3.weight"
    files = []
    for layout in (torch.contiguous_format, torch.channels_last):
        subject = random_subject(FIVE)
        latent = subject.weights[name].latent
        grid = grid_of(latent, 4, True, "channel")
        grid = Uniform(grid.codes.contiguous(memory_format=layout), grid.scale, grid.zero_point, 4, True)
        subject.set(name, Weight(latent, random_mask(latent.shape, 0.3, 1).contiguous(memory_format=layout), grid))
        files.append(artifact.write(subject).data)
    assert files[0] == files[1] == artifact.write(artifact.read(files[0])).data


def test_signed_zeros():
    """A dense −0.0 stays as it is; in a masked weight every 0 is +0.0."""
    subject = random_subject(FIVE)
    dense, masked = list(subject.weights)[:2]
    subject.set(dense, Weight(torch.full_like(subject.weights[dense].latent, -0.0)))
    latent = torch.where(subject.weights[masked].latent > 0, -0.0, subject.weights[masked].latent)
    subject.set(masked, Weight(latent, random_mask(latent.shape, 0.5, 1)))
    found = artifact.read(artifact.write(subject).data)
    check_same(found, subject)
    assert found.module.get_parameter(dense).signbit().all()
    values = found.module.get_parameter(masked)
    assert torch.equal(values.signbit(), values < 0)


def test_weights_that_are_no_numbers_come_back():
    subject = random_subject(FIVE)
    latent = subject.weights["fc.weight"].latent.clone()
    latent[0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    for weight in (Weight(latent), Weight(latent, torch.ones(latent.shape, dtype=torch.bool))):
        subject.set("fc.weight", weight)
        check_same(artifact.read(artifact.write(subject).data), subject)


def test_activation_grids_recipe_and_notes_about_the_file(tmp_path):
    subject = random_subject(FIVE)
    subject.activations = {"features.2": ActivationGrid(0.1 + 0.2, 128, 8), "x": ActivationGrid(1e-30, 0, 4)}
    recipe = Recipe(seed=5)
    path = tmp_path / "new" / "small.psc"
    packed = artifact.write(subject, path, recipe, {"dataset": "digits", "classes": ["0", "1"]})
    assert path.read_bytes() == packed.data
    check_same(artifact.read(path, expect=FIVE), subject)
    told = artifact.describe(path)
    assert Recipe.from_json(told["recipe"]) == recipe
    assert told["about"] == {"dataset": "digits", "classes": ["0", "1"]}
    assert Architecture.from_json(told["architecture"]) == FIVE


def compressed_squeezenet() -> Compressed:
    subject = random_subject(Architecture("squeezenet1_1", 10, 32))
    return set_states(subject, [(0.2, (4, True, "channel"))] * len(subject.weights), 1)


def test_sparse_grids_are_small_and_parts_add_up():
    """80 % zeros at 4 bits: 0.72 bits a position and at most 4 bits a value, all else in the open."""
    subject = compressed_squeezenet()
    packed = artifact.write(subject)
    numbers = sum(weight.latent.numel() for weight in subject.weights.values())
    assert sum(packed.parts.values()) == packed.size == len(packed.data)
    assert packed.parts["values"] + packed.parts["positions"] < numbers * (0.722 + 0.2 * 3.9) / 8
    assert packed.parts["scales"] <= 4 * sum(weight.grid.scale.numel() for weight in subject.weights.values())
    assert packed.parts["header"] < 1_000


def test_a_dense_model_is_raw_float32():
    subject = random_subject(Architecture("squeezenet1_1", 10, 32))
    packed = artifact.write(subject)
    assert packed.parts["values"] == 4 * sum(weight.latent.numel() for weight in subject.weights.values())
    assert 0 < packed.size - 4 * sum(tensor.numel() for tensor in subject.module.state_dict().values()) < 1_000


KEPT = Path(__file__).parent / "data"  # files of one model, as each format wrote them when it was the newest
KEPT_STATES = [(None, None), (0.3, None), (None, (4, False, "channel")), (0.1, (4, True, "channel")), (0.6, (8, False, "tensor"))]


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_a_former_format_is_read(version):
    path, written = KEPT / f"format_{version}.psc", set_states(random_subject(FIVE, 3), KEPT_STATES, 1)
    check_same(artifact.read(path), written)
    data, again = path.read_bytes(), artifact.write(written).data
    assert sum(stream.length for stream in artifact.streams(data)) == len(data)
    assert data[4:6] == bytes([version, 0]) and again[4:6] == b"\3\0" and len(again) <= len(data)


def test_only_a_grid_asks_for_the_newest_format():
    """A dense or pruned model stays raw float32, as its ratio is against 4 bytes a number."""
    subject = random_subject(FIVE)
    pruned = set_states(random_subject(FIVE), [(0.3, None)] * 5, 1)
    for each in (subject, pruned):
        packed = artifact.write(each)
        floats = sum(t.numel() for name, t in each.module.state_dict().items() if t.is_floating_point() and name not in each.weights)
        assert packed.data[4:6] == b"\1\0" and 4 * floats <= packed.parts["others"] <= 4 * floats + 20
    grid = set_states(random_subject(FIVE), [(None, (8, True, "tensor")), *[(None, None)] * 4], 1)
    packed = artifact.write(grid)
    assert packed.data[4:6] == b"\3\0" and packed.parts["others"] < 4 * floats


def test_a_mask_that_keeps_everything_costs_next_to_nothing():
    subject = random_subject(FIVE)
    before = artifact.write(subject).size
    for name, weight in list(subject.weights.items()):
        subject.set(name, weight.pruned(torch.ones(weight.latent.shape, dtype=torch.bool)))
    assert artifact.write(subject).size <= before + 4


@pytest.mark.parametrize("sample", [1 << 19, artifact.SAMPLE, 1 << 14])
def test_sizes_are_estimated(monkeypatch, sample):
    """Within 0.1 % when every number is looked at, and 1 % when only some rows are."""
    subject = compressed_squeezenet()
    whole = sample == 1 << 19
    monkeypatch.setattr(artifact, "SAMPLE", sample)
    assert artifact.packed_size(subject, Recipe()) == pytest.approx(artifact.write(subject, recipe=Recipe()).size, rel=0.001 if whole else 0.01)


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    def full(_path, _data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ParetoscopeError, match="No space left on device"):
        artifact.write(random_subject(FIVE), tmp_path / "small.psc")
    assert not list(tmp_path.iterdir())


def test_integers_of_every_width_are_kept():
    subject = random_subject(FIVE)
    for tensor, value in zip((t for t in subject.module.state_dict().values() if not t.is_floating_point()), (0, 1, 2**40, 7), strict=True):
        tensor.fill_(value)
    check_same(artifact.read(artifact.write(subject).data), subject)
    assert np.int64(2**40) in {int(t) for t in subject.module.state_dict().values() if not t.is_floating_point()}
