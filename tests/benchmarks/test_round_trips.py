"""Every format of four models and six presets: written, read back in its runtime, run over the validation split, and held against the engine's labels.

Prints a row a file and, in the end, the whole table. What trains is trained once and kept for the other formats. The whole takes an hour or two, most of
it in the converter to TensorFlow Lite; `-k` takes a part by the names of model, preset and format: `-k "resnet18 and int8 and not tflite"`.
"""

from __future__ import annotations

import functools

import onnx
import pytest

from core import engine
from core.exports import FORMATS, Export, make
from core.exports.export import refusal, too_many
from core.jobs.turns import Turns
from core.studies import gallery
from core.work import Work

PRESETS = ("four_bits", "cliff", "int8", "fast", "fiftieth", "small")
CASES = [
    (model, preset, name)
    for model in gallery.MODELS for preset in PRESETS for name, format in FORMATS.items() if not refusal(format, gallery.preset(preset))
]  # fmt: skip
MOST_POINTS = 0.5  # that LiteRT's own arithmetic may cost an int8 file
IMAGES = 5_000
HEAD = f"{'model':20} {'preset':10} {'format':12} {'bytes':>12}  top-1 %  engine %  agreement %  written in s"


def work(model: str, preset: str) -> Work:
    return Work(model, gallery.DATASET, gallery.preset(preset), latency=False)


@functools.cache
def labels(model: str, preset: str) -> bytes:
    return engine.run(work(model, preset)).predicted


@pytest.fixture(scope="module")
def table():
    rows = [HEAD]
    yield rows
    print("", f"validation, n = {IMAGES:,}, measured", *rows, sep="\n")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("model", "preset", "name"), CASES)
def test_round_trips(model, preset, name, table):
    """A file that is held against the engine and gives other labels on more than 0.1 % of the pictures is refused by `make` itself."""
    format = FORMATS.get(name)
    if format.missing():
        pytest.skip("LiteRT is not here")
    made = make(Export(work(model, preset), name), turn=Turns().compute, predicted=labels(model, preset))
    record = made.record
    table.append(
        f"{model:20} {preset:10} {name:12} {record.bytes:>12,}  {record.top1:7.2f}  {record.run_top1:8.2f}  {100 * record.agreement:11.2f}  "
        f"{record.seconds['write']:12.1f}"
    )
    print(f"\n{table[-1]}", flush=True)
    assert record.images == IMAGES
    assert not format.held or not too_many(IMAGES - round(IMAGES * record.agreement), IMAGES)
    if name.startswith("onnx"):
        onnx.checker.check_model(onnx.load_from_string(made.data), full_check=True)
    if name == "tflite-int8":
        assert abs(record.top1 - record.run_top1) <= MOST_POINTS
