"""The packed file of every preset that ends in codes, on the models that it is for, against the best generic way to store the same weights: its bytes,
and reading it back.

What trains is kept as a prefix in the home of the tests, and trained once. Accuracy and agreement of every format: `test_round_trips.py`.
"""

from __future__ import annotations

import functools
import time

import pytest
import safetensors.torch
import torch
import zstandard

from core import artifact, engine
from core.packed.coding import Coded, Positions
from core.packed.entries import plan
from core.recipe import GRID
from core.studies import gallery
from core.weights import Compressed, clone
from core.work import Work
from tests.core.packed.test_coding import stream_entropy

MOST_ZSTD = 22
LEAST_SMALLER = 0.15
READS, READ_SECONDS = 7, 0.5  # at least, of each file and of both together: the least of a few reads of some milliseconds is chance


def work(model: str, preset: str) -> Work:
    return Work(model, gallery.DATASET, gallery.preset(preset), latency=False)


@functools.lru_cache(maxsize=2)
def compressed(model: str, preset: str):
    return engine.compress(work(model, preset))


CODES = [
    (model, preset["name"])
    for preset in gallery.shipped_presets() if any(step.kind == GRID for step in gallery.preset(preset["name"]).steps)
    for model in preset.get("models", gallery.MODELS)
]  # fmt: skip


@pytest.mark.parametrize(("model", "preset"), CODES)
def test_the_packed_file_against_safetensors_and_zstd(model, preset):
    """The same baked weights. Shipped checkpoints are float16 widened to float32, of which a generic compressor halves what is on no grid; a
    person's own are not. The limit is on what is shipped; beside it stands the same with noise in the bits that widening left 0."""
    subject = compressed(model, preset)
    smaller = {"as shipped": _smaller(subject), "true float32": _smaller(_unwidened(subject))}
    print(f"\n{model:20} {preset:10} smaller than zstd-{MOST_ZSTD}: " + ", ".join(f"{100 * share:.1f} % {kind}" for kind, share in smaller.items()))
    assert smaller["as shipped"] >= LEAST_SMALLER


def _smaller(subject: Compressed) -> float:
    plain = safetensors.torch.save({name: tensor.contiguous() for name, tensor in subject.module.state_dict().items()})
    return 1 - artifact.write(subject).size / len(zstandard.ZstdCompressor(level=MOST_ZSTD).compress(plain))


def _unwidened(subject: Compressed) -> Compressed:
    """The same model, but for the 13 last bits of every float that is on no grid."""
    copied = Compressed(clone(subject.module), subject.architecture, subject.weights, subject.activations)
    noise, coded = torch.Generator().manual_seed(0), {name for name, weight in subject.weights.items() if weight.grid is not None}
    for name, tensor in copied.module.state_dict().items():
        if tensor.is_floating_point() and name not in coded and name not in subject.weights:
            tensor.mul_(1 + 2**-11 * (torch.rand(tensor.shape, generator=noise) - 0.5))
    return copied


@pytest.mark.parametrize(("model", "preset"), CODES)
def test_every_stream_of_it_takes_its_entropy(model, preset):
    """Trained, as it ships; untrained, on every model: `test_coding.py`."""
    subject, books, excess = compressed(model, preset), {}, []
    for path, parameter in subject.stored():
        for kind, stream in plan(subject.weights[path], parameter.detach(), books)[1]:
            if isinstance(stream, (Coded, Positions)):
                excess.append((len(stream.encode(compact=True)) - 1.01 * stream_entropy(stream, parameter.numel()) - 64, path, kind))
    print(f"\n{model:20} {preset:10} {len(excess)} streams, the nearest to the bound by {-max(excess)[0]:.1f} bytes ({max(excess)[1]}, {max(excess)[2]})")
    assert max(excess)[0] <= 0


@pytest.mark.parametrize(("model", "preset"), CODES)
def test_reading_the_packed_file_against_safetensors_and_a_forward_pass(model, preset):
    """Reading it back, against reading float32 safetensors and one forward pass of 256 pictures; processor time of one thread, the least of several."""
    subject = compressed(model, preset)
    packed, plain = artifact.write(subject).data, safetensors.torch.save({name: tensor.contiguous() for name, tensor in subject.module.state_dict().items()})
    x = torch.zeros(256, 3, subject.architecture.input_size, subject.architecture.input_size).contiguous(memory_format=torch.channels_last)
    torch.set_num_threads(1)

    def by_hand() -> None:
        module = subject.architecture.build()
        module.load_state_dict(safetensors.torch.load(plain))
        with torch.inference_mode():
            module(x)

    seconds = {"packed": [], "plain": []}
    while len(seconds["plain"]) < READS or sum(map(sum, seconds.values())) < READ_SECONDS:
        for kind, read in (("packed", lambda: artifact.read(packed)), ("plain", by_hand)):
            started = time.process_time()
            read()
            seconds[kind].append(time.process_time() - started)
    ours, theirs = (min(times) for times in seconds.values())
    print(f"\n{model:20} {preset:10} read in {1000 * ours:.3g} ms, safetensors and a forward pass in {1000 * theirs:.3g} ms")
    assert ours <= theirs
