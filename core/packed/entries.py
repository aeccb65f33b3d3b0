"""One weight in the packed file: its entry in the header and its streams, and back again.

    dense, masked   raw float32; of a masked one the positions of its non-zeros and their values, if that is smaller
    grid, groups    codes less the zero point, zero points, scales
    signs           codes, scales
    codebook        codes, and the entries where this weight is the first to use them
    floats          the bits of the smaller floats as whole numbers, and the scale of 8-bit ones

All codes are whole numbers with 0 for exact 0, coded by `core.packed.coding`, either each of them or the non-zeros and their positions.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.arithmetic.grids import FLOATS, Codebook, Floats, Grid, Signs, Uniform
from core.errors import BadArtifact
from core.packed.coding import Coded, Positions, Raw, Table, decode, decode_positions, decode_table, plan_sparse
from core.weights import Weight, flat

FIELDS = {"dense": 2, "masked": 1, "grid": 5, "groups": 6, "signs": 4, "codebook": 3, "floats": 3}  # in an entry, before the lengths of its streams
CONTENTS = {  # of an entry's streams, in their order
    "dense": ("values",), "masked": ("positions", "values"), "grid": ("positions", "values", "zero points", "scales"),
    "groups": ("positions", "values", "zero points", "scales"), "signs": ("positions", "values", "scales"), "codebook": ("positions", "values", "codebooks"),
    "floats": ("positions", "values", "scales"),
}  # fmt: skip
STREAMS = {kind: len(contents) for kind, contents in CONTENTS.items()}


def plan(weight: Weight, value: Tensor, books: dict[int, int]) -> tuple[list, list[tuple[str, Any]]]:
    """A weight's entry in the header, still without lengths, and its streams, each with its kind.

    `books` numbers the codebooks met so far by the identity of their entries; one that was met takes no bytes again.
    """
    grid, mask = weight.grid, weight.mask
    if grid is None:
        return _plan_floats(in_order(value), mask is not None)
    codes = code_numbers(grid)
    positions, values = plan_sparse(in_order(codes if mask is None else codes * mask))
    (kind, *facts), tables = plan_tables(grid, books)
    return [kind, mask is not None, *facts], [("positions", positions or Raw(np.zeros(0))), ("values", values), *(("scales", table) for table in tables)]


def plan_tables(grid: Grid, books: dict[int, int]) -> tuple[list, list[Any]]:
    """A grid's kind and fields in the header, and the streams of its zero points, scales or codebook; `books` as in `plan`."""
    if isinstance(grid, Codebook):
        known = id(grid.entries) in books
        number = books.setdefault(id(grid.entries), len(books))
        return ["codebook", number], [Raw(np.zeros(0, "<f4") if known else grid.entries[1:].numpy().astype("<f4"))]
    scales = Table(in_order(grid.scale).astype("<f4"))
    if isinstance(grid, Floats):
        return ["floats", grid.dtype], [scales if grid.dtype == "float8" else Raw(np.zeros(0, "<f4"))]
    spread = [dim for dim, length in enumerate(grid.scale.shape) if length > 1]
    if isinstance(grid, Signs):
        return ["signs", grid.bits, spread], [scales]
    zeros = Coded.of(in_order(grid.zero_point) if grid.zero_point.any() else np.zeros(0, np.int16))
    grouped = [] if grid.group is None else [grid.group]
    return ["groups" if grouped else "grid", grid.bits, grid.symmetric, spread, *grouped], [zeros, scales]


def code_numbers(grid: Grid) -> Tensor:
    """A grid's codes as whole numbers, 0 for exact 0."""
    if isinstance(grid, Floats):
        return grid.codes.view(torch.int8 if grid.dtype == "float8" else torch.int16)
    if isinstance(grid, Uniform) and grid.zero_point.any():
        return grid.codes.int() - grid.spread(grid.zero_point, grid.codes)
    return grid.codes


