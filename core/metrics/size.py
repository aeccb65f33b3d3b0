"""The bytes of a compressed model: on paper, as the packed file, and dense, which every ratio is against.

    paper_bytes     what the encodings need in theory, as papers count it ("On paper")
    artifact_bytes  the length of the real packed file ("Download")
    dense_bytes     4 bytes for every stored number

`core.artifact.write` gives the packed file's bytes by kind as `Packed.parts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from core import artifact
from core.arithmetic.grids import Codebook
from core.packed import huffman
from core.packed.histograms import histogram
from core.recipe import Recipe
from core.weights import Compressed, Weight, flat, nonzeros


def paper_bytes(subject: Compressed, nonzero: Mapping[str, int] | None = None) -> int:
    """The sum over all tensors, rounded up, in the manner of Deep Compression (Han 2015, arXiv:1510.00149).

    For a weight of n numbers, k of them not zero, H(p) = −p·log2(p) − (1−p)·log2(1−p):

        dense       4·n
        masked      4·k       + n·H(k/n)/8
        grid        n·bits/8               + 4 a scale, bits/8 a zero point where any is not 0; 4 an entry of a codebook
        both        k·bits/8  + n·H(k/n)/8 + the same

    The codes of a codebook are Huffman's, whose lengths take a byte an entry, or have log2(K) bits, rounded up, where that is less; a codebook
    that layers share counts once. Batch norm, biases and
    other stored floats: 4 bytes each. `nonzero` has numbers of non-zeros by name, where somebody has counted them already.
    """
    others = dense_bytes(subject) - sum(4 * value.numel() for _name, value in subject.stored())
    parts = _parts(subject, nonzero)
    return math.ceil(others + sum(table for table, _values, _places in parts.values()) + sum(values + places for _table, values, places in parts.values()))


def by_weight(subject: Compressed) -> dict[str, float]:
    """The part of `paper_bytes` that each weight with a state takes, by name; a shared codebook is counted with the first."""
    return {name: table + (values + places) for name, (table, values, places) in _parts(subject).items()}


def by_kind(subject: Compressed) -> dict[str, dict[str, float]]:
    """The same split into "values", "positions", and "codebooks" or "scales", zero points among them."""
    found = {}
    for name, (table, values, places) in _parts(subject).items():
        kind = "codebooks" if isinstance(subject.weights[name].grid, Codebook) else "scales"
        found[name] = {"values": values, "positions": places, kind: table}
    return found


def _parts(subject: Compressed, nonzero: Mapping[str, int] | None = None) -> dict[str, tuple[float, float, float]]:
    """Name → bytes of a weight's scales or codebook, of its numbers, and of their positions."""
    found, seen = {}, set()
    for name, value in subject.stored():
        grid = subject.weights[name].grid
        table = id(grid.entries) if isinstance(grid, Codebook) else id(grid)  # a codebook that several weights share counts once
        found[name] = (0.0 if grid is None or table in seen else grid.table_bytes, *_weight_bytes(subject.weights[name], value, (nonzero or {}).get(name)))
        seen.add(table)
    return found


def _weight_bytes(weight: Weight, value: torch.Tensor, nonzero: int | None) -> tuple[float, float]:
    """Codes or floats, and positions; without scales and codebooks."""
    count = stored = value.numel()
    positions = 0.0
    if weight.mask is not None:
        stored = nonzeros(value) if nonzero is None else nonzero
        positions = count * _entropy(stored / count) / 8
    if isinstance(weight.grid, Codebook):
        return _codes_bytes(weight, stored), positions
    return stored * (32 if weight.grid is None else weight.grid.bits) / 8, positions


def _codes_bytes(weight: Weight, stored: int) -> float:
    """The codes of shared weights by Huffman's code, or all of one length; those of 0 are told by the positions where there is a mask."""
    codes, entries = weight.grid.codes, len(weight.grid.entries)
    counts = histogram(flat(codes if weight.mask is None else codes * weight.mask).numpy(), 0, entries - 1)
    if weight.mask is not None:
        counts[0] = 0
    return min(stored * weight.grid.bits, huffman.coded_bits(counts) + 8 * (entries - 1)) / 8


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
