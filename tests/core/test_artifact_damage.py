"""Whatever is called a packed file and was not made by `artifact.write` is refused with a sentence, or read as something valid."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core import artifact
from core.arithmetic.grids import FLOATS, Codebook, Floats, Signs, Uniform, nearest
from core.errors import BadArtifact
from core.models.architecture import Architecture
from core.packed import binned
from core.packed.entries import FIELDS, STREAMS
from core.recipe import Recipe
from core.weights import ActivationGrid, Compressed, Weight
from tests.random_states import FIVE, check_same, grid_of, random_mask, random_subject, same_bits, set_states


def mixed() -> Compressed:
    states = [(None, None), (0.3, None), (None, (4, False, "channel")), (0.3, (4, True, "channel")), (0.1, (8, False, "tensor"))]
    subject = set_states(random_subject(FIVE), states, 1)
    subject.activations = {"x": ActivationGrid(0.5, 3, 8)}
    return subject


GOOD = artifact.write(mixed(), recipe=Recipe()).data
FORMS = {"features.3": ["tucker", 3, 4], "features.9": ["svd", 5], "fc": ["svd", 3]}
FACTORED = artifact.write(random_subject(replace(FIVE, factors=FORMS))).data


def few_bits() -> Compressed:
    """Every form that `mixed` has not: groups, signs, one codebook of two weights, a small float, and a batch norm on a grid."""
    subject = random_subject(FIVE)
    first, second, third, fourth, last = (subject.value(name) for name in subject.weights)
    entries = torch.tensor([0.0, -1.0, 0.5, 2.0])
    scale = torch.full((len(second), 1, 1, 1), 0.5)
    norm = subject.value("features.1.weight")
    grids = {
        "features.0.weight": Uniform.of(first, torch.full((8, 2), 0.25), torch.ones(8, 2, dtype=torch.int16), 4, False, 16),
        "features.3.weight": Signs(torch.empty(0), scale, scale, 2).round(second),
        "features.6.weight": Codebook(nearest(third, entries), entries),
        "features.9.weight": Codebook(nearest(fourth, entries), entries),
        "fc.weight": Floats.of(last, "float8"),
        "features.1.weight": Uniform.of(norm, torch.tensor([0.25]), torch.zeros(1, dtype=torch.int16), 4, True),
    }
    for name, grid in grids.items():
        subject.set(name, Weight(subject.value(name), None, grid))
    return subject


FEW_BITS = artifact.write(few_bits()).data


def of_every_kind(masked: bool) -> Compressed:
    """Signs, a codebook of two weights, a smaller float, a grid in groups, and states of parameters that are no weights."""
    subject = random_subject(FIVE, 2)
    latents = {name: weight.latent.clone() for name, weight in subject.weights.items()}
    first, *shared, small, grouped = latents
    scale = latents[first].abs().mean((1, 2, 3), keepdim=True)
    entries = torch.tensor([0.0, -1.5, -0.5, 0.25, 1.0])
    groups = torch.full((latents[grouped].shape[0], 2), 0.2)
    grids = {
        first: Signs(torch.empty(0), scale, 0.5 * scale, 1 if masked else 2),
        **{name: Codebook(torch.empty(0), entries) for name in shared},
        small: Floats.of(latents[small], "float8" if masked else "bfloat16"),
        grouped: Uniform(torch.empty(0), groups, torch.full((len(groups), 2), int(masked), dtype=torch.int16), 4, not masked, 16),
    }
    for place, (name, latent) in enumerate(latents.items()):
        subject.set(name, Weight(latent, random_mask(latent.shape, 0.4, place) if masked else None, grids[name].round(latent)))
    for name in ("fc.bias", "features.1.weight"):
        latent = subject.value(name).clone()
        grid = Floats.of(latent, "float16") if masked else grid_of(latent, 8, True, "tensor")
        subject.set(name, Weight(latent, None, grid.round(latent)))
    return subject


OTHERS = [artifact.write(of_every_kind(masked)).data for masked in (False, True)]
CORPUS = [GOOD, FACTORED, FEW_BITS, *OTHERS]


def rebuilt(header: object, body: bytes, version: int = artifact.VERSION, text: bytes | None = None) -> bytes:
    """A file of this header and body, with lengths and checksum as they should be: what an attacker can make."""
    packed = zlib.compress(json.dumps(header).encode() if text is None else text)
    data = artifact.PREFIX.pack(artifact.MAGIC, version, len(packed)) + packed + body
    return data + artifact._checksum(data)


def taken_apart(data: bytes = GOOD) -> tuple[dict, bytes]:
    length = artifact.PREFIX.unpack_from(data)[2]
    end = artifact.PREFIX.size + length
    return json.loads(zlib.decompress(data[artifact.PREFIX.size : end])), data[end : -artifact.CHECKSUM_BYTES]


def test_the_corpus_holds_every_kind_of_entry():
    headers = [taken_apart(data)[0] for data in CORPUS]
    assert {entry[0] for header in headers for entry in header["weights"]} == set(FIELDS)
    assert headers[-2]["extra"] == headers[-1]["extra"] == ["fc.bias", "features.1.weight"]
    for masked, data in zip((False, True), OTHERS):
        written, back = of_every_kind(masked), artifact.read(data)
        for name, weight in written.weights.items():
            assert same_bits(back.weights[name].value(), weight.value()) and type(back.weights[name].grid) is type(weight.grid)


def refused_or_valid(data: bytes) -> None:
    try:
        subject = artifact.read(data)
    except BadArtifact as error:
        assert str(error).endswith(".") and "\n" not in str(error)
        return
    for name, weight in subject.weights.items():
        assert same_bits(weight.value(), subject.module.get_parameter(name).detach())
    artifact.write(subject)


def test_rebuilding_changes_nothing():
    check_same(artifact.read(rebuilt(*taken_apart())), mixed())


@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data):
    for start in (b"", artifact.MAGIC, artifact.PREFIX.pack(artifact.MAGIC, artifact.VERSION, 5)):
        with pytest.raises(BadArtifact):
            artifact.read(start + data)


@given(st.data())
def test_a_truncated_file_is_refused(data):
    whole = data.draw(st.sampled_from(CORPUS))
    with pytest.raises(BadArtifact):
        artifact.read(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.data())
def test_a_flipped_bit_is_refused(data):
    flipped = bytearray(data.draw(st.sampled_from(CORPUS)))
    place = data.draw(st.integers(0, 8 * len(flipped) - 1))
    flipped[place // 8] ^= 1 << place % 8
    with pytest.raises(BadArtifact):
        artifact.read(bytes(flipped))


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data())
def test_changed_streams_with_a_right_checksum_are_refused_or_read(data):
    header, body = taken_apart(data.draw(st.sampled_from(CORPUS)))
    body = bytearray(body)
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    refused_or_valid(rebuilt(header, bytes(body)))


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([-1, 0, 1, 2**31, 2**63, 10**30]), st.floats(), st.text(max_size=5),
    st.sampled_from([*FIELDS, *FLOATS, "fc.bias", "resnet18", "vgg16", "vit_h_14"]),
)  # fmt: skip
anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)


def places_in(value: object, path: tuple = ()) -> list[tuple]:
    """The path of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in inner for place in places_in(child, (*path, key)))]


