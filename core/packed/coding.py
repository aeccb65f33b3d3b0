"""Entropy coding of whole numbers: how the packed file holds codes, positions and counters.

A stream of symbols is coded by asymmetric numeral systems (Duda 2013, arXiv:1311.2540; the constriction library) under
its own histogram, which travels in front of it (`core.packed.histograms`). Numbers with a wide range keep
their low bits apart, uncoded. Short or evenly spread streams are bit-packed instead, whenever that is no larger. Where a
file's format has them, a short stream's histogram may be an outline, and bins (`core.packed.binned`) come before all: they are read ten times as fast.

The non-zeros of an array are told by the gaps between them. Decoding trusts nothing: whatever the bytes say, it returns
an array of the wanted length or raises `BadArtifact`, and allocates no more than that length asks for.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
from constriction import stream

from core.errors import BadArtifact
from core.packed import binned, histograms
from core.packed.binned import damage_told
from core.packed.histograms import LARGEST_LEVEL, LONGEST_OUTLINE, Outline

LARGEST_ALPHABET = 1 << 17  # differences of two 16-bit codes
LARGEST_OFFSET = 1 << 30  # of symbols that are counted; beyond it they are packed
PACKED = 0x80  # in a stream's first byte: bit-packed, the rest of the byte is the width
BINNED = 0x40  # in a stream's first byte: in bins, the rest of the byte is the place of its dtype in `BINS`
OUTLINED = 0x20  # in a stream's first byte: its histogram is an outline, the rest of the byte is `MIRRORED` or not, and where its centre is
MIRRORED = 0x10  # the symbols reach as far below 0 as above
TOLD, FIRST, MIDDLE = 0, 1, 2  # the centre: told, the first symbol, the middle one
END = 3  # bytes that the coder itself takes
SHORTEST_OUTLINED = 16  # symbols
BINS = (np.uint8, np.uint16, np.uint32)
LARGER = 1.002  # bins may be so many times as large as what they replace: reading them is worth that
CHUNK = 1 << 18  # symbols that are widened at a time; a multiple of 8
SPARSE_BELOW = 0.5  # share of non-zeros up to which gaps mean fewer symbols than coding every zero
SYMBOLS_A_BYTE = 4096  # coding so many more symbols (50 µs) is worth one byte less


@dataclass(frozen=True)
class Coding:
    """How one stream is coded, and how many bytes that takes.

    A symbol s is stored as (s − offset) >> shift under the histogram `levels`, followed by its `shift` low bits; with
    `levels` None, as s − offset in `width` bits. `outline` is a histogram for s − offset that takes less than all that,
    where there is one, for files whose format has it; `size` counts on it.
    """

    offset: int
    shift: int
    width: int
    levels: np.ndarray | None
    size: int
    outline: Outline | None = None

    @staticmethod
    def of(counts: np.ndarray, offset: int) -> Coding:
        """The smallest coding for a stream in which the symbol offset + i occurs counts[i] times; both ends occur."""
        total, width = int(counts.sum()), (len(counts) - 1).bit_length()
        best = Coding(offset, 0, width, None, len(_head(width, offset)) + (total * width + 7) // 8)
        # A table for many symbols pays only in a long stream; in a shorter one, neighbouring symbols share its entries.
        for shift in range(1 if total >= 64 * len(counts) else min(width, 9)):
            shared = np.add.reduceat(counts, np.arange(0, len(counts), 1 << shift)) if shift else counts
            if not 2 <= len(shared) <= LARGEST_ALPHABET:
                continue
            levels = histograms.full(shared)
            bits = histograms.bits(shared, histograms.frequencies(levels), levels)
            size = len(_head(shift, offset) + varint(len(shared))) + (total * shift + 7) // 8 + int(bits / 8) + END
            if size < best.size:
                best = Coding(offset, shift, width, levels, size)
            elif best.levels is not None:
                break
        if 4 <= len(counts) <= LONGEST_OUTLINE and SHORTEST_OUTLINED < total < 64 * len(counts):
            outline = Outline.of(counts)
            size = len(_outline_head(outline, offset)) + int(outline.bits / 8) + END
            if size < best.size:
                return replace(best, size=size, outline=outline)
        return best

    def encode(self, symbols: np.ndarray, compact: bool = False) -> bytes:
        """The bytes of `symbols` (n,), whose histogram this coding was made for; with `compact`, under an outline or in bins where that is better."""
        if not symbols.size:
            return b""
        if compact and (data := self._in_bins(symbols)):
            return data
        if compact and self.outline is not None:
            coder = stream.stack.AnsCoder()
            coder.encode_reverse(np.subtract(symbols, self.offset, dtype=np.int32), histograms.model(self.outline.frequencies()))
            start = histograms.even(symbols.size, self.outline.length)
            return _outline_head(self.outline, self.offset) + _words(coder, self.outline.levels, start)
        if self.levels is None:
            return _head(PACKED | self.width, self.offset) + _pack(symbols, self.offset, self.width)
        coder = stream.stack.AnsCoder()
        model = histograms.model(histograms.frequencies(self.levels))
        for start in reversed(range(0, symbols.size, CHUNK)):
            high = np.subtract(symbols[start : start + CHUNK], self.offset, dtype=np.int32)
            coder.encode_reverse(high >> self.shift if self.shift else high, model)
        return _head(self.shift, self.offset) + varint(len(self.levels)) + _pack(symbols, self.offset, self.shift) + _words(coder, self.levels)

    def _in_bins(self, symbols: np.ndarray) -> bytes:
        """b"" where bins are too large, or the numbers too wide for them."""
        highest = (1 << self.width) - 1 if self.levels is None else (len(self.levels) << self.shift) - 1
        form = 0 if highest < 1 << 8 else 1 if highest < 1 << 16 else 2
        if not 0 < highest < 2 * LARGEST_ALPHABET:
            return b""
        numbers = np.empty(symbols.size, BINS[form])
        np.subtract(symbols, self.offset, out=numbers, dtype=np.int64, casting="unsafe")  # widened a little at a time
        data = _head(BINNED | form, self.offset) + binned.write(numbers)
        return data if len(data) <= LARGER * self.size else b""


@dataclass(frozen=True)
class Coded:
    """Symbols (n,) with the coding that suits them; `size` is what `encode()` will take, in bytes, within 0.1 % and 4 bytes.

    That is with `compact`; without, a short stream may take more. In bins it takes at most `LARGER` times as much.
    counts (high − low + 1,) is their histogram, None where it would be too long.
    """

    symbols: np.ndarray
    coding: Coding
    counts: np.ndarray | None = None

    @staticmethod
    def of(symbols: np.ndarray) -> Coded:
        if not symbols.size:
            return Coded(symbols, Coding(0, 0, 0, None, 0))
        low, high = int(symbols.min()), int(symbols.max())
        if high - low >= LARGEST_ALPHABET or max(-low, high) >= LARGEST_OFFSET:
            width = (high - low).bit_length()
            return Coded(symbols, Coding(low, 0, width, None, len(_head(width, low)) + (symbols.size * width + 7) // 8))
        counts = histograms.histogram(symbols, low, high)
        return Coded(symbols, Coding.of(counts, low), counts)

    def with_zeros(self, zeros: int) -> Coding:
        """The coding of these symbols and so many zeros besides."""
        if self.counts is None:
            return self.coding
        low = min(0, self.coding.offset)
        high = max(0, self.coding.offset + len(self.counts) - 1)
        counts = np.zeros(high - low + 1, np.int64)
        counts[self.coding.offset - low :][: len(self.counts)] = self.counts
        counts[-low] += zeros
        return Coding.of(counts, low)

    @property
    def size(self) -> int:
        return self.coding.size

    def encode(self, compact: bool = False) -> bytes:
        return self.coding.encode(self.symbols, compact)


@dataclass(frozen=True)
class Raw:
    """Numbers (n,) that are stored as they are: floats."""

    numbers: np.ndarray

    @property
    def size(self) -> int:
        return self.numbers.nbytes

    def encode(self, compact: bool = False) -> bytes:
        return self.numbers.tobytes()


@dataclass(frozen=True)
class Table:
    """float32 numbers (n,) beside the codes: scales, biases, batch norms. In bins where that is smaller than 4 bytes each."""

    numbers: np.ndarray

    @functools.cached_property
    def _data(self) -> bytes:
        raw = self.numbers.tobytes()
        return min(raw, binned.write(self.numbers), key=len)

    @property
    def size(self) -> int:
        return len(self._data)

    def encode(self, compact: bool = False) -> bytes:
        return self._data if compact else self.numbers.tobytes()


@dataclass(frozen=True)
class Positions:
    """So many ascending `places` as the gaps between them. A gap of 2^run or more is led by symbols 2^run, each a run of so many places."""

    gaps: Coded
    run: int
    places: int

    @staticmethod
    def of(places: np.ndarray, count: int) -> Positions:
        """`places` int64, all below `count`. Runs are about four mean gaps long, so that few gaps need one."""
        if not places.size:
            return Positions(Coded.of(places), 0, 0)
        run = min(16, (4 * count // places.size - 1).bit_length())
        gaps = np.empty(places.size, np.int32)
        gaps[0] = places[0]
        np.subtract(places[1:], places[:-1], out=gaps[1:], casting="unsafe")
        gaps[1:] -= 1
        long = np.flatnonzero(gaps >> run)
        symbols = np.insert(gaps & ((1 << run) - 1), np.repeat(long, gaps[long] >> run), 1 << run) if long.size else gaps
        return Positions(Coded.of(symbols), run, places.size)

    @property
    def size(self) -> int:
        return len(self._head()) + self.gaps.size

    def encode(self, compact: bool = False) -> bytes:
        return self._head() + self.gaps.encode(compact)

    def _head(self) -> bytes:
        return bytes([self.run]) + varint(self.gaps.symbols.size)


def encode(symbols: np.ndarray, compact: bool = False) -> bytes:
    """Whole numbers (n,) of any integer dtype as bytes; n itself is not stored."""
    return Coded.of(symbols).encode(compact)


def decode(data: bytes, count: int) -> np.ndarray:
    """The `count` numbers (n,) that `encode` was given, int16, int32 or int64; raises `BadArtifact`."""
    if not count:
        _expect(not data, "there are bytes where no numbers belong")
        return np.zeros(0, np.int32)
    _expect(data, "a stream is missing")
    if data[0] & ~(MIRRORED | 3) == OUTLINED:
        return _from_outline(data, count)
    offset, at = _read_varint(data, 1)
    offset = offset >> 1 ^ -(offset & 1)
    if data[0] & PACKED:
        return _unpack(data[at:], count, data[0] & ~PACKED, offset)
    if data[0] & BINNED:
        return _from_bins(data[at:], count, data[0] & ~BINNED, offset)
    shift = data[0]
    length, at = _read_varint(data, at)
    _expect(shift <= 8 and 2 <= length <= LARGEST_ALPHABET and abs(offset) < LARGEST_OFFSET, "a histogram is out of range")
    end = at + (count * shift + 7) // 8
    _expect(end <= len(data), "a stream is too short")
    symbols = _decode_words(data[end:], length, count)
    if shift:
        symbols = (symbols << shift) + _unpack(data[at:end], count, shift, 0)
    return symbols + np.int32(offset)


def decode_positions(data: bytes, count: int) -> np.ndarray:
    """The places (k,) int64 that `Positions.encode` was given, all below `count`; raises `BadArtifact`."""
    _expect(data and data[0] <= 16, "positions are missing")
    run = 1 << data[0]
    symbols, at = _read_varint(data, 1)
    _expect(symbols <= count, "there are more positions than weights")
    gaps = decode(data[at:], symbols)
    if not symbols:
        return np.zeros(0, np.int64)
    _expect(gaps.min() >= 0 and gaps.max() <= run, "a gap between positions is out of range")
    long = gaps == run
    places = np.cumsum(gaps, dtype=np.int64)
    places += np.arange(symbols) if not long.any() else np.cumsum(~long) - 1
    _expect(places[-1] < count, "a position lies outside its tensor")
    return places[~long] if long.any() else places


def decode_table(data: bytes, count: int) -> np.ndarray:
    """The `count` float32 numbers (n,) of a `Table` or of `Raw`; raises `BadArtifact`."""
    if len(data) == 4 * count:
        return np.frombuffer(data, "<f4").astype(np.float32)
    return binned.read(data, np.float32, count)


def plan_sparse(values: np.ndarray) -> tuple[Positions | None, Coded]:
    """How values (n,), many of them 0, are coded smallest, judged by histograms.

    Either the places of the non-zeros and the values there, or no places and every value. The second is chosen where
    more than half are non-zero, or where what it saves is worth the longer coding.
    """
    kept = values != 0
    nonzero = int(np.count_nonzero(kept))
    if not values.size or nonzero > SPARSE_BELOW * values.size:
        return None, Coded.of(values)
    places = np.flatnonzero(kept)
    positions, coded = Positions.of(places, values.size), Coded.of(values[places])
    every = coded.with_zeros(values.size - nonzero)
    if every.size + values.size // SYMBOLS_A_BYTE < positions.size + coded.size:
        return None, Coded(values, every)
    return positions, coded


def varint(number: int) -> bytes:
    """An unsigned whole number, seven bits a byte, the lowest first."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place in range(at, min(at + 10, len(data))):
        number |= (data[place] & 0x7F) << 7 * (place - at)
        if data[place] < 0x80:
            return number, place + 1
    raise BadArtifact("The file is damaged: a number in it does not end.")


