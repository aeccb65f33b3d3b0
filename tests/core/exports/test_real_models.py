"""Every format on two shipped models, on the recipe that every format takes: 8-bit grids on weights and activations."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from core import engine
from core.datasets import load
from core.exports import FORMATS, Export, make
from core.runtimes import litert
from core.studies import gallery
from core.work import Work

pytestmark = pytest.mark.slow
MODELS = ("squeezenet1_1", "mobilenet_v3_small")
QUICK = [name for name in FORMATS if not name.startswith("tflite")]
CONVERTED = [("squeezenet1_1", "tflite-fp16"), ("squeezenet1_1", "tflite"), ("mobilenet_v3_small", "tflite-int8")]  # the rest is in the benchmark


@pytest.fixture(scope="module")
def labels() -> dict[str, bytes]:
    """What the engine answers."""
    return {model: engine.run(work(model)).predicted for model in MODELS}


def work(model: str) -> Work:
    return Work(model, "fashion_mnist", gallery.preset("int8"), latency=False)


@pytest.mark.parametrize(
    ("model", "format"),
    [
        *((model, format) for model in MODELS for format in QUICK),
        *(pytest.param(*pair, marks=pytest.mark.skipif(litert.missing() is not None, reason="LiteRT is not here")) for pair in CONVERTED),
    ],
)
def test_a_round_trip(model, format, labels):
    made = make(Export(work(model), format), predicted=labels[model])
    record = made.record
    assert record.images == 5000 and record.agreement >= (0.999 if FORMATS.get(format).held else 0.97)
    assert abs(record.top1 - record.run_top1) <= (0.1 if FORMATS.get(format).held else 0.5)
    if format.startswith("onnx"):
        onnx.checker.check_model(onnx.load_from_string(made.data), full_check=True)
    if format == "tflite":
        opened = litert.interpreter(made.data)
        pictures = next(load("fashion_mnist").batches("validation", 32, 20, 20))[0]
        np.testing.assert_array_equal(litert.predict(opened, [pictures[:7], pictures[7:]]), litert.logits(opened, pictures).argmax(1))