def _plan_floats(numbers: np.ndarray, masked: bool) -> tuple[list, list[tuple[str, Any]]]:
    """As `plan`, for raw float32. A masked weight that has hardly a 0 is smaller dense."""
    numbers = numbers.astype("<f4", copy=False)
    if masked:
        places = np.flatnonzero(numbers != 0)
        positions, values = Positions.of(places, numbers.size), Raw(numbers[places])
        if positions.size + values.size < numbers.nbytes:
            return ["masked"], [("positions", positions), ("values", values)]
    return ["dense", masked], [("values", Raw(numbers))]


def check_entry(entry: Any, numbers: int) -> None:
    """A kind, its fields (`["dense", masked]`, `["grid", masked, bits, symmetric, spread, group]`, …), and the lengths of its streams."""
    kind = entry[0] if isinstance(entry, list) and entry and isinstance(entry[0], str) else None
    expect(kind in STREAMS, "a weight has an unknown form")
    count = STREAMS[kind]
    expect(len(entry) == count + FIELDS[kind] and all(map(whole, entry[-count:])), "a weight's entry is malformed")
    if kind == "dense":
        expect(isinstance(entry[1], bool), "a weight's entry is malformed")
        expect(entry[2] == 4 * numbers, "a dense weight has the wrong length")
    if kind not in ("dense", "masked"):
        expect(isinstance(entry[1], bool), "a weight's entry is malformed")
    if kind in ("grid", "groups"):
        _kind, _masked, bits, symmetric, spread = entry[:5]
        expect(isinstance(symmetric, bool) and (kind == "grid" or whole(entry[5]) and entry[5] > 0), "a weight's entry is malformed")
        expect(whole(bits) and 2 <= bits <= 16 and isinstance(spread, list) and all(map(whole, spread)), "a grid is out of range")
    if kind == "signs":
        expect(whole(entry[2]) and entry[2] in (1, 2) and isinstance(entry[3], list) and all(map(whole, entry[3])), "a grid is out of range")
    if kind == "codebook":
        expect(whole(entry[2]), "a codebook is out of range")
    if kind == "floats":
        expect(isinstance(entry[2], str) and entry[2] in FLOATS, "a float has an unknown form")


class Cursor:
    """Takes the streams off the body, one after the other."""

    def __init__(self, body: bytes):
        self.body, self.at = body, 0

    def take(self, length: int) -> bytes:
        expect(length <= len(self.body) - self.at, "a stream is cut off")
        self.at += length
        return self.body[self.at - length : self.at]

    def floats(self, count: int, length: int | None = None) -> np.ndarray:
        """So many float32 numbers (n,): raw, or what a `Table` made of them in `length` bytes."""
        return decode_table(self.take(4 * count if length is None else length), count)


def read_weight(entry: list, shape: tuple[int, ...], cursor: Cursor, books: list[Tensor]) -> Weight:
    """The weight of one entry; on a grid, its latent is left empty. `books` are the codebooks read so far."""
    count = math.prod(shape)
    if entry[0] == "dense":
        latent = shaped(cursor.floats(count), shape)
        return Weight(latent, latent != 0 if entry[1] else None)
    if entry[0] != "masked":
        return _read_grid(entry, shape, cursor, books)
    places = decode_positions(cursor.take(entry[1]), count)
    expect(entry[2] == 4 * places.size, "a weight has not as many values as positions")
    latent, mask = np.zeros(count, np.float32), np.zeros(count, bool)
    latent[places], mask[places] = cursor.floats(places.size), True
    return Weight(shaped(latent, shape), shaped(mask, shape))


def _read_grid(entry: list, shape: tuple[int, ...], cursor: Cursor, books: list[Tensor]) -> Weight:
    kind, masked = entry[:2]
    positions, values, *tables = (cursor.take(length) for length in entry[-STREAMS[kind] :])
    row = _read_numbers(positions, values, math.prod(shape))
    numbers = shaped(row, shape)
    read = {"grid": _read_uniform, "groups": _read_uniform, "signs": _read_signs, "codebook": _read_codebook, "floats": _read_floats}[kind]
    return Weight(torch.empty(0), shaped(row != 0, shape) if masked else None, read(entry, numbers, tables, books))


def _read_numbers(positions: bytes, values: bytes, count: int) -> np.ndarray:
    if not positions:
        return decode(values, count)
    places = decode_positions(positions, count)
    nonzero = decode(values, places.size)
    numbers = np.zeros(count, nonzero.dtype)
    numbers[places] = nonzero
    return numbers


