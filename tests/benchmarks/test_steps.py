"""How long every step takes on resnet18: against a pass over the validation split, or over the pictures that the step reads."""

from __future__ import annotations

import statistics
import time

import pytest
import torch

import core.methods  # noqa: F401  (registers the steps)
from core import zoo
from core.arithmetic import pruning
from core.datasets import load
from core.memory.recompute import within
from core.methods import student
from core.methods.apply import Context, apply
from core.models.architecture import Architecture
from core.recipe import STEPS, TRAIN, params
from core.studies import gallery
from core.weights import Compressed

pytestmark = pytest.mark.benchmark
MODEL, DATA = "resnet18", "fashion_mnist"
JOBS = {"factorize", "mixed_precision", "round_adaptively", "contribution_prune"}  # run with progress, as training does
WEIGHTS_AT_MOST, PICTURES_AT_MOST = 0.15, 1.25  # a step that searches ranges among the weights and reads pictures too may take both
BACKWARD = {"gradient_prune", "channel_prune"}  # read their pictures there and back
AFTER_A_GRID = {"correct_bias"}
OTHERWISE = [  # settings of steps that look at weights alone, where they take longest
    *(("quantize", {"clipping": clipping}) for clipping in ("mse", "percentile", "entropy")),
    *(("quantize", {"granularity": granularity, "clipping": clipping}) for granularity in ("model", "tensor", "group") for clipping in ("mse", "entropy")),
    *(("quantize", {"granularity": "group", "group_size": 16, "clipping": clipping}) for clipping in ("mse", "entropy")),
    ("quantize", {"parameters": "weights_and_biases", "symmetric": False}), ("quantize", {"scale": "power_of_two"}),
    *(("share_weights", {"clusters": clusters}) for clusters in (64, 128, 256)), ("share_weights", {"clusters": 256, "scope": "model"}),
    *(("share_weights", {"clusters": clusters, "init": init}) for clusters in (16, 256) for init in ("linear", "density", "kmeans++")),
    ("entropy_prune", {"granularity": "weight"}), ("random_prune", {"scope": "layer"}),
    ("magnitude_prune", {"scope": "layer"}), ("nm_prune", {"n": 1, "m": 16}), ("cast", {"dtype": "float8"}),
    *(("quantize", {"granularity": "group", "symmetric": False, "clipping": clipping}) for clipping in ("mse", "entropy")),
    ("quantize", {"parameters": "weights_and_biases", "clipping": "mse"}), ("quantize", {"parameters": "biases"}), ("binarize", {"scaling": "tensor"}),
    ("magnitude_prune", {"threshold": 0.01}), ("entropy_prune", {"granularity": "weight", "threshold": 6.0}),
    ("channel_prune", {"scope": "layer", "importance": "l1"}),
    ("channel_prune", {"importance": "l2"}), ("channel_prune", {"importance": "random"}), ("channel_prune", {"importance": "bn_scale"}),
]  # fmt: skip
READING = [  # settings that read pictures, of steps that by default read none, or read them otherwise
    ("quantize", {"activation_bits": 8}), ("quantize", {"weight_bits": 4, "activation_bits": 4}), ("binarize", {"activations": True}),
    *(("quantize", {"activation_bits": 8, "clipping": clipping}) for clipping in ("mse", "percentile", "entropy")),
    ("gradient_prune", {"score": "snip"}), ("gradient_prune", {"score": "gradient"}), ("gradient_prune", {"threshold": 1e-6}),
    ("entropy_prune", {"threshold": 1.0}), ("ternarize", {"activations": True}),
    ("channel_prune", {"importance": "entropy"}), ("channel_prune", {"importance": "taylor"}),
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


def read_by(step) -> int | None:
    """How many pictures a step reads at these settings; None where it looks at weights alone."""
    if getattr(step, "importance", "taylor") not in ("taylor", "entropy") or getattr(step, "granularity", "filter") == "weight":
        return None
    return step.ranges_from or (step.images if "images" in {spec.name for spec in params(type(step))} else None)


def test_every_step_takes_no_longer_than_it_may():
    torch.set_num_threads(1)
    checkpoint, dataset = zoo.checkpoint(MODEL, DATA), load(DATA)
    module = checkpoint.load().eval()
    architecture = Architecture(MODEL, checkpoint.classes, checkpoint.input_size)
    bare(module, dataset, "validation", 500, checkpoint.input_size, False)  # warm
    whole = bare(module, dataset, "validation", 5000, checkpoint.input_size, False)
    lines, slow = [], []
    for name, kind in STEPS.items():
        if kind.kind == TRAIN or name in JOBS:
            lines.append((name, "a job, with progress"))
    timed = [name for name in STEPS if name not in dict(lines)]
    for name, fields in [*((name, {}) for name in timed), *OTHERWISE, *READING]:
        step = STEPS.get(name)(**fields)
        images = read_by(step)
        backward = name in BACKWARD and getattr(step, "importance", "") != "entropy"
        tries = []  # of both in turn; the quickest counts, because what else a machine does only adds
        for _ in range(1 if images is None else 5):
            subject = Compressed.of(module, architecture)
            context = Context(checkpoint, dataset)
            if name in AFTER_A_GRID:
                apply(STEPS.get("quantize")(), subject, context)
            pruning._REMEMBERED.clear()  # what another setting measured of the same pictures
            student._LAST.clear()
            started = time.process_time()
            apply(step, subject, context)
            took = time.process_time() - started
            tries.append((took, whole if images is None else bare(module, dataset, "calibration", images, checkpoint.input_size, backward)))
        took, against = (min(each) for each in zip(*tries, strict=True))
        most = WEIGHTS_AT_MOST if images is None else PICTURES_AT_MOST
        if images is not None and fields.get("clipping") in ("mse", "entropy"):
            most += WEIGHTS_AT_MOST * whole / against
        label = " ".join([name, *(f"{field}={value}" for field, value in fields.items())])
        lines.append((label, f"{took:.2f} s, {took / against:.2f} of {'a validation pass' if images is None else f'the bare loop over {images} pictures'}"))
        if took > most * against:
            slow.append(f"{label}: {took / against:.2f}, at most {most:.2f}")
    print(f"\nvalidation pass {whole:.1f} s")
    for name, said in lines:
        print(f"{name:48s} {said}")
    assert not slow, "; ".join(slow)


@pytest.mark.parametrize("model", gallery.MODELS)
def test_activations_that_are_computed_again_cost_less_than_a_second_pass(model):
    torch.set_num_threads(1)
    checkpoint, dataset = zoo.checkpoint(model, DATA), load(DATA)
    module = checkpoint.load().train()
    least, held = within(None, module, checkpoint.input_size, 64)
    half, held_half = within(held.plain / 2, module, checkpoint.input_size, 64)
    again, half = least.train(), half.train()
    x, labels = next(iter(dataset.batches("train", checkpoint.input_size, 64, 64)))

    def seconds(trained) -> float:
        started = time.process_time()
        torch.nn.functional.cross_entropy(trained(x), labels).backward()
        return time.process_time() - started

    networks = module, again, half
    for network in networks:  # warm
        seconds(network)
    plain, *others = (statistics.median(times) for times in zip(*([seconds(network) for network in networks] for _ in range(7)), strict=True))
    print(f"\n{model}: {held.plain / 1e6:.1f} MB of activations")
    for said, took, found in (("least", others[0], held), ("limit of half", others[1], held_half)):
        print(f"{said}: {found.most / 1e6:.1f} MB at most at a time, {took / plain:.2f} of the time")
    assert max(others) / plain < 2  # one more pass forward; the smaller the kernels, the larger the share of time that it has
