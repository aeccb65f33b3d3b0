"""The ranges that LiteRT's quantizer is given: a recipe's own grids where a tensor of the file holds the same values, else what calibration pictures show.

The converter renames, moves and fuses, so tensors are found by their values: what a node of the network and a tensor of the file hold for the same
picture, sorted, is equal. Left to itself, the quantizer averages the ranges of single pictures, which clips, and gives a channel whose weights are
almost 0 a scale at which its bias overflows 32 bits. Called by `core.runtimes.converter` alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import fx

from core.arithmetic.folding import LARGEST_BIAS, SMALLEST_SCALE

LARGEST = 3e38  # beyond it lies what pads a picture before its largest values are taken
NEAR = 1e-4  # of a tensor's spread: how far two ways to compute the same values may be apart
WITH_WEIGHTS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}  # operator → the dimension of its weight's output channels
HIGHEST = 127  # code of an int8 weight, whose grid is centred
LEVELS = 255  # between the least and the largest code of an int8 value


def ranges(model: bytes, network: fx.GraphModule, grids: dict, pictures: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Name of a tensor → `min` and `max`, as ai-edge-quantizer takes them, for a float32 file made of `network`.

    `grids["values"]` has the range [low, high] of a node of the network, `grids["weights"]` the scales (C,) of a layer's weight; pictures (n, 3, S, S),
    as many as whole passes of the file take.
    """
    opened = Interpreter(model_content=model, num_threads=1, experimental_preserve_all_tensors=True)
    opened.allocate_tensors()
    details = {detail["index"]: detail for detail in opened.get_tensor_details()}
    computed = _activations(opened, details, network, grids["values"], pictures)  # index → (low, high)
    found = {index: np.array(ends, np.float32).reshape(2, *[1] * len(details[index]["shape"])) for index, ends in computed.items()}
    for index, along, highest in _weights(opened, computed, network, grids["weights"]):  # highest (C,)
        shape = [-1 if dimension == along else 1 for dimension in range(len(details[index]["shape"]))]
        found[index] = np.stack([-highest.reshape(shape), highest.reshape(shape)])
    return {details[index]["name"]: {"min": low, "max": high} for index, (low, high) in found.items()}


def _activations(opened: Interpreter, details: dict[int, dict], network: fx.GraphModule, grids: dict, pictures: np.ndarray) -> dict[int, tuple]:
    """Index → (low, high) of everything that the file computes in float32."""
    runner = opened.get_signature_runner()
    ((given, detail),) = runner.get_input_details().items()
    batch = int(detail["shape"][0])
    outputs = {index for operator in opened._get_ops_details() for index in operator["outputs"]} | {detail["index"] for detail in opened.get_input_details()}
    tensors = [index for index in sorted(outputs) if index in details and details[index]["dtype"] is np.float32]
    values, found = _values(network, pictures[:batch], grids), dict.fromkeys(tensors, (0.0, 0.0))
    same = {}
    for start in range(0, len(pictures), batch):
        runner(**{given: pictures[start : start + batch]})
        for index in tensors:
            value = opened.get_tensor(index)
            value = value[np.abs(value) < LARGEST]
            found[index] = float(value.min(initial=found[index][0])), float(value.max(initial=found[index][1]))
            if start == 0:
                same[index] = next((node for node, other in values.items() if _alike(np.sort(value), other)), None)
    return {index: tuple(grids.get(same[index], found[index])) for index in tensors}


def _values(network: fx.GraphModule, pictures: np.ndarray, names) -> dict[str, np.ndarray]:
    """Node → what it computes, sorted (n,)."""
    found = {}

    class Values(fx.Interpreter):
        def run_node(self, node):
            value = super().run_node(node)
            if node.name in names:
                found[node.name] = np.sort(value.numpy(), axis=None)
            return value

    with torch.no_grad():
        Values(network).run(torch.from_numpy(pictures))
    return found


def _alike(mine: np.ndarray, other: np.ndarray) -> bool:
    return mine.size > 0 and mine.shape == other.shape and np.abs(mine - other).max() < NEAR * (mine[-1] - mine[0])


def _weights(opened: Interpreter, computed: dict[int, tuple], network: fx.GraphModule, scales: dict[str, list[float]]) -> Iterator[tuple]:
    """(index, dimension of the output channels, the largest value (C,) of its centred grid) of each weight of a convolution or linear layer.

    A channel whose weights are too small for its bias to be an int32 at their scale gets a coarser one, as in `core.arithmetic.folding`.
    """
    layers = {path: _rows(network.get_submodule(path).weight.detach().numpy()) for path in scales}  # (C, n)
    for operator in opened._get_ops_details():
        if operator["op_name"] not in WITH_WEIGHTS:
            continue
        (given, index, *bias), along = operator["inputs"], WITH_WEIGHTS[operator["op_name"]]
        rows = _rows(np.moveaxis(opened.get_tensor(index), along, 0))
        path = next((path for path, other in layers.items() if rows.shape == other.shape and np.array_equal(rows, other)), None)
        scale = np.abs(rows).max(1) / HIGHEST if path is None else np.float32(scales[path])  # (C,)
        if bias and bias[0] >= 0 and given in computed:
            low, high = computed[given]
            scale = np.maximum(scale, np.abs(opened.get_tensor(bias[0])) * LEVELS / max(high - low, SMALLEST_SCALE) / LARGEST_BIAS)
        yield index, along, HIGHEST * scale.astype(np.float32)


def _rows(weight: np.ndarray) -> np.ndarray:
    """weight (C, …) → (C, n), each row sorted, so that the order of rows, columns and inputs does not matter."""
    return np.sort(weight.reshape(len(weight), -1), axis=1)
