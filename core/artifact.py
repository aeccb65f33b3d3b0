"""The packed file: a compressed model written small, and read back with bit-identical weights. What "Download" gives.

    magic, version, length of the header                            (10 bytes)
    header: zlib of JSON: architecture, recipe, activation grids, one entry a weight with the lengths of its streams
    one after the other, for each weight in the module's order: positions, values, zero points, scales
    what is no weight (batch norm, biases, buffers): the floats of each kind together, whole numbers together
    BLAKE2b of all before                                           (16 bytes)

Two formats are written. Where any weight lies on a grid, the file has format 3: streams and scales may be in bins (`core.packed.binned`), histograms may be
outlines (`core.packed.histograms`), and the floats that are no weights are, those of one name within their layers (`running_var`), in one stream. Any
other file has format 1: raw float32 is what dense and pruned models are compared by. Format 2 had no outlines. All three are read.

What a weight's streams hold is said in `core.packed.entries`; what is masked is 0 there, so a mask comes back as the places where the value is
not 0. A codebook of several weights is stored with the first of them. Nothing is pickled, and a reader allocates nothing that the file's own
length does not account for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.arithmetic.grids import Uniform
from core.errors import BadArtifact
from core.home import write_whole
from core.models.architecture import Architecture
from core.packed import FORMAT
from core.packed.coding import Coded, Raw, Table, decode, decode_table
from core.packed.entries import CONTENTS, STREAMS, Cursor, check_entry, expect, in_order, plan, plan_tables, read_weight, shaped, whole
from core.recipe import Recipe, digest
from core.weights import ActivationGrid, Compressed, Weight, give, weights_of

MAGIC = b"PSCP"
VERSION = FORMAT
PREFIX = struct.Struct("<4sHI")
CHECKSUM_BYTES = 16
LARGEST_HEADER = 4 * 1024 * 1024
SAMPLE = 1 << 16  # numbers of a weight that an estimate looks at
LARGEST_FILE = 8 * 1024**3
KINDS = ("values", "positions", "scales", "others", "header")
HEADER_KEYS = {
    "architecture",
    "tensors",
    "recipe",
    "about",
    "activations",
    "weights",
    "integers",
}  # and, where other parameters than weights have a state, "extra": their names; from format 2 on, "floats": the lengths of those streams


@dataclass(frozen=True)
class Packed:
    """A packed file's bytes, how many of them each of `KINDS` takes, and how many each weight. "others" is batch norm, biases and buffers."""

    data: bytes
    parts: dict[str, int]
    weights: dict[str, int]

    @property
    def size(self) -> int:
        return len(self.data)


@dataclass(frozen=True)
class Stream:
    """So many bytes of a packed file in a row: of which tensor ("" for the whole file's), and what they hold.

    `kind` is one of `core.packed.entries.CONTENTS` for what has a state, "floats" for what has none, "counters" or "header". Tensors whose floats
    are one stream have parts of it by how many numbers they hold.
    """

    tensor: str
    kind: str
    length: int


def write(subject: Compressed, path: Path | None = None, recipe: Recipe | None = None, about: dict | None = None) -> Packed:
    """Pack `subject`, and write the file if `path` is given; one sentence when the disk is full.

    `about` is anything in JSON that the file should say of itself: dataset, classes, date.
    """
    entries, blobs, parts, books, weights, version = [], [], dict.fromkeys(KINDS, 0), {}, {}, _version(subject)
    for name, parameter in subject.stored():
        entry, streams = plan(subject.weights[name], parameter, books)
        lengths = _store(streams, blobs, parts, version)
        entries.append(entry + lengths)
        weights[name] = sum(lengths)
    others = _store(_others(subject), blobs, parts, version)
    header = _header(subject, recipe, about, entries, others)
    body = b"".join([PREFIX.pack(MAGIC, version, len(header)), header, *blobs])
    data = body + _checksum(body)
    parts["header"] = len(header) + PREFIX.size + CHECKSUM_BYTES
    if path is not None:
        write_whole(path, data)
    return Packed(data, parts, weights)