def changed(value: object, path: tuple, new: object) -> object:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


@pytest.mark.slow
@settings(max_examples=400)
@given(st.data())
def test_changed_headers_with_a_right_checksum_are_refused_or_read(data):
    header, body = taken_apart(data.draw(st.sampled_from(CORPUS)))
    for _ in range(data.draw(st.integers(1, 3))):
        header = changed(header, data.draw(st.sampled_from(places_in(header))), data.draw(anything))
    refused_or_valid(rebuilt(header, body))


@settings(max_examples=100)
@given(anything)
def test_any_header_is_refused(header):
    with pytest.raises(BadArtifact):
        artifact.read(rebuilt(header, b""))


def header_with(path: tuple, value: object) -> bytes:
    header, body = taken_apart()
    return rebuilt(changed(header, path, value), body)


LIES = {
    "no packed model": (b"PK\x03\x04 and so on", "not a packed model"),
    "nothing": (b"", "not a packed model"),
    "half": (GOOD[: len(GOOD) // 2], "checksum"),
    "newer": (rebuilt({}, b"", version=artifact.VERSION + 1), "format 4, and this version of Paretoscope reads formats up to 3"),
    "header bomb": (rebuilt(None, b"", text=b" " * (artifact.LARGEST_HEADER + 10)), "header does not end"),
    "deep header": (rebuilt(None, b"", text=b"[" * 100_000), "header cannot be read"),
    "endless number": (rebuilt(None, b"", text=b"1" * 10_000), "header cannot be read"),
    "missing keys": (rebuilt({"architecture": None}, b""), "right keys"),
    "unknown model": (header_with(("architecture", "model"), "resnet19"), "resnet19"),
    "many classes": (header_with(("architecture", "classes"), 10**12), "classes"),
    "other classes": (header_with(("architecture", "classes"), 11), "another architecture"),
    "large input": (header_with(("architecture", "input_size"), 10**6), "input_size"),
    "other model": (header_with(("architecture",), Architecture("resnet18", 10, 32).to_json()), "another architecture"),
    "unbuildable": (header_with(("architecture",), Architecture("maxvit_t", 10, 40).to_json()), "maxvit_t|cannot be built"),
    "large factors": (header_with(("architecture",), FIVE.to_json() | {"factors": {"fc": ["svd", 10**9]}}), "fewer numbers than its weight"),
    "factors of a depthwise layer": (header_with(("architecture",), FIVE.to_json() | {"factors": {"features.6": ["svd", 1]}}), "no layer named"),
    "factors that are not there": (header_with(("architecture",), FIVE.to_json() | {"factors": FORMS}), "another architecture"),
    "too few weights": (header_with(("weights",), []), "number of weights"),
    "unknown form": (header_with(("weights", 0), ["sparse", 3]), "unknown form"),
    "negative length": (header_with(("weights", 1, 1), -5), "malformed"),
    "huge length": (header_with(("weights", 1, 1), 10**12), "streams should take"),
    "17 bits": (header_with(("weights", 2, 2), 17), "out of range"),
    "no scales": (header_with(("weights", 2, 4), []), "number of scales"),
    "integers": (header_with(("integers",), 2.5), "no number"),
    "activation": (header_with(("activations", "x"), [float("nan"), 0, 8]), "scale is out of range"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_get_their_sentence(lie):
    data, words = LIES[lie]
    with pytest.raises(BadArtifact, match=words) as caught:
        artifact.read(data)
    assert str(caught.value).endswith(".")


def altered(name: str, stream: int, made) -> bytes:
    """FEW_BITS with one stream of a weight as `made` of it, and the lengths as they then are."""
    header, body = taken_apart(FEW_BITS)
    place = ["features.0", "features.3", "features.6", "features.9", "fc", "features.1"].index(name)
    sizes = [entry[-STREAMS[entry[0]] :] for entry in header["weights"]]
    at = sum(map(sum, sizes[:place])) + sum(sizes[place][:stream])
    old = body[at : at + sizes[place][stream]]
    header["weights"][place][-len(sizes[place]) + stream] = len(made(old))
    return rebuilt(header, body[:at] + made(old) + body[at + len(old) :])


def test_every_form_of_a_weight_comes_back():
    assert [entry[0] for entry in taken_apart(FEW_BITS)[0]["weights"]] == ["groups", "signs", "codebook", "codebook", "floats", "grid"]
    back, written = artifact.read(FEW_BITS), few_bits()
    assert all(same_bits(back.value(name), written.value(name)) for name in written.weights)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("name", "stream", "count"), [("features.0", 3, 16), ("features.3", 2, 16), ("features.6", 2, 3), ("fc", 2, 1), ("features.1", 3, 1)])
def test_scales_and_entries_that_are_no_numbers_are_refused(name, stream, count, number):
    """Raw and in bins."""
    numbers = np.full(count, 0.5, "<f4")
    numbers[-1] = number
    for data in (numbers.tobytes(), binned.write(numbers)) if count > 4 else (numbers.tobytes(),):
        with pytest.raises(BadArtifact, match="a scale is no number"):
            artifact.read(altered(name, stream, lambda _old, data=data: data))


def test_floats_of_other_lengths_than_their_kinds_are_refused():
    header, body = taken_apart()
    assert len(header["floats"]) == 4  # weights, biases, averages, variances
    for floats in (None, [], header["floats"][:3], [*header["floats"], 0], [header["floats"][0] + 1, header["floats"][1] - 1, *header["floats"][2:]]):
        with pytest.raises(BadArtifact):
            artifact.read(rebuilt(header | {"floats": floats}, body))
    with pytest.raises(BadArtifact, match="right keys"):
        artifact.read(rebuilt(header, body, version=1))


def test_a_codebook_is_stored_once():
    with pytest.raises(BadArtifact, match="a codebook is there twice"):
        artifact.read(altered("features.9", 2, lambda _old: np.array([-1.0, 0.5, 2.0], "<f4").tobytes()))


def test_bits_are_a_whole_number():
    header, body = taken_apart(FEW_BITS)
    with pytest.raises(BadArtifact, match="out of range"):
        artifact.read(rebuilt(changed(header, ("weights", 1, 2), True), body))


def test_codes_outside_the_grid_are_refused():
    header, body = taken_apart()
    with pytest.raises(BadArtifact, match="outside its grid"):
        artifact.read(rebuilt(changed(header, ("weights", 4, 2), 3), body))


def test_a_small_file_cannot_ask_for_much_memory():
    """A few bytes that claim to be the largest model are refused before the model is built."""
    large = Architecture("vgg16", 100_000, 32)  # 2.2 GB
    header, _body = taken_apart()
    with torch.device("meta"):
        skeleton = large.build()
    header |= {"architecture": large.to_json(), "tensors": artifact._fingerprint(skeleton), "weights": [["masked", 2, 0]] * 16, "integers": 0}
    del header["floats"]
    before = psutil.Process().memory_info().rss
    with pytest.raises(BadArtifact, match="streams should take"):
        artifact.read(rebuilt(header, b"\0\0" * 16, version=1))
    assert psutil.Process().memory_info().rss - before < 200e6


def test_another_architecture_is_refused():
    with pytest.raises(BadArtifact, match=r"This file holds five_layers \(10 classes, 28×28\), not resnet18 \(10 classes, 32×32\)\."):
        artifact.read(GOOD, expect=Architecture("resnet18", 10, 32))


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(BadArtifact, match="cannot be read"):
            artifact.read(path)
