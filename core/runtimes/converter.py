"""Converts a network to TensorFlow Lite in a process of its own: python -m core.runtimes.converter FOLDER float32|float16|int8 INPUT_SIZE BATCH PARENT

Reads network.safetensors (and calibration.npy) in the folder and writes model.tflite, in int8 on the grids that the network's file carries. The last line
on standard error says why it did not. Started by `core.exports.tflite` alone, whose process number is PARENT. Imports next to nothing before it is bound
to that process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def main(folder: Path, numbers: str, input_size: int, batch: int, parent: int) -> None:
    _bound_to(parent)
    import numpy as np
    import torch

    from core.exports import graphs
    from core.exports.formats import FLOAT32, INT8

    torch.set_num_threads(1)
    data = (folder / "network.safetensors").read_bytes()
    network = _as_convolutions(graphs.read(data), input_size)
    import litert_torch  # takes ten seconds

    made = litert_torch.convert(network, (torch.zeros(batch, 3, input_size, input_size),)).model_content()
    if numbers != FLOAT32:
        from core.runtimes.litert_ranges import ranges

        found = ranges(made, network, graphs.grids(data), np.load(folder / "calibration.npy")) if numbers == INT8 else None
        made = _narrowed(made, found)
    (folder / "model.tflite").write_bytes(made)


def _as_convolutions(network, input_size: int):
    """Linear layers of a single place (B, 1, 1, C) as convolutions of one pixel: the converter loses a dimension of them otherwise."""
    from torch import nn, permute

    from core.exports.windows import shapes_of

    shapes, graph = shapes_of(network, input_size), network.graph
    for node in list(graph.nodes):
        layer = network.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(layer, nn.Linear) or shapes[node.name][1:-1] != [1, 1]:
            continue
        pixel = nn.Conv2d(layer.in_features, layer.out_features, 1, bias=False)
        pixel.weight, pixel.bias = nn.Parameter(layer.weight[:, :, None, None]), layer.bias
        network.set_submodule(node.target, pixel)
        with graph.inserting_before(node):
            node.args = (graph.call_function(permute, (node.args[0], (0, 3, 1, 2))),)
        with graph.inserting_after(node):
            back = graph.call_function(permute, (node, (0, 2, 3, 1)))
        node.replace_all_uses_with(back, delete_user_cb=lambda user, back=back: user is not back)
    network.recompile()
    return network


def _narrowed(model: bytes, ranges: dict | None) -> bytes:
    """float32 → float16 weights, or, with the ranges of tensors, int8 between float32 pictures and logits."""
    from ai_edge_quantizer import quantizer, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import QuantGranularity, TFLOperationName

    narrowing = quantizer.Quantizer(model)
    if ranges is None:
        narrowing.add_weight_only_config(".*", TFLOperationName.ALL_SUPPORTED, 16, QuantGranularity.TENSORWISE, AlgorithmName.FLOAT_CASTING)
        return bytes(narrowing.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)
    narrowing.load_quantization_recipe(recipe.static_wi8_ai8())
    for end in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
        narrowing.update_quantization_recipe(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return bytes(narrowing.quantize(ranges, enable_progress_bar=False, enable_progress_report=False).quantized_model)


def _bound_to(parent: int) -> None:
    """Compute on one core only, and end with the process that started this one, even if that left this one suspended."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})  # two of these seldom on one
    with contextlib.suppress(OSError, AttributeError):  # Linux alone
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before this could be asked for
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6]))
