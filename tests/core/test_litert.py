"""int8 TensorFlow Lite files: what LiteRT's own interpreter says of the grids in them, and of pictures, against the engine."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from core.arithmetic.activations import input_scales, measured, observe
from core.arithmetic.folding import fold, integers
from core.datasets import load
from core.methods.apply import Context
from core.methods.quantize import Quantize
from core.methods.quantize import apply as quantize
from core.models.architecture import Architecture
from core.runtimes import litert, tflite
from core.weights import Compressed
from tests import five_layers

pytestmark = [pytest.mark.slow, pytest.mark.skipif(litert.missing() is not None, reason="LiteRT is not here")]
LAYERS = {"features.0": "features_2", "features.3": "features_5", "features.6": "features_8", "features.9": "features_11", "fc": None}  # layer → site


@dataclasses.dataclass(frozen=True)
class Made:
    subject: Compressed
    file: bytes


@pytest.fixture(scope="module")
def made(five_layer_checkpoint) -> Made:
    """The five-layer model on 8-bit grids, and its file. One channel has weights so small that its bias is no int32 at their scale."""
    module, size = five_layer_checkpoint.load(), five_layer_checkpoint.input_size
    with torch.no_grad():
        module.features[3].weight[0] *= 1e-13
    subject = Compressed.of(module, Architecture(five_layers.NAME, 10, size))
    quantize(Quantize(weight_bits=8), subject, Context(None, None))
    pictures, _labels = next(load("digits").batches("calibration", size, 100, 100))
    subject.activations = observe(subject.module, [pictures], 8)
    network = tflite.integer_network(subject)
    return Made(subject, tflite.converted(network, "int8", five_layers.NAME, size, pictures=pictures.contiguous().numpy()))


def test_the_file_carries_the_recipes_own_grids(made):
    opened, subject = litert.interpreter(made.file), made.subject
    details = {detail["index"]: detail for detail in opened.get_tensor_details()}
    found = [operator for operator in opened._get_ops_details() if operator["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")]
    layers = integers(subject, fold(subject.module), input_scales(subject.module, subject.activations))
    for operator, (path, site) in zip(found, LAYERS.items(), strict=True):
        weight, output = (details[operator[ends][place]] for ends, place in (("inputs", 1), ("outputs", 0)))
        np.testing.assert_allclose(weight["quantization_parameters"]["scales"], layers[path].scale, rtol=1e-6)
        codes = opened.get_tensor(weight["index"])
        rows = np.moveaxis(codes, -1, 0) if operator["op_name"] == "DEPTHWISE_CONV_2D" else codes
        expected = layers[path].codes.numpy()
        np.testing.assert_array_equal(np.sort(rows.reshape(len(rows), -1)), np.sort(expected.reshape(len(expected), -1)))
        if site is not None:
            (scale,), (zero_point,) = (output["quantization_parameters"][name] for name in ("scales", "zero_points"))
            grid = subject.activations[site]
            assert (scale, zero_point) == (pytest.approx(grid.scale, rel=1e-6), grid.zero_point - 128)


def test_its_logits_are_the_engines(made):
    """A bias that does not fit would be far off: the channel of it gives a constant that every class depends on."""
    batch, _labels = next(load("digits").batches("validation", made.subject.architecture.input_size, 100, 100))
    with torch.inference_mode():
        expected = measured(made.subject)(batch).numpy()
    got = litert.logits(litert.interpreter(made.file), batch)
    assert np.abs(got - expected).mean() < 0.03 * expected.std()
    assert (got.argmax(1) == expected.argmax(1)).mean() >= 0.98
