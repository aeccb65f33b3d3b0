"""Files to take away: every format, how one is made and checked, and what goes with it. Importing this package imports no torch.

    asked = Export(Work("resnet18", "fashion_mnist", recipe), "onnx-int8")
    made = make(asked)                   # compressed, written, read back in its runtime, run over the validation split
    made.record.top1, made.record.agreement, made.files("small.onnx")

What is asked for again is answered by what is kept: `asked.found()`.
"""

from core.exports import packed, safetensors, onnx, tflite  # noqa: F401, I001  (each registers its formats, in the order in which they are listed)
from core.exports.export import Export, Made, Record, make
from core.exports.formats import FORMATS, Format

__all__ = ["FORMATS", "Export", "Format", "Made", "Record", "make"]
