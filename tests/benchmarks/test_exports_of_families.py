"""Exports of every kind of network: the smallest torchvision model of each family, in each format, against the engine's own answers.

Labels of random weights turn on nothing, so the logits are held to be near: the middle one of all differences, in standard deviations over the pictures.
Rounding to a grid can turn over at a tie and be amplified from layer to layer, so an int8 file is held to the error that its grids have themselves.
`make benchmark ARGS="-k exports_of_families"` prints the table; TensorFlow Lite takes a minute a file.
"""

from __future__ import annotations

import copy
import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from core.datasets import load
from core.engine import measurable
from core.exports import FORMATS
from core.exports.formats import INT8, Around
from core.models.architecture import Architecture
from core.recipe import Recipe
from core.weights import Compressed
from tests import architectures

PICTURES = 8
ON_GRIDS = Recipe.from_json({"steps": [{"step": "quantize", "weight_bits": 8, "activation_bits": 8}]})
NEAR = {"float32": 1e-3, "float16": 0.05}
SHARE = {"onnx-int8": 0.6, "tflite-int8": 2.0}  # of the error of the grids themselves; LiteRT rounds at more places than the recipe
MANY_TIES = "inception_v3"  # 94 layers at 75 pixels: nearly every picture meets one
CALM = ("maxvit_t",)  # lively weights amplify the least rounding there
FAMILIES = architectures.smallest()
FILES = [name for name, _format in FORMATS.items() if name != "artifact"]  # which `test_architectures.py` reads back


@functools.lru_cache(maxsize=1)
def network(model: str) -> tuple[nn.Module, torch.Tensor]:
    """Random weights, and pictures (PICTURES, 3, S, S)."""
    torch.manual_seed(0)
    size = architectures.size(model)
    pictures = next(load("digits").batches("validation", size, PICTURES, PICTURES))[0].contiguous()
    return calm(model, pictures) if model in CALM else architectures.whole(model), pictures


def calm(model: str, pictures: torch.Tensor) -> nn.Module:
    """Fresh layers as torch draws them, their statistics those of the pictures."""
    module = Architecture.plain(model, architectures.CLASSES, architectures.size(model)).build()
    for layer in module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
            layer.train()
    with torch.no_grad():
        module(pictures)
    return module.eval()


@functools.lru_cache(maxsize=2)
def compressed(model: str, on_grids: bool) -> tuple[Compressed, np.ndarray]:
    """The model with its recipe, and the engine's own logits (PICTURES, CLASSES)."""
    module, pictures = network(model)
    subject = architectures.made(ON_GRIDS if on_grids else Recipe(), model, copy.deepcopy(module))
    with torch.inference_mode():
        return subject, measurable(subject)(pictures).numpy()


@pytest.mark.parametrize(("model", "format"), [(model, format) for model in FAMILIES.values() for format in FILES])
def test_a_file_of_each_family_answers_as_the_engine_does(model, format):
    entry, (module, pictures) = FORMATS.get(format), network(model)
    if entry.missing():
        pytest.skip("LiteRT is not here")
    subject, expected = compressed(model, entry.numbers == INT8)
    around = Around(SimpleNamespace(model=model, dataset="digits"), architectures.size(model))
    data = entry.write(subject, around)
    logits = entry.load(data if entry.finish is None else entry.finish(data, around))
    found = np.concatenate([logits(pictures[:5]), logits(pictures[5:])])  # however many at a time
    with torch.inference_mode():
        plain = module(pictures).numpy()
    spread = plain.std(0).mean()
    off, grids = float(np.median(np.abs(found - expected)) / spread), float(np.median(np.abs(plain - expected)) / spread)
    print(f"\n{model:20} {format:12} off by {off:.1e}" + (f", its grids by {grids:.1e}" if entry.numbers == INT8 else ""))
    assert off <= (max(SHARE[format], float(model == MANY_TIES)) * grids if entry.numbers == INT8 else NEAR[entry.numbers])
