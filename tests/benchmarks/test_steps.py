"""How long every step takes on resnet18: against a pass over the validation split, or over the pictures that the step reads."""

from __future__ import annotations

import time

import pytest
import torch

import core.methods  # noqa: F401  (registers the steps)
from core import pruning, zoo
from core.architecture import Architecture
from core.datasets import load
from core.methods.apply import Context, apply
from core.recipe import STEPS, TRAIN, params
from core.weights import Compressed

pytestmark = pytest.mark.benchmark
MODEL, DATA = "resnet18", "fashion_mnist"
JOBS = {"factorize", "mixed_precision", "round_adaptively", "contribution_prune"}  # run with progress, as training does
WEIGHTS_AT_MOST, PICTURES_AT_MOST = 0.15, 1.25
BACKWARD = {"gradient_prune", "channel_prune"}  # read their pictures there and back
AFTER_A_GRID = {"correct_bias"}
READING = [  # settings that read pictures, of steps that by default read none, or read them otherwise
    ("quantize", {"activation_bits": 8}), ("quantize", {"weight_bits": 4, "activation_bits": 4}), ("binarize", {"activations": True}),
    ("ternarize", {"activations": True}), ("channel_prune", {"importance": "entropy"}), ("channel_prune", {"importance": "taylor"}),
]  # fmt: skip


def bare(module, dataset, split: str, count: int, size: int, backward: bool) -> float:
    """Processor seconds of the plain loop over the first `count` pictures of a split."""
    started = time.process_time()
    for x, labels in dataset.batches(split, size, 32 if backward else 100, count):
        with torch.set_grad_enabled(backward):
            answers = module(x)
            if backward:
                torch.nn.functional.cross_entropy(answers, labels).backward()
    return time.process_time() - started


def test_every_step_takes_no_longer_than_it_may():
    torch.set_num_threads(1)
    checkpoint, dataset = zoo.checkpoint(MODEL, DATA), load(DATA)
    module = checkpoint.load().eval()
    architecture = Architecture(MODEL, checkpoint.classes, checkpoint.input_size)
    bare(module, dataset, "validation", 500, checkpoint.input_size, False)  # warm
    whole = bare(module, dataset, "validation", 5000, checkpoint.input_size, False)
    lines, slow = [], []
    for name, kind in STEPS.items():
        if kind.kind == TRAIN or name == "student" or name in JOBS:
            lines.append((name, "a job, with progress"))
    timed = [name for name in STEPS if name not in dict(lines)]
    for name, fields in [*((name, {}) for name in timed), *READING]:
        step = STEPS.get(name)(**fields)
        images = step.ranges_from or (getattr(step, "images", None) if "images" in {spec.name for spec in params(type(step))} else None)
        backward = name in BACKWARD and getattr(step, "importance", "") != "entropy"
        tries = []  # of both in turn; the quickest counts, because what else a machine does only adds
        for _ in range(1 if images is None else 3):
            subject = Compressed.of(module, architecture)
            context = Context(checkpoint, dataset)
            if name in AFTER_A_GRID:
                apply(STEPS.get("quantize")(), subject, context)
            pruning._REMEMBERED.clear()  # what another setting measured of the same pictures
            started = time.process_time()
            apply(step, subject, context)
            took = time.process_time() - started
            tries.append((took, whole if images is None else bare(module, dataset, "calibration", images, checkpoint.input_size, backward)))
        took, against = (min(each) for each in zip(*tries, strict=True))
        most = WEIGHTS_AT_MOST if images is None else PICTURES_AT_MOST
        label = " ".join([name, *(f"{field}={value}" for field, value in fields.items())])
        lines.append((label, f"{took:.2f} s, {took / against:.2f} of {'a validation pass' if images is None else f'the bare loop over {images} pictures'}"))
        if took > most * against:
            slow.append(f"{label}: {took / against:.2f}, at most {most}")
    print(f"\nvalidation pass {whole:.1f} s")
    for name, said in lines:
        print(f"{name:48s} {said}")
    assert not slow, "; ".join(slow)
