"""ONNX files and ONNX Runtime: export as float32, export as int8 on the recipe's own grids, and run what was exported.

Initialisers carry the module's own parameter names ("layer1.0.conv1.weight"), since batch norm is folded before the
export. An int8 file holds QuantizeLinear / DequantizeLinear pairs at the sites of `core.arithmetic.activations`, weights as int8 and
biases as int32; ONNX Runtime turns those into integer kernels. Exporting never changes a model.
"""

from __future__ import annotations

import contextlib
import copy
import io
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from core.arithmetic.activations import along_moves, fake_quantized, input_scales, simulated
from core.arithmetic.folding import Integers, fold, install, integers, layer_of, trace
from core.arithmetic.grids import Uniform
from core.errors import BadInput
from core.metrics.operators import plain_attention
from core.weights import weights_of

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from core.weights import Compressed

OPSET = 17
PICTURES, LOGITS, BATCH = "pictures", "logits", "batch"
_NAMES = {"grid": "a scale a group", "signs": "signs with a scale", "codebook": "a codebook", "floats": "a smaller float"}


@contextlib.contextmanager
def refused(what: str, instead: str = "") -> Iterator[None]:
    """What torch's exporter and ONNX Runtime raise of an operator that they lack or that fails, as one `BadInput`: `what` cannot be, that, and `instead`."""
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, NotImplemented, RuntimeException

    try:
        yield
    except (torch.onnx.errors.OnnxExporterError, NotImplementedError, Fail, InvalidArgument, InvalidGraph, NotImplemented, RuntimeException) as error:
        said = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip().partition("\n")[0])
        said = said.partition(" Name:")[0]  # behind the operator, its node's name and a place in ONNX Runtime's own code
        raise BadInput(f"{what}: {' '.join(said.split())[:200].rstrip('. ') or type(error).__name__}{instead}.") from None


def export_float32(module: nn.Module, input_size: int) -> bytes:
    """The .onnx file of a module for pictures (batch, 3, S, S), batch norm folded, any batch size."""
    return _export(fold(module), input_size)


def with_weights(model: bytes, module: nn.Module) -> bytes:
    """A float32 file of the same graph with the weights of `module`, without a new export."""
    import onnx
    from onnx import numpy_helper

    proto = onnx.load_from_string(model)
    tensors = dict(fold(module).named_parameters())
    for initializer in proto.graph.initializer:
        tensor = tensors.get(initializer.name)
        if tensor is not None:
            initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(tensor.detach().numpy()), initializer.name))
    return proto.SerializeToString()


def int8_possible(subject: Compressed) -> str | None:
    """None when `export_int8` works, else the sentence that says why not."""
    matrices = {name for name, _parameter in weights_of(subject.module)}
    grids = {name: weight.grid for name, weight in subject.weights.items() if weight.grid is not None and name in matrices}
    if not grids or not subject.activations:
        return "int8 files come from recipes that quantize weights and activations to 8 bits; this recipe leaves " + (
            "the weights as floating-point numbers." if not grids else "the activations as floating-point numbers."
        )
    for name, grid in grids.items():
        if not isinstance(grid, Uniform) or grid.group is not None:
            return f"int8 files need one uniform scale a channel or tensor; {name} has {_NAMES[grid.kind]}, for which no common CPU kernel exists."
        if grid.bits != 8:
            return f"int8 files need 8-bit weights; {name} has {grid.bits} bits, for which no common CPU kernel exists, so its accuracy is simulated."
        if bool(grid.zero_point.any()):
            return f"int8 files need symmetric weight grids; the grid of {name} is not centred on zero."
    if any(grid.dynamic for grid in subject.activations.values()):
        return "int8 files need static activation scales; this recipe's are dynamic, so its accuracy is simulated."
    bits = {grid.bits for grid in subject.activations.values()}
    if bits != {8}:
        return f"int8 files need 8-bit activations; this recipe has {min(bits)} bits, for which no common CPU kernel exists, so its accuracy is simulated."
    return None


def on_integers(subject: Compressed) -> tuple[nn.Module, dict]:
    """The folded network that holds the values of its integers, and these by their layers' paths. Raises `BadInput` with the sentence of `int8_possible`."""
    refusal = int8_possible(subject)
    if refusal:
        raise BadInput(refusal)
    folded = fold(subject.module)
    layers = integers(subject, folded, input_scales(subject.module, subject.activations))
    install(folded, layers)
    return folded, layers


def export_int8(subject: Compressed) -> bytes:
    """The .onnx file of a subject with 8-bit grids: its codes as int8 initialisers, its biases as int32, its sites rounded.

    Layers without a weight grid stay float32. Raises `BadInput` with the sentence of `int8_possible`.
    """
    import onnx

    folded, layers = on_integers(subject)
    grids = along_moves(folded, subject.activations)  # a Gemm runs on integers only if its own input is on a grid
    proto = onnx.load_from_string(_export(simulated(folded, grids, fake_quantized), subject.architecture.input_size))
    for path, layer in layers.items():
        _store_integers(proto.graph, path, layer)
    return proto.SerializeToString()


def _export(module: nn.Module, input_size: int) -> bytes:
    """TorchScript export that leaves every weight its own name. Raises what torch raises for unknown operators.

    Constant folding would rename weights, and initialisers of equal values would become one, did they not count as inputs.
    """
    import onnx

    pictures = torch.zeros(1, 3, input_size, input_size)
    module = _fixed_shapes(module, input_size)
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), plain_attention():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (pictures,), file, dynamo=False, opset_version=OPSET, do_constant_folding=False, keep_initializers_as_inputs=True,
            input_names=[PICTURES], output_names=[LOGITS], dynamic_axes={PICTURES: {0: BATCH}, LOGITS: {0: BATCH}},
        )  # fmt: skip
    proto = onnx.load_from_string(file.getvalue())
    del proto.graph.input[1:]
    return proto.SerializeToString()