def packed_size(subject: Compressed, recipe: Recipe | None = None) -> int:
    """What `write` would need, in bytes, estimated for previews: from histograms, and of large weights from part of the rows.

    Within 1 % on trained networks; without a weight of more than `SAMPLE` numbers within 0.1 %.
    """
    total, entries, books, whole_books = 0, [], {}, {}
    for name, parameter in subject.stored():
        weight, value, share = _sample(subject.weights[name], parameter)
        entry, streams = plan(weight, value, books)
        sizes = [round(stream.size / share) for kind, stream in streams if kind != "scales"]
        if weight.grid is not None:
            sizes += [table.size for table in plan_tables(subject.weights[name].grid, whole_books)[1]]
        entries.append(entry + sizes)
        total += sum(sizes)
    others = [stream.size for _kind, stream in _others(subject)]
    return total + sum(others) + PREFIX.size + len(_header(subject, recipe, None, entries, others)) + CHECKSUM_BYTES


def read(source: Path | bytes, expect: Architecture | None = None) -> Compressed:
    """The compressed model in a packed file; raises `BadArtifact` for any file that `write` did not make.

    With `expect`, also for a file that holds another architecture.
    """
    header, body, architecture = _checked(source, expect)
    module = architecture.build()
    cursor = Cursor(body)
    weights, books = {}, []
    parameters = dict(module.named_parameters(remove_duplicate=False))
    names = [*(name for name, _parameter in weights_of(module)), *header["extra"]]
    for name, entry in zip(names, header["weights"], strict=True):
        weights[name] = read_weight(entry, tuple(parameters[name].shape), cursor, books)
    _read_others(module, header, cursor)
    for name, weight in weights.items():
        give(parameters[name], weight.latent if weight.grid is None else weight.grid.value())  # which are 0 already where a mask was read off them
        weights[name] = Weight(parameters[name].detach(), weight.mask, weight.grid)
    return Compressed(module, architecture, weights, _activations(header["activations"]))