def _table(data: bytes, shape: tuple[int, ...]) -> Tensor:
    expect(0 < len(data) <= 4 * math.prod(shape), "a grid has not the right number of scales")
    numbers = decode_table(data, math.prod(shape))
    expect(np.isfinite(numbers).all(), "a scale is no number")
    return shaped(numbers, shape)


def _read_uniform(entry: list, numbers: Tensor, tables: list[bytes], _books: list[Tensor]) -> Uniform:
    kind, _masked, bits, symmetric, spread = entry[:5]
    group = entry[5] if kind == "groups" else None
    zeros, scales = tables
    shape = tuple(length if dim in spread else 1 for dim, length in enumerate(numbers.shape))
    if group is not None:
        shape = (numbers.shape[0], -(-numbers[0].numel() // group))
    expect(not (symmetric and zeros), "a symmetric grid has zero points")
    scale = _table(scales, shape)
    grid = Uniform(numbers, scale, torch.zeros(shape, dtype=torch.int16), bits, symmetric, group)
    if zeros:
        grid = replace(grid, zero_point=_within(shaped(decode(zeros, scale.numel()), shape), grid.low, grid.high))
    codes = numbers.int() + grid.spread(grid.zero_point, numbers) if zeros else numbers
    return Uniform(_within(codes, grid.low, grid.high), scale, grid.zero_point, bits, symmetric, group)


def _read_signs(entry: list, numbers: Tensor, tables: list[bytes], _books: list[Tensor]) -> Signs:
    shape = tuple(length if dim in entry[3] else 1 for dim, length in enumerate(numbers.shape))
    scale = _table(tables[0], shape)
    return Signs(_within(numbers, -1, 1), scale, torch.zeros_like(scale), entry[2])


def _read_codebook(entry: list, numbers: Tensor, tables: list[bytes], books: list[Tensor]) -> Codebook:
    if entry[2] == len(books):
        expect(len(tables[0]) % 4 == 0, "a codebook ends within an entry")
        entries = _table(tables[0], (len(tables[0]) // 4,)) if tables[0] else torch.zeros(0)  # none where every weight is 0
        books.append(torch.cat([torch.zeros(1), entries]))
    else:
        expect(entry[2] < len(books), "a weight has a codebook that comes later")
        expect(not tables[0], "a codebook is there twice")
    return Codebook(_within(numbers, 0, len(books[entry[2]]) - 1), books[entry[2]])


def _read_floats(entry: list, numbers: Tensor, tables: list[bytes], _books: list[Tensor]) -> Floats:
    scale = _table(tables[0], (1,)) if entry[2] == "float8" else torch.ones(1)
    bits = 7 if entry[2] == "float8" else 15
    codes = _within(numbers, -(2**bits), 2**bits - 1)
    codes = (codes.to(torch.int8) if entry[2] == "float8" else codes).contiguous().view(FLOATS[entry[2]])
    expect(bool(torch.isfinite(codes.float()).all()), "a float is no number")
    return Floats(codes, scale, entry[2])


def _within(numbers: Tensor, low: int, high: int) -> Tensor:
    """`numbers` as int16, if all of them lie within the range."""
    row = flat(numbers).numpy()  # which numpy looks at in the order of memory
    expect(not row.size or low <= int(row.min()) and int(row.max()) <= high, "a code lies outside its grid")
    return numbers.to(torch.int16)


def in_order(tensor: Tensor) -> np.ndarray:
    """(n,) in the order batch, height, width, channels: that of channels_last, so that kernels need no copy."""
    tensor = tensor.detach()
    return (tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor).reshape(-1).numpy()


def shaped(numbers: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `in_order`."""
    tensor = torch.from_numpy(numbers)
    if len(shape) != 4:
        return tensor.view(shape)
    count, channels, height, width = shape
    return tensor.view(count, height, width, channels).permute(0, 3, 1, 2)


def whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def expect(condition: object, fault: str) -> None:
    if not condition:
        raise BadArtifact(f"The file is damaged: {fault}.")
