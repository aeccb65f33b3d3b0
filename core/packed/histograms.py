"""How a stream's histogram is told in front of it: as levels, the logarithms of counts.

A full table has a level for every symbol, in quarters of an octave; that rounding costs 0.002 bits a symbol. An outline has them for a few, in halves:
both ends, a centre, and the symbols at distances 1, 2, 4, … from it, with straight lines between. Codes of weights and gaps between positions
are spread so evenly around one symbol that for short streams this tells as much, in a tenth of the bytes. Levels are coded as differences
between neighbours, an outline's first from what an even spread would give it. The same bytes give the
same frequencies on every machine: square roots are rounded exactly, and lines are whole numbers.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from constriction import stream

LARGEST_LEVEL = 127  # of a count: 1 + 4·log2(2^31)
LONGEST_OUTLINE = 1 << 14  # symbols
FEW, SETTLED = 3, 256  # symbols to each that there is: of fewer, levels are worth a second look, in histograms so short that it takes no millisecond
RAREST = 4  # an outline tells counts down to 1/4
FINER = 16  # steps of a line to a level

_QUARTERS = np.array([1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429])  # 2^(i/4): written out, so the same everywhere
_FREQUENCIES = np.append(0.0, np.ldexp(_QUARTERS[np.arange(LARGEST_LEVEL) % 4], np.arange(LARGEST_LEVEL) // 4))  # the counts that levels stand for
_DIFFERENCES = 1 / (1.0 + np.abs(np.arange(-LARGEST_LEVEL, LARGEST_LEVEL + 1))) ** 2  # neighbouring counts are alike
_DIFFERENCE_BITS = np.log2(_DIFFERENCES.sum() / _DIFFERENCES)
_DIFFERENCE_MODEL = stream.model.Categorical(_DIFFERENCES, perfect=False)
_OCTAVE = 2 * FINER
_ROOT = functools.reduce(lambda number, _time: math.sqrt(number), range(_OCTAVE.bit_length() - 1), 2.0)  # 2^(1/32)
_FINE = np.array([_ROOT**0, *np.multiply.accumulate(np.full(_OCTAVE - 1, _ROOT))])


@dataclass(frozen=True)
class Outline:
    """A histogram of `length` symbols by the levels (k,) at its knots around the symbol `centre`, the last knot's first, since ends are alike.

    `bits` is what symbols and levels take under it.
    """

    length: int
    centre: int
    levels: np.ndarray
    bits: float = 0.0

    @staticmethod
    def of(counts: np.ndarray) -> Outline:
        """The best for these counts (n,), at least 4 of them, around the most frequent symbol, the first or the middle one."""
        tried = {int(counts.argmax()), 0, len(counts) // 2}
        best = min((Outline._around(counts, centre) for centre in sorted(tried)), key=lambda outline: outline.bits)
        return best._settled(counts) if len(counts) <= SETTLED and counts.sum() < FEW * len(counts) else best

    @staticmethod
    def _around(counts: np.ndarray, centre: int) -> Outline:
        knots, before, after, steps = _lines(len(counts), centre)
        share = steps / FINER  # of a symbol that counts towards the knot behind it
        weights = np.bincount(before, 1 - share, knots) + np.bincount(after, share, knots)
        means = (np.bincount(before, (1 - share) * counts, knots) + np.bincount(after, share * counts, knots)) / weights
        levels = np.rint(2 * np.log2(np.maximum(RAREST * means, 1))).astype(np.int32) + 1
        return Outline(len(counts), centre, levels)._weighed(counts)

    def _settled(self, counts: np.ndarray) -> Outline:
        """With each level moved by one where that takes fewer bits: of few symbols, means tell the levels roughly."""
        best = self
        for number in range(len(self.levels)):
            for step in (1, -1):
                levels = best.levels.copy()
                levels[number] = max(1, levels[number] + step)
                best = min(best, replace(best, levels=levels)._weighed(counts), key=lambda outline: outline.bits)
        return best

    def _weighed(self, counts: np.ndarray) -> Outline:
        return replace(self, bits=bits(counts, self.frequencies(), self.levels, even(int(counts.sum()), self.length)))

    def frequencies(self) -> np.ndarray:
        """float64 (length,), all above 0, up to a factor."""
        _knots, before, after, steps = _lines(self.length, self.centre)
        start = self.levels[before]
        fine = FINER * (start - 1) + (self.levels[after] - start) * steps
        return np.ldexp(_FINE[fine % _OCTAVE], fine // _OCTAVE)


@functools.lru_cache(maxsize=64)
def _lines(length: int, centre: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """How many knots an outline has, and of each symbol (n,) the knots before and behind it and how far it is between them, in steps of 1/`FINER`.

    Knots are numbered as an outline's levels stand: the last of them is 0.
    """
    apart = 1 << np.arange(length.bit_length())
    inner = np.concatenate([centre - apart, [centre], centre + apart])
    inner = inner[(inner > 0) & (inner < length - 1)]
    knots = np.unique(np.concatenate([[0, 1], inner, [length - 2, length - 1]]))
    symbols = np.arange(length)
    before = np.searchsorted(knots, symbols, side="right") - 1
    steps = FINER * (symbols - knots[before]) // np.diff(knots, append=length)[before]
    return len(knots), (before + 1) % len(knots), np.minimum(before + 2, len(knots)) % len(knots), steps


def knots(length: int, centre: int) -> int:
    """How many levels such an outline has."""
    return _lines(length, centre)[0]


def histogram(symbols: np.ndarray, low: int, high: int) -> np.ndarray:
    """How often each of low … high occurs in `symbols`; int64 (high − low + 1,)."""
    # torch counts int32 as it is; numpy would widen to int64 first and take four times as long.
    return torch.bincount(torch.from_numpy(np.subtract(symbols, low, dtype=np.int32)), minlength=high - low + 1).numpy()


def even(count: int, length: int) -> int:
    """An outline's level where `count` symbols are spread evenly over `length`, to the octave below."""
    return 1 + 2 * max(0, (RAREST * count // length).bit_length() - 1)


def full(counts: np.ndarray) -> np.ndarray:
    """The level of every count, int32: 1 + 4·log2(count), rounded; 0 for none."""
    levels = np.rint(4 * np.log2(np.maximum(counts, 1))).astype(np.int32) + 1
    levels[counts == 0] = 0
    return levels


def frequencies(levels: np.ndarray) -> np.ndarray:
    """float64 (n,) of a full table."""
    return _FREQUENCIES[levels]


def bits(counts: np.ndarray, frequencies: np.ndarray, levels: np.ndarray, start: int = 0) -> float:
    """Bits for symbols with these counts under these frequencies, which are above 0 where a count is, and for the levels themselves."""
    symbols = np.dot(counts, np.log2(frequencies.sum() / np.where(frequencies > 0, frequencies, 1)))
    return float(symbols + _DIFFERENCE_BITS[_differences(levels, start)].sum())


def model(frequencies: np.ndarray) -> stream.model.Model:
    return stream.model.Categorical(frequencies, perfect=False)


def encode(coder: stream.stack.AnsCoder, levels: np.ndarray, start: int = 0) -> None:
    """Push levels (k,), the first as its difference from `start`."""
    coder.encode_reverse(_differences(levels, start), _DIFFERENCE_MODEL)


def decode(coder: stream.stack.AnsCoder, count: int, start: int = 0) -> np.ndarray:
    """Pop `count` levels, int64; what was never encoded gives any numbers."""
    return start + np.cumsum(coder.decode(_DIFFERENCE_MODEL, count).astype(np.int64) - LARGEST_LEVEL)


def _differences(levels: np.ndarray, start: int) -> np.ndarray:
    """Each level less the one before, the first less `start`, as symbols of `_DIFFERENCE_MODEL`."""
    differences = levels + np.int32(LARGEST_LEVEL)
    differences[1:] -= levels[:-1]
    differences[:1] -= start
    return differences
