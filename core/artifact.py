"""The packed file: a compressed model written small, and read back with bit-identical weights. What "Download" gives.

    magic, version, length of the header                            (10 bytes)
    header: zlib of JSON: architecture, recipe, activation grids, one entry a weight with the lengths of its streams
    one after the other, for each weight in the module's order: positions, values, zero points, scales
    what is no weight (batch norm, biases, buffers): raw float32 together, whole numbers together
    BLAKE2b of all before                                           (16 bytes)

A dense weight is raw float32. A masked one is the positions of its non-zeros and their raw float32, if that is smaller. A weight on a grid
is its codes less the zero point, coded by `core.coding`; what is masked is 0 there. So a mask comes back as
the places where the value is not 0. Nothing is pickled, and a reader allocates nothing that the file's own
length does not account for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.architecture import Architecture
from core.coding import Coded, Positions, Raw, decode, decode_positions, plan_sparse
from core.errors import BadArtifact
from core.home import write_whole
from core.recipe import Recipe, digest
from core.weights import ActivationGrid, Compressed, Grid, Weight, weights_of

MAGIC = b"PSCP"
VERSION = 1
PREFIX = struct.Struct("<4sHI")
CHECKSUM_BYTES = 16
LARGEST_HEADER = 4 * 1024 * 1024
SAMPLE = 1 << 16  # numbers of a weight that an estimate looks at
LARGEST_FILE = 8 * 1024**3
KINDS = ("values", "positions", "scales", "others", "header")
HEADER_KEYS = {"architecture", "tensors", "recipe", "about", "activations", "weights", "integers"}
_FIELDS = {"dense": 2, "masked": 1, "grid": 5}  # in a weight's entry, before the lengths of its streams
_STREAMS = {"dense": 1, "masked": 2, "grid": 4}  # positions, values, zero points, scales


@dataclass(frozen=True)
class Packed:
    """A packed file's bytes, and how many of them each of `KINDS` takes. "others" is batch norm, biases and buffers."""

    data: bytes
    parts: dict[str, int]

    @property
    def size(self) -> int:
        return len(self.data)


def write(subject: Compressed, path: Path | None = None, recipe: Recipe | None = None, about: dict | None = None) -> Packed:
    """Pack `subject`, and write the file if `path` is given; one sentence when the disk is full.

    `about` is anything in JSON that the file should say of itself: dataset, classes, date.
    """
    entries, blobs, parts = [], [], dict.fromkeys(KINDS, 0)
    for name, parameter in weights_of(subject.module):
        entry, streams = _plan(subject.weights[name], parameter)
        entries.append(entry + _store(streams, blobs, parts))
    integers = _store(_others(subject.module), blobs, parts)[1]
    header = _header(subject, recipe, about, entries, integers)
    body = b"".join([PREFIX.pack(MAGIC, VERSION, len(header)), header, *blobs])
    data = body + _checksum(body)
    parts["header"] = len(header) + PREFIX.size + CHECKSUM_BYTES
    if path is not None:
        write_whole(path, data)
    return Packed(data, parts)


def packed_size(subject: Compressed, recipe: Recipe | None = None) -> int:
    """What `write` would need, in bytes, estimated for previews: from histograms, and of large weights from part of the rows.

    Within 1 % on trained networks; without a weight of more than `SAMPLE` numbers within 0.1 %.
    """
    total, entries = 0, []
    for name, parameter in weights_of(subject.module):
        weight, value, share = _sample(subject.weights[name], parameter)
        entry, streams = _plan(weight, value)
        sizes = [round(stream.size / share) for _kind, stream in streams]
        entries.append(entry + sizes)
        total += sum(sizes)
    others = [stream.size for _kind, stream in _others(subject.module)]
    return total + sum(others) + PREFIX.size + len(_header(subject, recipe, None, entries, others[1])) + CHECKSUM_BYTES


def read(source: Path | bytes, expect: Architecture | None = None) -> Compressed:
    """The compressed model in a packed file; raises `BadArtifact` for any file that `write` did not make.

    With `expect`, also for a file that holds another architecture.
    """
    header, body = _open(source)
    try:
        architecture = Architecture.from_json(header["architecture"])
        layout = _layout(json.dumps(architecture.to_json()))
    except (ValueError, TypeError, RuntimeError) as error:  # torchvision's own refusals, such as an input size that does not divide
        raise BadArtifact(f"The file's architecture cannot be built ({str(error).splitlines()[0]}).") from None
    if expect is not None and architecture != expect:
        raise BadArtifact(f"This file holds {_named(architecture)}, not {_named(expect)}.")
    _check_layout(header, layout, len(body))
    module = architecture.build()
    cursor = _Cursor(body)
    weights = {}
    for (name, parameter), entry in zip(weights_of(module), header["weights"], strict=True):
        weights[name] = _read_weight(entry, tuple(parameter.shape), cursor)
    _read_others(module, header["integers"], cursor)
    subject = Compressed(module, architecture, weights, _activations(header["activations"]))
    for name, weight in weights.items():
        parameter = module.get_parameter(name)
        with torch.no_grad():
            parameter.copy_(weight.value())
        weights[name] = replace(weight, latent=parameter.detach())
    return subject