def _fixed_shapes(module: nn.Module, input_size: int) -> fx.GraphModule:
    """The module with every view, reshape, chunk and adaptive pool given in numbers, -1 for the batch.

    So no shape is computed while the file runs, and pools whose sizes do not divide have a form in ONNX.
    """
    graph = copy.deepcopy(trace(module))
    pools = [node for node in graph.nodes if isinstance(layer_of(node, module), nn.AdaptiveAvgPool2d)]
    nodes = [node for node in graph.nodes if node.target in ("view", "reshape", "chunk", torch.chunk)] + [pool.args[0] for pool in pools]
    if not nodes:
        return fx.GraphModule(module, graph)
    small, large = (_shapes(fx.GraphModule(module, graph), nodes, batch, input_size) for batch in (2, 3))
    for node in nodes[: len(nodes) - len(pools)]:
        if node.target in ("view", "reshape"):
            shape = [one if one == other else -1 for one, other in zip(small[node], large[node])]
            if shape.count(-1) <= 1:
                node.args = (node.args[0], *shape)
        else:
            dim = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)
            if dim != 0:
                node.op, node.target, node.kwargs = "call_function", torch.split, {}
                node.args = (node.args[0], [shape[dim] for shape in small[node]], dim)
    for pool in pools:
        sizes = F.adaptive_avg_pool2d(torch.zeros(1, 1, *small[pool.args[0]][2:]), layer_of(pool, module).output_size).shape[2:]
        if any(given % wanted for given, wanted in zip(small[pool.args[0]][2:], sizes)):
            pool.op, pool.target = "call_function", _pooled
            pool.args, pool.kwargs = (pool.args[0], small[pool.args[0]][2:], list(sizes)), {}
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph)


def _pooled(x: torch.Tensor, given: list[int], wanted: list[int]) -> torch.Tensor:
    """Adaptive average pooling of x (B, C, *given) to (B, C, *wanted) by two products: of the rows, and of the columns."""
    rows, columns = (F.adaptive_avg_pool1d(torch.eye(n), m).T for n, m in zip(given, wanted))  # (wanted, given)
    return rows @ x @ columns.T


def _shapes(module: fx.GraphModule, nodes: list[fx.Node], batch: int, input_size: int) -> dict[fx.Node, list]:
    """The output shape of each of these nodes, or the shapes of its several outputs, for so many pictures."""
    names, found = {node.name: node for node in nodes}, {}

    class Shapes(fx.Interpreter):
        def run_node(self, node):
            value = super().run_node(node)
            if node.name in names:
                found[names[node.name]] = list(value.shape) if isinstance(value, torch.Tensor) else [list(part.shape) for part in value]
            return value

    with torch.no_grad():
        Shapes(module).run(torch.zeros(batch, 3, input_size, input_size))
    return found


def _store_integers(graph: onnx.GraphProto, path: str, layer: Integers) -> None:
    """Replace a layer's float32 initialisers by integers, each followed by a DequantizeLinear that bears the old name."""
    codes = layer.codes.to(torch.int8).numpy()
    _store(graph, f"{path}.weight", codes, layer.scale.numpy())
    if layer.bias_codes is not None:
        _store(graph, f"{path}.bias", layer.bias_codes.numpy(), layer.bias_scale.numpy())


def _store(graph: onnx.GraphProto, name: str, codes: np.ndarray, scale: np.ndarray) -> None:
    """codes (C, …) and scale (C,) → initialisers and a DequantizeLinear along axis 0 whose output is `name`."""
    from onnx import helper, numpy_helper

    initializer = next(one for one in graph.initializer if one.name == name)
    initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(codes), f"{name}.codes"))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
    graph.initializer.append(numpy_helper.from_array(np.zeros(len(scale), codes.dtype), f"{name}.zero_point"))
    inputs = [f"{name}.{kind}" for kind in ("codes", "scale", "zero_point")]
    graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [name], f"{name}.dequantize", axis=0))


def session(model: bytes, threads: int = 1, batch: int | None = None, spinning: bool = False, profile: str | None = None) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU, one operator at a time, fully optimised.

    With `batch`, shapes are fixed to it, as fast as a file exported for it. `spinning` lets waiting threads burn their
    core, which only a latency measurement should. `profile` turns the profiler on, and is how its file's name begins.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between two runs nobody spins: the other side of a measurement has its turn
    options.add_session_config_entry("session.x64quantprecision", "1")  # where 16-bit sums would overflow (no VNNI), take exact ones
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    if batch is not None:
        options.add_free_dimension_override_by_name(BATCH, batch)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def logits(session: onnxruntime.InferenceSession, pictures) -> np.ndarray:
    """pictures (B, 3, S, S) float32, torch or numpy → logits (B, K) float32."""
    return session.run(None, {PICTURES: np.ascontiguousarray(np.asarray(pictures), np.float32)})[0]


def predict(session: onnxruntime.InferenceSession, batches: Iterable) -> np.ndarray:
    """The most probable label (n,) uint16 of every picture in the batches."""
    return np.concatenate([logits(session, batch).argmax(1).astype(np.uint16) for batch in batches])
