"""The bytes of a compressed model: on paper, as the packed file, and dense, which every ratio is against.

    paper_bytes     what the encodings need in theory, with no entropy coding of values ("On paper")
    artifact_bytes  the length of the real packed file ("Download")
    dense_bytes     4 bytes for every stored number

`core.artifact.write` gives the packed file's bytes by kind as `Packed.parts`.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from core import artifact
from core.recipe import Recipe
from core.weights import Compressed, Weight, nonzeros, weights_of


def paper_bytes(subject: Compressed) -> int:
    """The sum over all tensors, rounded up, in the manner of Deep Compression (Han 2015, arXiv:1510.00149).

    For a weight of n numbers, k of them not zero, H(p) = −p·log2(p) − (1−p)·log2(1−p):

        dense       4·n
        masked      4·k       + n·H(k/n)/8
        grid        n·bits/8               + 4 a scale, bits/8 a zero point where any is not 0
        both        k·bits/8  + n·H(k/n)/8 + 4 a scale, bits/8 a zero point where any is not 0

    Batch norm, biases and other stored floats: 4 bytes each.
    """
    names = [name for name, _parameter in weights_of(subject.module)]
    values = {name: subject.module.get_parameter(name) for name in names}
    others = dense_bytes(subject) - sum(4 * value.numel() for value in values.values())
    return math.ceil(others + sum(_weight_bytes(subject.weights[name], values[name]) for name in names))


def _weight_bytes(weight: Weight, value: torch.Tensor) -> float:
    count = stored = value.numel()
    positions = 0.0
    if weight.mask is not None:
        stored = nonzeros(value)
        positions = count * _entropy(stored / count) / 8
    if weight.grid is None:
        return 4 * stored + positions
    scales = weight.grid.scale.numel()
    zero_points = scales * weight.grid.bits / 8 if weight.grid.zero_point.any() else 0
    return stored * weight.grid.bits / 8 + positions + 4 * scales + zero_points


def _entropy(p: float) -> float:
    """Bits of one yes-or-no of probability `p`."""
    return -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)


def artifact_bytes(subject: Compressed, recipe: Recipe | None = None) -> int:
    """The length of the packed file; whoever needs the file too calls `artifact.write` once and takes its `size`."""
    return artifact.write(subject, recipe=recipe).size


def dense_bytes(subject: Compressed | nn.Module) -> int:
    """4 bytes × the floating-point numbers that the model stores: parameters and batch-norm statistics; counters are left out."""
    module = subject.module if isinstance(subject, Compressed) else subject
    return 4 * sum(tensor.numel() for tensor in module.state_dict().values() if tensor.is_floating_point())