def _head(form: int, offset: int) -> bytes:
    return bytes([form]) + varint(offset << 1 if offset >= 0 else (-offset << 1) - 1)


def _outline_head(outline: Outline, offset: int) -> bytes:
    """What leads a stream under an outline: the range of its symbols, and the centre where it is neither the first nor the middle one."""
    place = {0: FIRST, outline.length // 2: MIDDLE}.get(outline.centre, TOLD)
    mirrored = 2 * -offset + 1 == outline.length
    head = bytes([OUTLINED | MIRRORED | place]) + varint(-offset) if mirrored else _head(OUTLINED | place, offset) + varint(outline.length)
    return head + (varint(outline.centre) if place == TOLD else b"")


def _from_outline(data: bytes, count: int) -> np.ndarray:
    number, at = _read_varint(data, 1)
    if data[0] & MIRRORED:
        offset, length = -number, 2 * number + 1
    else:
        offset = number >> 1 ^ -(number & 1)
        length, at = _read_varint(data, at)
    place = data[0] & 3
    centre, at = _read_varint(data, at) if place == TOLD else (0 if place == FIRST else length // 2, at)
    _expect(place <= MIDDLE and 4 <= length <= LONGEST_OUTLINE and centre < length and abs(offset) < LARGEST_OFFSET, "an outline is out of range")
    return _decode_words(data[at:], length, count, centre) + np.int32(offset)


def _words(coder: stream.stack.AnsCoder, levels: np.ndarray, start: int = 0) -> bytes:
    """What a coder holds, the levels of its histogram before all. It is a stack: what goes in last comes out first."""
    histograms.encode(coder, levels, start)
    return coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")  # its last word is never 0


def _decode_words(data: bytes, length: int, count: int, centre: int | None = None) -> np.ndarray:
    """`count` symbols 0 … length − 1 (int32) from the coder's words, which the histogram leads: a full table, or an outline around `centre`."""
    _expect(not data or data[-1], "a stream ends in zeros")
    with damage_told(ValueError):
        coder = stream.stack.AnsCoder(np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32))
        if centre is None:
            levels, least = histograms.decode(coder, length), 0
        else:
            levels, least = histograms.decode(coder, histograms.knots(length, centre), histograms.even(count, length)), 1
        _expect(levels.min() >= least and 0 < levels.max() <= LARGEST_LEVEL, "a histogram is out of range")
        frequencies = histograms.frequencies(levels) if centre is None else Outline(length, centre, levels).frequencies()
        symbols = coder.decode(histograms.model(frequencies), count)
        _expect(coder.is_empty(), "a stream does not end where its numbers end")
    return symbols


def _from_bins(data: bytes, count: int, form: int, offset: int) -> np.ndarray:
    _expect(form < len(BINS) and abs(offset) < LARGEST_OFFSET, "a stream has an unknown form")
    numbers = binned.read(data, BINS[form], count)
    small = form == 0 and -(1 << 15) <= offset < (1 << 15) - 256
    return np.add(numbers, offset, dtype=np.int16 if small else np.int32 if form < 2 else np.int64)


def _pack(symbols: np.ndarray, offset: int, width: int) -> bytes:
    """The low `width` bits of symbols − offset, lowest bit first, one symbol after the other."""
    parts = []
    for start in range(0, symbols.size if width else 0, CHUNK):
        numbers = symbols[start : start + CHUNK].astype(np.int64) - offset
        bits = np.empty((numbers.size, width), np.uint8)
        for place in range(width):
            bits[:, place] = numbers >> place & 1
        parts.append(np.packbits(bits, bitorder="little").tobytes())
    return b"".join(parts)


def _unpack(data: bytes, count: int, width: int, offset: int) -> np.ndarray:
    """The inverse of `_pack`; int32 where every number fits."""
    _expect(width <= 62 and abs(offset) < 1 << 62, "a bit-packed number is too wide")
    _expect(len(data) == (count * width + 7) // 8, "a bit-packed stream has the wrong length")
    small = width < 31 and abs(offset) < LARGEST_OFFSET
    numbers = np.full(count, offset, np.int32 if small else np.int64)
    raw = np.frombuffer(data, np.uint8)
    for start in range(0, count if width else 0, CHUNK):
        part = numbers[start : start + CHUNK]
        first = start * width // 8  # CHUNK is a multiple of 8
        bits = np.unpackbits(raw[first : first + (part.size * width + 7) // 8], count=part.size * width, bitorder="little").reshape(-1, width)
        for place in range(width):
            part += bits[:, place].astype(part.dtype) << place
    return numbers


def _expect(condition: object, fault: str) -> None:
    if not condition:
        raise BadArtifact(f"The file is damaged: {fault}.")
