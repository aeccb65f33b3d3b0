"""ONNX files: float32, float16, and int8 on the recipe's own grids. `core.runtimes.onnx` builds and runs them."""

from __future__ import annotations

import functools
from importlib.metadata import version

from core.exports.formats import FLOAT16, FLOAT32, INT8, Around, register

SCRIPT = "run_onnx.py"
INSTEAD = "; take safetensors instead"


def write_float32(subject, _around: Around) -> bytes:
    """What accuracy is measured with: rounded activations stay rounded, in float32."""
    from core.exports import graphs
    from core.runtimes import onnx as runtime

    module = graphs.plain(subject) if subject.activations else subject.module
    return _written(lambda: runtime.export_float32(module, subject.architecture.input_size), subject)


def write_float16(subject, around: Around) -> bytes:
    """Weights and arithmetic in float16, pictures and logits in float32; Micikevicius et al. 2018, arXiv:1710.03740, on half precision."""
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel
    from torch.nn import MultiheadAttention

    wide = [*DEFAULT_OP_BLOCK_LIST]
    if any(isinstance(layer, MultiheadAttention) for layer in subject.module.modules()):
        wide.append("Transpose")  # in float16 before a product they end the process of ONNX Runtime 1.31; wide, they move the same values
    narrowed = OnnxModel(convert_float_to_float16(onnx.load_from_string(write_float32(subject, around)), keep_io_types=True, op_block_list=wide))
    narrowed.topological_sort()  # the converter puts the casts at both ends last
    return narrowed.model.SerializeToString()


def write_int8(subject, _around: Around) -> bytes:
    from core.runtimes import onnx as runtime

    return _written(lambda: runtime.export_int8(subject), subject)


def _written(export, subject) -> bytes:
    """What `export` gives; one sentence for an operator that ONNX lacks."""
    from core.runtimes import onnx as runtime

    with runtime.refused(f"{subject.architecture.model} cannot be written as ONNX", INSTEAD):
        return export()


def load(data: bytes):
    from core.runtimes import onnx as runtime

    refusing = functools.partial(runtime.refused, "ONNX Runtime cannot run this file", INSTEAD)
    with refusing():
        session = runtime.session(data)

    def answer(pictures):
        with refusing():  # some graphs load, and fail only here
            return runtime.logits(session, pictures)

    return answer


def _version() -> str:
    return f"onnxruntime {version('onnxruntime')}"


register(
    name="onnx", title="ONNX, float32", suffix=".onnx", numbers=FLOAT32, runtime="ONNX Runtime", held=True, write=write_float32, load=load, script=SCRIPT,
    version=_version, about="For ONNX Runtime on any processor, batch norm folded, any number of pictures at once.",
)  # fmt: skip
register(
    name="onnx-fp16", title="ONNX, float16", suffix=".onnx", numbers=FLOAT16, runtime="ONNX Runtime", held=False, write=write_float16, load=load, script=SCRIPT,
    version=_version, about="Half the bytes; weights and arithmetic in float16, which changes answers a little. Fast where the processor has float16.",
)  # fmt: skip
register(
    name="onnx-int8", title="ONNX, int8", suffix=".onnx", numbers=INT8, runtime="ONNX Runtime", held=True, write=write_int8, load=load, script=SCRIPT,
    version=_version, about="The recipe’s own 8-bit grids as integers, which ONNX Runtime computes with.",
)  # fmt: skip