def describe(source: Path | bytes) -> dict:
    """What a packed file says of itself: `architecture`, `recipe` and `about`, as JSON; raises `BadArtifact`."""
    header, _body = _open(source)
    return {key: header[key] for key in ("architecture", "recipe", "about")}


def _sample(weight: Weight, value: Tensor) -> tuple[Weight, Tensor, float]:
    """Every k-th row of a large weight and of its value, and the share of the rows that is."""
    rows, step = len(value), -(-value.numel() // SAMPLE)
    if step <= 1:
        return weight, value, 1.0
    grid, mask = weight.grid, weight.mask
    if grid is not None:
        scale, zero_point = (tensor[::step] if len(tensor) == rows else tensor for tensor in (grid.scale, grid.zero_point))
        grid = replace(grid, codes=grid.codes[::step], scale=scale, zero_point=zero_point)
    value = value[::step]
    return Weight(value, mask if mask is None else mask[::step], grid), value, len(value) / rows


def _plan(weight: Weight, value: Tensor) -> tuple[list, list[tuple[str, Any]]]:
    """A weight's entry in the header, still without lengths, and its streams, each with its kind."""
    grid, mask = weight.grid, weight.mask
    if grid is None:
        return _plan_floats(_flat(value), mask is not None)
    zero = bool(grid.zero_point.any())
    codes = grid.codes.int() - grid.zero_point if zero else grid.codes
    positions, values = plan_sparse(_flat(codes if mask is None else codes * mask))
    spread = [dim for dim, length in enumerate(grid.scale.shape) if length > 1]
    scales, zeros = Raw(_flat(grid.scale).astype("<f4")), Coded.of(_flat(grid.zero_point) if zero else np.zeros(0, np.int16))
    streams = [("positions", positions or Raw(np.zeros(0))), ("values", values), ("scales", zeros), ("scales", scales)]
    return ["grid", mask is not None, grid.bits, grid.symmetric, spread], streams


def _plan_floats(numbers: np.ndarray, masked: bool) -> tuple[list, list[tuple[str, Any]]]:
    """As `_plan`, for raw float32. A masked weight that has hardly a 0 is smaller dense."""
    numbers = numbers.astype("<f4", copy=False)
    if masked:
        places = np.flatnonzero(numbers != 0)
        positions, values = Positions.of(places, numbers.size), Raw(numbers[places])
        if positions.size + values.size < numbers.nbytes:
            return ["masked"], [("positions", positions), ("values", values)]
    return ["dense", masked], [("values", Raw(numbers))]


def _others(module: nn.Module) -> list[tuple[str, Any]]:
    """All numbers of the module that are not weights: the floats, then the whole numbers, in the order of the state dict."""
    floats, integers = _rest(module)
    raw = np.concatenate([np.zeros(0, "<f4"), *(_flat(tensor).astype("<f4", copy=False) for tensor in floats)])
    counters = np.concatenate([np.zeros(0, np.int64), *(_flat(tensor) for tensor in integers)])
    return [("others", Raw(raw)), ("others", Coded.of(counters))]


def _rest(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    weights = {name for name, _parameter in weights_of(module)}
    rest = [tensor for name, tensor in module.state_dict().items() if name not in weights]
    return [tensor for tensor in rest if tensor.is_floating_point()], [tensor for tensor in rest if not tensor.is_floating_point()]


def _store(streams: list[tuple[str, Any]], blobs: list[bytes], parts: dict[str, int]) -> list[int]:
    """Encode the streams onto `blobs`; their lengths."""
    lengths = []
    for kind, stream in streams:
        blobs.append(stream.encode())
        lengths.append(len(blobs[-1]))
        parts[kind] += lengths[-1]
    return lengths


def _header(subject: Compressed, recipe: Recipe | None, about: dict | None, entries: list, integers: int) -> bytes:
    activations = {name: [grid.scale, grid.zero_point, grid.bits] for name, grid in subject.activations.items()}
    header = {
        "architecture": subject.architecture.to_json(), "tensors": _fingerprint(subject.module), "recipe": recipe and recipe.to_json(),
        "about": about, "activations": activations, "weights": entries, "integers": integers,
    }  # fmt: skip
    return zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)


def _fingerprint(module: nn.Module) -> str:
    """A hash of the names and shapes of a module's tensors, so that streams never meet the wrong ones."""
    return digest(repr([(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]))


def _flat(tensor: Tensor) -> np.ndarray:
    """(n,) in the order batch, height, width, channels: that of channels_last, so that kernels need no copy."""
    tensor = tensor.detach()
    return (tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor).reshape(-1).numpy()


def _shaped(numbers: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `_flat`."""
    tensor = torch.from_numpy(numbers)
    if len(shape) != 4:
        return tensor.view(shape)
    count, channels, height, width = shape
    return tensor.view(count, height, width, channels).permute(0, 3, 1, 2)


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest()


def _open(source: Path | bytes) -> tuple[dict, bytes]:
    """The checked header of a packed file, and the streams behind it."""
    data = source if isinstance(source, bytes) else _load(source)
    if data[: len(MAGIC)] != MAGIC:
        raise BadArtifact(f"This is not a packed model: it does not start with {MAGIC.decode()}.")
    if len(data) < PREFIX.size + CHECKSUM_BYTES:
        raise BadArtifact(f"The file is truncated: it ends after {len(data)} bytes.")
    _magic, version, length = PREFIX.unpack_from(data)
    if version > VERSION:
        raise BadArtifact(f"The file has format {version}, and this version of Paretoscope reads formats up to {VERSION}.")
    if _checksum(memoryview(data)[:-CHECKSUM_BYTES]) != data[-CHECKSUM_BYTES:]:
        raise BadArtifact("The file is damaged: its checksum does not fit, so it was changed or cut short after it was written.")
    end = PREFIX.size + length
    _expect(version == VERSION and end <= len(data) - CHECKSUM_BYTES, "its header is longer than the file")
    return _parse(data[PREFIX.size : end]), data[end:-CHECKSUM_BYTES]


def _load(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
            if start == MAGIC and path.stat().st_size <= LARGEST_FILE:
                start += file.read()
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read ({error.strerror}).") from None
    return start


def _parse(packed: bytes) -> dict:
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(packed, LARGEST_HEADER)
        _expect(inflater.eof and not inflater.unused_data, "its header does not end where it should")
        header = json.loads(text)
    except (zlib.error, ValueError, RecursionError):
        raise BadArtifact("The file is damaged: its header cannot be read.") from None
    _expect(isinstance(header, dict) and set(header) == HEADER_KEYS, "its header has not the right keys")
    return header


@functools.lru_cache(maxsize=32)
def _layout(architecture: str) -> tuple[str, list[int], int]:
    """Of an architecture as JSON, and without taking memory for it: its fingerprint, the length of each weight, the number of other floats."""
    with torch.device("meta"):
        skeleton = Architecture.from_json(json.loads(architecture)).build()
    floats, _integers = _rest(skeleton)
    lengths = [parameter.numel() for _name, parameter in weights_of(skeleton)]
    return _fingerprint(skeleton), lengths, sum(tensor.numel() for tensor in floats)


def _check_layout(header: dict, layout: tuple[str, list[int], int], length: int) -> None:
    """Refuse a file whose streams, by their own lengths and the architecture's shapes, do not fill `length` bytes."""
    fingerprint, weights, floats = layout
    if header["tensors"] != fingerprint:
        raise BadArtifact("The file was made for another architecture: the names and shapes of its tensors differ.")
    entries = header["weights"]
    _expect(isinstance(entries, list) and len(entries) == len(weights), "it has not the right number of weights")
    for entry, numbers in zip(entries, weights, strict=True):
        _check_entry(entry, numbers)
    _expect(_whole(header["integers"]), "a length is no number")
    told = sum(sum(entry[-_STREAMS[entry[0]] :]) for entry in entries) + 4 * floats + header["integers"]
    _expect(told == length, f"its streams should take {told:,} bytes and take {length:,}")


def _check_entry(entry: Any, numbers: int) -> None:
    """`["dense", masked, …]`, `["masked", …]` or `["grid", masked, bits, symmetric, spread, …]`, each followed by its streams' lengths."""
    kind = entry[0] if isinstance(entry, list) and entry and isinstance(entry[0], str) else None
    _expect(kind in _STREAMS, "a weight has an unknown form")
    count = _STREAMS[kind]
    _expect(len(entry) == count + _FIELDS[kind] and all(map(_whole, entry[-count:])), "a weight's entry is malformed")
    if kind == "dense":
        _expect(isinstance(entry[1], bool), "a weight's entry is malformed")
        _expect(entry[2] == 4 * numbers, "a dense weight has the wrong length")
    if kind == "grid":
        _kind, masked, bits, symmetric, spread = entry[:5]
        _expect(isinstance(masked, bool) and isinstance(symmetric, bool), "a weight's entry is malformed")
        _expect(_whole(bits) and 2 <= bits <= 16 and isinstance(spread, list) and all(map(_whole, spread)), "a grid is out of range")


class _Cursor:
    """Takes the streams off the body, one after the other."""

    def __init__(self, body: bytes):
        self.body, self.at = body, 0

    def take(self, length: int) -> bytes:
        _expect(length <= len(self.body) - self.at, "a stream is cut off")
        self.at += length
        return self.body[self.at - length : self.at]

    def floats(self, count: int) -> np.ndarray:
        return np.frombuffer(self.take(4 * count), "<f4").astype(np.float32)


def _read_weight(entry: list, shape: tuple[int, ...], cursor: _Cursor) -> Weight:
    """The weight of one entry; on a grid, its latent is left empty."""
    count = math.prod(shape)
    if entry[0] == "dense":
        latent = _shaped(cursor.floats(count), shape)
        return Weight(latent, latent != 0 if entry[1] else None)
    if entry[0] == "grid":
        return _read_grid(entry, shape, cursor)
    places = decode_positions(cursor.take(entry[1]), count)
    _expect(entry[2] == 4 * places.size, "a weight has not as many values as positions")
    latent, mask = np.zeros(count, np.float32), np.zeros(count, bool)
    latent[places], mask[places] = cursor.floats(places.size), True
    return Weight(_shaped(latent, shape), _shaped(mask, shape))


def _read_grid(entry: list, shape: tuple[int, ...], cursor: _Cursor) -> Weight:
    _kind, masked, bits, symmetric, spread, *lengths = entry
    count = math.prod(shape)
    positions, values, zeros, scales = (cursor.take(length) for length in lengths)
    if positions:
        places = decode_positions(positions, count)
        numbers = np.zeros(count, np.int32)
        numbers[places] = decode(values, places.size)
    else:
        numbers = decode(values, count)
    scale_shape = tuple(length if dim in spread else 1 for dim, length in enumerate(shape))
    scale_count = math.prod(scale_shape)
    _expect(len(scales) == 4 * scale_count and not (symmetric and zeros), "a grid has not the right number of scales")
    zero = decode(zeros, scale_count) if zeros else np.zeros(scale_count, np.int16)
    grid = Grid(torch.empty(0), _shaped(np.frombuffer(scales, "<f4").astype(np.float32), scale_shape), torch.empty(0), bits, symmetric)
    grid = replace(grid, zero_point=_on(grid, _shaped(zero, scale_shape)))
    numbers = _shaped(numbers, shape)
    return Weight(torch.empty(0), numbers != 0 if masked else None, replace(grid, codes=_on(grid, numbers + grid.zero_point)))


def _on(grid: Grid, codes: Tensor) -> Tensor:
    """`codes` as int16, if all of them lie within the grid's range."""
    _expect(grid.low <= int(codes.min()) and int(codes.max()) <= grid.high, "a code lies outside its grid")
    return codes.to(torch.int16)


def _read_others(module: nn.Module, integers: int, cursor: _Cursor) -> None:
    floats, counters = _rest(module)
    stored = torch.from_numpy(cursor.floats(sum(tensor.numel() for tensor in floats)))
    whole = torch.from_numpy(decode(cursor.take(integers), sum(tensor.numel() for tensor in counters)))
    for tensors, numbers in ((floats, stored), (counters, whole)):
        for tensor, part in zip(tensors, numbers.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(_shaped(part.numpy(), tuple(tensor.shape)))


def _activations(value: Any) -> dict[str, ActivationGrid]:
    _expect(isinstance(value, dict), "its activation grids are malformed")
    for grid in value.values():
        _expect(isinstance(grid, list) and len(grid) == 3, "its activation grids are malformed")
        scale, zero_point, bits = grid
        _expect(isinstance(scale, float) and 0 < scale < math.inf, "an activation's scale is out of range")
        _expect(_whole(bits) and 2 <= bits <= 16 and _whole(zero_point) and zero_point < 2**bits, "an activation's grid is out of range")
    return {name: ActivationGrid(*grid) for name, grid in value.items()}


def _named(architecture: Architecture) -> str:
    pruned = ", some of its channels removed" if architecture.shapes else ""
    return f"{architecture.model} ({architecture.classes} classes, {architecture.input_size}×{architecture.input_size}{pruned})"


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def _expect(condition: object, fault: str) -> None:
    if not condition:
        raise BadArtifact(f"The file is damaged: {fault}.")