def streams(data: bytes) -> list[Stream]:
    """What each byte of a packed file is for, in the file's order: their lengths add up to the file's own. Raises `BadArtifact`."""
    header, body, architecture = _checked(data)
    _fingerprint, names, lengths, _others = _layout(json.dumps(architecture.to_json()))
    names = [*names, *header["extra"]]
    found = [Stream("", "header", len(data) - len(body) - CHECKSUM_BYTES)]
    for name, entry in zip(names, header["weights"], strict=True):
        found += [Stream(name, kind, length) for kind, length in zip(CONTENTS[entry[0]], entry[-STREAMS[entry[0]] :], strict=True)]
    for group, length in zip(_groups(header, lengths, names), _float_lengths(header, lengths, names), strict=True):
        ends = np.cumsum([lengths[name] for name in group])
        found += [Stream(name, "floats", int(part)) for name, part in zip(group, np.diff(ends * length // ends[-1], prepend=0), strict=True)]
    return [*found, Stream("", "counters", header["integers"]), Stream("", "header", CHECKSUM_BYTES)]


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
    if isinstance(grid, Uniform):
        scale, zero_point = (tensor[::step] if len(tensor) == rows else tensor for tensor in (grid.scale, grid.zero_point))
        grid = replace(grid, codes=grid.codes[::step], scale=scale, zero_point=zero_point)
    elif grid is not None:
        grid = replace(grid, codes=grid.codes[::step])
    value = value[::step]
    return Weight(value, mask if mask is None else mask[::step], grid), value, len(value) / rows


def _version(subject: Compressed) -> int:
    """The format that a file of `subject` has."""
    return VERSION if any(weight.grid is not None for weight in subject.weights.values()) else 1


def _others(subject: Compressed) -> list[tuple[str, Any]]:
    """All numbers of the module that have no state, in the order of the state dict: the floats, beyond format 1 one stream a kind, and the whole numbers."""
    floats, integers = _rest(subject.module, subject.weights)
    raw = {name: in_order(tensor).astype("<f4", copy=False) for name, tensor in floats.items()}
    groups = _by_kind(raw) if _version(subject) > 1 else [list(raw)]
    joined = [np.concatenate([np.zeros(0, "<f4"), *(raw[name] for name in group)]) for group in groups]
    counters = np.concatenate([np.zeros(0, np.int64), *(in_order(tensor) for tensor in integers.values())])
    return [*(("others", Table(numbers) if _version(subject) > 1 else Raw(numbers)) for numbers in joined), ("others", Coded.of(counters))]


def _by_kind(names: Collection[str]) -> list[list[str]]:
    """Tensors of one name within their layers, which hold numbers of one kind."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(name.rpartition(".")[2], []).append(name)
    return list(kinds.values())


def _groups(header: dict, lengths: dict[str, int], weights: Collection[str]) -> list[list[str]]:
    """Which tensors' floats stand together in a file, of those that are no weights; `lengths` maps all floats to how many numbers they are."""
    rest = [name for name in lengths if name not in set(weights)]
    return [rest] * bool(rest) if header["floats"] is None else _by_kind(rest)


def _float_lengths(header: dict, lengths: dict[str, int], weights: Collection[str]) -> list[int]:
    """The bytes of each of these groups."""
    if header["floats"] is not None:
        return header["floats"]
    return [4 * sum(lengths[name] for name in group) for group in _groups(header, lengths, weights)]


def _rest(module: nn.Module, weights: Collection[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    rest = {name: tensor for name, tensor in module.state_dict().items() if name not in weights}
    floats = {name: tensor for name, tensor in rest.items() if tensor.is_floating_point()}
    return floats, {name: tensor for name, tensor in rest.items() if name not in floats}


def _store(streams: list[tuple[str, Any]], blobs: list[bytes], parts: dict[str, int], version: int) -> list[int]:
    """Encode the streams onto `blobs`; their lengths."""
    lengths = []
    for kind, stream in streams:
        blobs.append(stream.encode(compact=version > 1))
        lengths.append(len(blobs[-1]))
        parts[kind] += lengths[-1]
    return lengths


def _header(subject: Compressed, recipe: Recipe | None, about: dict | None, entries: list, others: list[int]) -> bytes:
    *floats, integers = others
    activations = {name: [grid.scale, grid.zero_point, grid.bits, *([True] if grid.dynamic else [])] for name, grid in subject.activations.items()}
    extra = sorted(set(subject.weights).difference(name for name, _parameter in weights_of(subject.module)))
    header = {
        "architecture": subject.architecture.to_json(), "tensors": _fingerprint(subject.module), "recipe": recipe and recipe.shortest(),
        "about": about, "activations": activations, "weights": entries, "integers": integers, **({"extra": extra} if extra else {}),
        **({"floats": floats} if _version(subject) > 1 else {}),
    }  # fmt: skip
    return zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)


def _fingerprint(module: nn.Module) -> str:
    """A hash of the names and shapes of a module's tensors, so that streams never meet the wrong ones."""
    return digest(repr([(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]))


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest()


def _checked(source: Path | bytes, expect: Architecture | None = None) -> tuple[dict, bytes, Architecture]:
    """Header, streams and architecture of a packed file, once they are known to fit each other; raises `BadArtifact`."""
    header, body = _open(source)
    try:
        architecture = Architecture.from_json(header["architecture"])
        layout = _layout(json.dumps(architecture.to_json()))
    except (ValueError, TypeError, RuntimeError) as error:  # torchvision's own refusals, such as an input size that does not divide
        raise BadArtifact(f"The file's architecture cannot be built ({str(error).splitlines()[0]}).") from None
    if expect is not None and architecture != expect:
        raise BadArtifact(f"This file holds {_named(architecture)}, not {_named(expect)}.")
    _check_layout(header, layout, len(body))
    return header, body, architecture


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
    expect(version >= 1 and end <= len(data) - CHECKSUM_BYTES, "its header is longer than the file")
    return _parse(data[PREFIX.size : end], version), data[end:-CHECKSUM_BYTES]


def _load(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
            if start == MAGIC and path.stat().st_size <= LARGEST_FILE:
                start += file.read()
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read ({error.strerror}).") from None
    return start


def _parse(packed: bytes, version: int) -> dict:
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(packed, LARGEST_HEADER)
        expect(inflater.eof and not inflater.unused_data, "its header does not end where it should")
        header = json.loads(text)
    except (zlib.error, ValueError, RecursionError):
        raise BadArtifact("The file is damaged: its header cannot be read.") from None
    wanted = HEADER_KEYS | ({"floats"} if version > 1 else set())
    expect(isinstance(header, dict) and set(header) - {"extra"} == wanted, "its header has not the right keys")
    return {"extra": [], "floats": None} | header


@functools.lru_cache(maxsize=32)
def _layout(architecture: str) -> tuple[str, list[str], dict[str, int], set[str]]:
    """Of an architecture as JSON, and without taking memory for it: fingerprint, names of weights, lengths of all floats, names of other parameters."""
    with torch.device("meta"):
        skeleton = Architecture.from_json(json.loads(architecture)).build()
    lengths = {name: tensor.numel() for name, tensor in skeleton.state_dict().items() if tensor.is_floating_point()}
    weights = [name for name, _parameter in weights_of(skeleton)]
    return _fingerprint(skeleton), weights, lengths, {name for name, _parameter in skeleton.named_parameters()} - set(weights)


def _check_layout(header: dict, layout: tuple[str, list[str], dict[str, int], set[str]], length: int) -> None:
    """Refuse a file whose streams, by their own lengths and the architecture's shapes, do not fill `length` bytes."""
    fingerprint, weights, lengths, others = layout
    if header["tensors"] != fingerprint:
        raise BadArtifact("The file was made for another architecture: the names and shapes of its tensors differ.")
    entries, extra = header["weights"], header["extra"]
    expect(isinstance(extra, list) and all(isinstance(name, str) and name in others for name in extra) and extra == sorted(set(extra)), "it names no parameter")
    names = weights + extra
    expect(isinstance(entries, list) and len(entries) == len(names), "it has not the right number of weights")
    for name, entry in zip(names, entries, strict=True):
        check_entry(entry, lengths[name])
    expect(whole(header["integers"]), "a length is no number")
    groups, floats = _groups(header, lengths, names), header["floats"]
    if floats is not None:
        expect(isinstance(floats, list) and len(floats) == len(groups) and all(map(whole, floats)), "a length is no number")
    told = sum(sum(entry[-STREAMS[entry[0]] :]) for entry in entries) + sum(_float_lengths(header, lengths, names)) + header["integers"]
    expect(told == length, f"its streams should take {told:,} bytes and take {length:,}")


def _read_others(module: nn.Module, header: dict, cursor: Cursor) -> None:
    weights = {*header["extra"], *(name for name, _parameter in weights_of(module))}
    floats, counters = _rest(module, weights)
    lengths = {name: tensor.numel() for name, tensor in floats.items()}
    for group, length in zip(_groups(header, lengths, weights), _float_lengths(header, lengths, weights), strict=True):
        _fill([floats[name] for name in group], decode_table(cursor.take(length), sum(lengths[name] for name in group)))
    _fill([*counters.values()], decode(cursor.take(header["integers"]), sum(tensor.numel() for tensor in counters.values())))


def _fill(tensors: list[Tensor], numbers: np.ndarray) -> None:
    """Copy the numbers of several tensors, one after the other, to where they belong."""
    for tensor, part in zip(tensors, torch.from_numpy(numbers).split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(shaped(part.numpy(), tuple(tensor.shape)))


def _activations(value: Any) -> dict[str, ActivationGrid]:
    expect(isinstance(value, dict), "its activation grids are malformed")
    for grid in value.values():
        expect(isinstance(grid, list) and len(grid) in (3, 4) and grid[3:] in ([], [True]), "its activation grids are malformed")
        scale, zero_point, bits = grid[:3]
        expect(isinstance(scale, float) and 0 < scale < math.inf, "an activation's scale is out of range")
        expect(whole(bits) and 1 <= bits <= 16 and whole(zero_point) and zero_point < 2**bits, "an activation's grid is out of range")
    return {name: ActivationGrid(*grid) for name, grid in value.items()}


def _named(architecture: Architecture) -> str:
    changes = (", some of its layers factored" if architecture.factors else "") + (", some of its channels removed" if architecture.shapes else "")
    return f"{architecture.model} ({architecture.classes} classes, {architecture.input_size}×{architecture.input_size}{changes})"
