"""TensorFlow Lite files: float32, float16, and int8 on the recipe's own grids. `core.runtimes.tflite` makes them, LiteRT runs them."""

from __future__ import annotations

import functools

from core.exports.formats import FLOAT16, FLOAT32, INT8, Around, register
from core.runtimes import litert

CALIBRATION = 200  # pictures that set the ranges of what is on no grid of the recipe


def write(subject, _around: Around) -> bytes:
    from core.runtimes import tflite

    return tflite.network(subject)


def write_int8(subject, _around: Around) -> bytes:
    from core.runtimes import tflite

    return tflite.integer_network(subject)


def converted(network: bytes, around: Around, numbers: str) -> bytes:
    """A network in safetensors form → a .tflite file. Raises `BadInput` with what the converter said."""
    from core.runtimes import tflite

    pictures = None
    if numbers == INT8:
        with around.turn():
            pictures = _calibration(around)
    return tflite.converted(network, numbers, around.work.model, around.input_size, around.turn, pictures)


def _calibration(around: Around):
    """(CALIBRATION, 3, S, S) float32."""
    from core.datasets import load

    pictures, _labels = next(load(around.work.dataset).batches("calibration", around.input_size, CALIBRATION, CALIBRATION))
    return pictures.contiguous().numpy()


def load(data: bytes):
    opened = litert.interpreter(data)
    return lambda pictures: litert.logits(opened, pictures)


_SAME = {"suffix": ".tflite", "runtime": "LiteRT", "load": load, "version": litert.name, "missing": litert.missing, "script": "run_litert.py"}
register(
    name="tflite", title="TensorFlow Lite, float32", numbers=FLOAT32, held=True, write=write, finish=functools.partial(converted, numbers=FLOAT32),
    about="For LiteRT on phones and boards, one picture at a time.", **_SAME,
)  # fmt: skip
register(
    name="tflite-fp16", title="TensorFlow Lite, float16", numbers=FLOAT16, held=False, write=write, finish=functools.partial(converted, numbers=FLOAT16),
    about="Weights in float16, half the bytes; arithmetic in float16 where the processor has it.", **_SAME,
)  # fmt: skip
register(
    name="tflite-int8", title="TensorFlow Lite, int8", numbers=INT8, held=False, write=write_int8, finish=functools.partial(converted, numbers=INT8),
    about="The recipe’s own 8-bit grids; LiteRT rounds at a few places more, by ranges from calibration pictures, so its accuracy is its own.", **_SAME,
)  # fmt: skip
