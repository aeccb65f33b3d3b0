"""One layer's way from float32 to the bytes of the packed file: what it takes as stored after each measure, the last being the file itself.

Called by `core.packed.size_parts`. Every figure is a length in bytes of something that can be stored and read back, not an estimate.
"""

from __future__ import annotations

import numpy as np

from core.arithmetic.grids import Codebook, Floats
from core.artifact import Stream
from core.packed.entries import code_numbers, in_order
from core.weights import Compressed, Weight, nonzeros, weights_of

SHOWN = 8  # numbers, and bytes, of a sample
TABLES = ("zero points", "scales", "codebooks")
FILE = "file"


def stages(base: Compressed, after: Compressed, data: bytes, streams: list[Stream], names: list[str]) -> list[dict]:
    """The stages of a layer whose weights have these `names` in the compressed model `after`, which `data` holds.

        float32     4 bytes a number of the uncompressed model
        shape       4 bytes a number that is left, where the recipe changed the shape
        pruned      4 bytes a number that is not zero, and one bit a number that says where those are
        positions   the same, the places told by the gaps between them, entropy coded: the file's own stream
        grid        codes of so many bits, with their scales or codebook, and the positions
        file        the codes entropy coded: all of the layer's streams as they stand in the file

    Each has `stage`, `title`, `bytes`, `said` (a sentence) and `sample` (some of its numbers or bytes in words). What the recipe does not do is left out.
    """
    weights = [_Stored(after.weights[name], after.module.get_parameter(name).numel(), _lengths(streams, name)) for name in names]
    count, kept = sum(weight.count for weight in weights), sum(weight.nonzero for weight in weights)
    before = _before(base, names)
    raw = count if before is None else sum(value.size for value in before)
    first = weights[0]
    start = first.start
    same = before is not None and len(before) == len(weights) and before[0].size == first.numbers.size
    shown = first.numbers if before is None else before[0]
    at = start if same or before is None else 0
    found = [_stage("float32", "As trained", 4 * raw, f"{raw:,} numbers of 4 bytes.", _numbers(shown[at:]))]
    if raw != count:
        found.append(_stage("shape", "Fewer numbers", 4 * count, f"The recipe changed the shape: {count:,} numbers are left.", _numbers(first.numbers[start:])))
    if any(weight.is_masked for weight in weights):
        said = f"{kept:,} of {count:,} numbers are not zero ({100 * kept / max(1, count):.1f} %); one bit a number says which."
        found.append(_stage("pruned", "Zeros left out", sum(weight.masked_bytes for weight in weights), said, _numbers(first.numbers[start:])))
    if any(weight.positions for weight in weights):
        places = sum(weight.positions for weight in weights)
        bits = sum(-(-weight.count // 8) for weight in weights if weight.positions)
        said = f"Where they are, told by the gaps between them and entropy coded, takes {places:,} bytes in place of {bits:,}."
        found.append(_stage("positions", "Positions coded", sum(weight.placed_bytes for weight in weights), said, _gaps(first)))
    if any(weight.weight.grid is not None for weight in weights):
        found.append(_stage("grid", "Values in few bits", sum(weight.grid_bytes for weight in weights), _grid_words(weights), _codes(first)))
    total = sum(sum(weight.lengths.values()) for weight in weights)
    found.append(_stage(FILE, "In the file", total, _file_words(weights, raw, total), _hex(data, streams, names[0])))
    return found


class _Stored:
    """One weight, and how many bytes each of its streams takes in the file."""

    def __init__(self, weight: Weight, count: int, lengths: dict[str, int]):
        self.weight, self.count, self.lengths = weight, count, lengths
        value = weight.value()
        self.numbers, self.nonzero, self.is_masked = in_order(value), nonzeros(value), weight.mask is not None
        self.positions = lengths.get("positions", 0)

    @property
    def start(self) -> int:
        """Where the first number that is not zero lies, so that a sample shows some."""
        return int(np.argmax(self.numbers != 0))

    @property
    def masked_bytes(self) -> int:
        return 4 * self.nonzero + -(-self.count // 8) if self.is_masked else 4 * self.count

    @property
    def placed_bytes(self) -> int:
        return 4 * self.nonzero + self.positions if self.positions else self.masked_bytes

    @property
    def grid_bytes(self) -> int:
        """Without entropy coding: every code that is stored takes the bits of its grid."""
        if self.weight.grid is None:
            return sum(self.lengths.values())
        stored = self.nonzero if self.positions else self.count
        return -(-stored * self.weight.grid.bits // 8) + self.positions + sum(self.lengths.get(kind, 0) for kind in TABLES)


def _stage(stage: str, title: str, count: int, said: str, sample: str) -> dict:
    return {"stage": stage, "title": title, "bytes": int(count), "said": said, "sample": sample}


def _lengths(streams: list[Stream], name: str) -> dict[str, int]:
    return {stream.kind: stream.length for stream in streams if stream.tensor == name}


def _before(base: Compressed, names: list[str]) -> list[np.ndarray] | None:
    """The uncompressed model's weights that stand at the same place, or above it where the layer became several; None where it has none."""
    values = dict(weights_of(base.module))
    own = [values[name] for name in names if name in values]
    if len(own) < len(names):
        above = [name for name in values if names[0].startswith(name.removesuffix("weight"))]
        own = [values[name] for name in above[:1]]
    return [in_order(value) for value in own] or None


def _numbers(values: np.ndarray) -> str:
    return "  ".join("0" if not value else f"{value:.3f}" for value in values[:SHOWN].tolist()).replace("-", "−")


def _gaps(first: _Stored) -> str:
    places = np.flatnonzero(first.numbers)[:SHOWN]
    return "gaps  " + "  ".join(str(gap) for gap in (np.diff(places, prepend=-1) - 1).tolist())


def _codes(first: _Stored) -> str:
    grid = first.weight.grid
    if grid is None or isinstance(grid, Floats):
        return _numbers(first.numbers[first.start :])
    codes = in_order(code_numbers(grid))
    kept = np.flatnonzero(first.numbers)[:SHOWN] if first.positions else np.arange(first.start, min(first.start + SHOWN, codes.size))
    return "codes  " + "  ".join(str(code) for code in codes[kept].tolist()).replace("-", "−")


def _hex(data: bytes, streams: list[Stream], name: str) -> str:
    """The first bytes of a weight's values as they stand in the file."""
    at = 0
    for stream in streams:
        if stream.tensor == name and stream.kind == "values":
            return data[at : at + min(2 * SHOWN, stream.length)].hex(" ")
        at += stream.length
    return ""


def _grid_words(weights: list[_Stored]) -> str:
    grids = [weight.weight.grid for weight in weights if weight.weight.grid is not None]
    bits = sorted({grid.bits for grid in grids})
    tables = sum(weight.lengths.get(kind, 0) for weight in weights for kind in TABLES)
    if isinstance(grids[0], Codebook):
        return f"Each is the number of a shared value ({bits[0]} bits); the values shared take {tables:,} bytes."
    said = f"Each is a code of {' or '.join(str(each) for each in bits)} bit{'s' if bits != [1] else ''}"
    return f"{said}; scales take {tables:,} bytes." if tables else f"{said}."


def _file_words(weights: list[_Stored], raw: int, total: int) -> str:
    values = sum(weight.lengths.get("values", 0) for weight in weights)
    together = any(weight.is_masked and not weight.positions for weight in weights)
    coded = any(weight.weight.grid is not None for weight in weights)
    how = "Frequent codes take fewer bits than rare ones" if coded else "What is no grid stays float32"
    zeros = ", and zeros are coded along with the rest, which is smaller here than telling their places" if together and coded else ""
    return f"{how}{zeros}: values take {values:,} bytes. {8 * total / max(1, raw):.2f} bits for each number as trained."
