"""The grids that a weight can lie on: uniform, signs with a scale, a codebook, a smaller float. Each holds codes, and says what they are worth.

Every grid can stand for exact 0, except the two values of a binary one, where the mask does. Scales and codebooks are
frozen when a step makes them; training moves a weight's latent value, and a codebook's entries.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float8": torch.float8_e4m3fn}
LARGEST_FLOAT8 = 448.0
AT_ONCE = 1 << 16  # numbers whose intermediate results fit the processor's cache
CELLS = 1 << 14  # in which a border between two entries is looked up
KINDS: dict[str, type[Grid]] = {}


class Grid(ABC):
    """What the kinds of grid share. `codes` has the weight's shape; `bits` is what one code takes without entropy coding."""

    kind: ClassVar[str]
    codes: Tensor
    bits: int

    def __init_subclass__(cls):
        KINDS[cls.kind] = cls

    @abstractmethod
    def value(self) -> Tensor:
        """The float32 weight that the codes stand for."""

    @abstractmethod
    def round(self, latent: Tensor) -> Grid:
        """The same grid with the codes that are nearest to `latent`."""

    def rounding(self) -> nn.Module:
        """A module from a latent weight to its value, differentiable, for training. It may have parameters of its own."""
        return _Through(self)

    def after(self, trained: nn.Module, latent: Tensor) -> Grid:
        """The grid once `rounding()`'s module was trained and the latent weight has become `latent`."""
        return self.round(latent)

    @property
    @abstractmethod
    def table_bytes(self) -> float:
        """What scales, zero points or a codebook take beside the codes."""

    @abstractmethod
    def parts(self) -> tuple[dict[str, Tensor], dict]:
        """Everything but the codes, as tensors and as JSON; `KINDS[kind](codes, **tensors, **facts)` makes the grid again."""


@dataclass(frozen=True)
class Uniform(Grid):
    """value = (codes − zero_point) · scale.

    codes int16, within ±2^(bits−1); scale float32 and zero_point int16, of one shape: one that broadcasts against the
    weight, as (1, 1, 1, 1) for a tensor or model scale and (C, 1, 1, 1) for one a channel, or, with `group`, (C, G):
    one for every `group` consecutive inputs of each output. A symmetric grid has zero_point 0 and 2^bits − 1 levels.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: int
    symmetric: bool
    group: int | None = None

    kind: ClassVar[str] = "grid"

    @staticmethod
    def of(latent: Tensor, scale: Tensor, zero_point: Tensor, bits: int, symmetric: bool, group: int | None = None) -> Uniform:
        """`latent` rounded to the grid of these scales and zero points."""
        return Uniform(torch.empty(0), scale, zero_point, bits, symmetric, group).round(latent)

    @property
    def low(self) -> int:
        return -(2 ** (self.bits - 1)) + (1 if self.symmetric else 0)

    @property
    def high(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def spread(self, numbers: Tensor, like: Tensor) -> Tensor:
        """Scales or zero points in a shape that broadcasts against `like`."""
        if self.group is None:
            return numbers
        return numbers.repeat_interleave(self.group, 1)[:, : like[0].numel()].reshape(like.shape)

    def value(self) -> Tensor:
        scale = self.spread(self.scale, self.codes)
        if not self.zero_point.any():
            return self.codes.to(scale.dtype).mul_(scale)
        return (self.codes.int() - self.spread(self.zero_point, self.codes)) * scale  # int: 16-bit differences do not fit int16

    def round(self, latent: Tensor) -> Uniform:
        factor, zero = (self.spread(numbers, latent) for numbers in (1 / self.scale, self.zero_point))

        def codes_of(part: Tensor, factor: Tensor, zero: Tensor) -> Tensor:
            codes = (part * factor).round_()
            if not self.symmetric:
                codes += zero
            return codes.clamp_(self.low, self.high)

        return replace(self, codes=_in_parts(codes_of, latent, factor, zero))

    def rounding(self) -> nn.Module:
        return _Straight(self)

    @property
    def table_bytes(self) -> float:
        return self.scale.numel() * (4 + (self.bits / 8 if self.zero_point.any() else 0))

    def parts(self) -> tuple[dict[str, Tensor], dict]:
        return {"scale": self.scale, "zero_point": self.zero_point}, {"bits": self.bits, "symmetric": self.symmetric, "group": self.group}


class _OnGrid(nn.Module):
    """A rounding whose grid goes with it to the device that it is trained on."""

    def __init__(self, grid: Grid):
        super().__init__()
        self.grid = grid

    def _apply(self, fn, recurse: bool = True):
        tensors = {part.name: fn(value) for part in fields(self.grid) if isinstance(value := getattr(self.grid, part.name), Tensor)}
        self.grid = replace(self.grid, **tensors)
        return super()._apply(fn, recurse)


class _Straight(_OnGrid):
    """Rounds going forward; going backward the gradient is 1 inside the grid's range and 0 outside (arXiv:1308.3432)."""

    def forward(self, latent: Tensor) -> Tensor:
        grid = self.grid
        scale, zero = grid.spread(grid.scale, latent), grid.spread(grid.zero_point.int(), latent)  # 16 bits less a zero point leave 16 bits
        inside = latent.clamp((grid.low - zero) * scale, (grid.high - zero) * scale)
        with torch.no_grad():
            offset = torch.round(inside / scale) * scale - inside
        return inside + offset


class _Through(_OnGrid):
    """Rounds going forward, and passes the gradient everywhere."""

    def forward(self, latent: Tensor) -> Tensor:
        with torch.no_grad():
            offset = self.grid.round(latent).value() - latent
        return latent + offset


@dataclass(frozen=True)
class Signs(Grid):
    """value = codes · scale, codes −1 and 1 (1 bit), or −1, 0 and 1 (2 bits) where 0 stands for |latent| ≤ threshold.

    codes int16; scale and threshold float32 of one shape that broadcasts against the weight. The gradient passes everywhere, as
    networks of such weights are trained (arXiv:1602.02830, 1605.04711): half of the latent weights lie beyond the scale.
    """

    codes: Tensor
    scale: Tensor
    threshold: Tensor
    bits: int

    kind: ClassVar[str] = "signs"

    def value(self) -> Tensor:
        return self.codes * self.scale

    def round(self, latent: Tensor) -> Signs:
        def codes_of(part: Tensor, threshold: Tensor) -> Tensor:
            signs = part.sign().add_(0.5).sign_()  # of 0 it is 1
            return signs if self.bits == 1 else signs.mul_(above(part.abs(), threshold))

        return replace(self, codes=_in_parts(codes_of, latent, self.threshold))

    @property
    def table_bytes(self) -> float:
        return 4 * self.scale.numel()

    def parts(self) -> tuple[dict[str, Tensor], dict]:
        return {"scale": self.scale, "threshold": self.threshold}, {"bits": self.bits}


@dataclass(frozen=True)
class Codebook(Grid):
    """value = entries[codes]. codes int16; entries float32 (K + 1,), the first of them 0, the others ascending.

    Weights of several layers may hold the same `entries` tensor: a codebook of the whole model, stored once.
    """

    codes: Tensor
    entries: Tensor

    kind: ClassVar[str] = "codebook"

    @property
    def bits(self) -> int:
        return max(1, math.ceil(math.log2(max(2, len(self.entries) - 1))))

    def value(self) -> Tensor:
        from core.weights import flat, unflat

        return unflat(self.entries.index_select(0, flat(self.codes).int()), self.codes)

    def round(self, latent: Tensor) -> Codebook:
        return replace(self, codes=nearest(latent, self.entries))

    def rounding(self) -> nn.Module:
        return _Entries(self)

    def after(self, trained: nn.Module, latent: Tensor) -> Codebook:
        """The trained entries, ascending again; a weight stays with its cluster."""
        entries = trained.full().detach()
        order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + entries[1:].argsort(stable=True)])
        return Codebook(torch.argsort(order)[self.codes.long()].to(torch.int16), entries[order])

    @property
    def table_bytes(self) -> float:
        return 4 * (len(self.entries) - 1)

    def parts(self) -> tuple[dict[str, Tensor], dict]:
        return {"entries": self.entries}, {}


class _Entries(nn.Module):
    """A weight as the entries of its codebook: the gradient of an entry is the sum over its weights (arXiv:1510.00149, section 3.3)."""

    def __init__(self, grid: Codebook):
        super().__init__()
        self.register_buffer("codes", grid.codes.long(), persistent=False)
        self.of = id(grid.entries)  # weights of one codebook learn together
        self.learned = nn.Parameter(grid.entries[1:].clone())

    def full(self) -> Tensor:
        return torch.cat([self.learned.new_zeros(1), self.learned])

    def forward(self, latent: Tensor) -> Tensor:
        return _Gather.apply(self.full(), self.codes)


class _Gather(torch.autograd.Function):
    """entries[codes]; indexing's own backward pass sorts the codes, which takes fifty times as long as this sum.

    The sum is the processor's on every device: MPS has no float64, and CUDA adds in another order each time.
    """

    @staticmethod
    def forward(ctx, entries: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(codes)
        ctx.count = len(entries)
        return entries[codes]

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (codes,) = ctx.saved_tensors
        sums = torch.bincount(codes.reshape(-1).cpu(), gradient.reshape(-1).cpu().double(), minlength=ctx.count)
        return sums.to(gradient.dtype).to(gradient.device), None


@dataclass(frozen=True)
class Floats(Grid):
    """value = codes as float32 · scale: a float of 16 or 8 bits. codes of that type; scale float32 (1,), a power of two, 1 for 16 bits."""

    codes: Tensor
    scale: Tensor
    dtype: str

    kind: ClassVar[str] = "floats"

    @property
    def bits(self) -> int:
        return 8 if self.dtype == "float8" else 16

    def value(self) -> Tensor:
        return (self.codes.float() * self.scale).add_(0.0)  # adding 0 turns −0 into +0

    def round(self, latent: Tensor) -> Floats:
        scaled = latent.float() / self.scale
        limit = LARGEST_FLOAT8 if self.dtype == "float8" else torch.finfo(FLOATS[self.dtype]).max
        return replace(self, codes=scaled.clamp(-limit, limit).add_(0.0).to(FLOATS[self.dtype]))

    @property
    def table_bytes(self) -> float:
        return 4.0 if self.dtype == "float8" else 0.0

    def parts(self) -> tuple[dict[str, Tensor], dict]:
        return {"scale": self.scale}, {"dtype": self.dtype}

    @staticmethod
    def of(latent: Tensor, dtype: str) -> Floats:
        """`latent` in the smaller type; for 8 bits scaled by the power of two that just brings the largest within range."""
        largest = float(latent.abs().max()) if latent.numel() else 0.0
        scale = 2.0 ** math.ceil(math.log2(largest / LARGEST_FLOAT8)) if dtype == "float8" and largest > 0 else 1.0
        return Floats(torch.empty(0), torch.tensor([scale]), dtype).round(latent)


def _in_parts(codes_of: Callable[..., Tensor], latent: Tensor, *numbers: Tensor) -> Tensor:
    """int16 codes of `latent`, some outputs at a time, so that what is between them and the latent weights stays in the processor's cache.

    `numbers` broadcast against `latent`; `codes_of` is given a part of it, and the same part of each of them.
    """
    if not latent.dim():
        return codes_of(latent, *numbers).to(torch.int16)
    codes = torch.empty_like(latent, dtype=torch.int16)
    several = at_once(latent)
    for start in range(0, len(latent), several):
        part = slice(start, start + several)
        codes[part] = codes_of(latent[part], *(number[part] if number.dim() == latent.dim() and len(number) > 1 else number for number in numbers))
    return codes


def at_once(latent: Tensor) -> int:
    """How many outputs of a weight (C, …) to compute with at a time."""
    return max(1, AT_ONCE * len(latent) // max(1, latent.numel()))


def above(sizes: Tensor, threshold: Tensor) -> Tensor:
    """1.0 where `sizes` are greater than `threshold`, else 0.0; three times as fast as by comparing, which makes bools."""
    return torch.sub(sizes, threshold).clamp_(min=0).sign_()


def nearest(latent: Tensor, entries: Tensor) -> Tensor:
    """int16 codes of the entries (K + 1,) nearest to `latent`; 0 stands for exact 0 only, which the first entry is."""
    from core.weights import flat, unflat

    clusters, row = entries[1:], flat(latent)
    between = (clusters[1:] + clusters[:-1]) / 2
    codes = _ranges(row, between).add_(1)
    return unflat(codes.mul_(row != 0), latent)


def _ranges(row: Tensor, borders: Tensor) -> Tensor:
    """How many of the ascending borders (K,) lie below each number (n,), int16.

    Of many numbers it is looked up in equal cells, each with at most one border: a quarter of the time of a search. What decides on which side of its border
    a number lies is the comparison alone; the cells only have to ascend with the numbers, as float arithmetic does.
    """
    low, width = borders[:1], (borders[-1:] - borders[:1]) / CELLS

    def cell(numbers: Tensor) -> Tensor:
        return ((numbers - low) / width).clamp_(0, CELLS - 1).int()

    if row.numel() > 8 * CELLS and len(borders) > 1 and float(width) > 0:
        within = cell(borders).long()
        if (within.diff() > 0).all():
            below = torch.zeros(CELLS + 1, dtype=torch.int16).index_fill_(0, within + 1, 1).cumsum(0, dtype=torch.int16)[:CELLS]
            border = torch.full((CELLS,), math.inf).index_copy_(0, within, borders)
            codes = torch.empty(row.shape, dtype=torch.int16)
            for part, found in zip(row.split(AT_ONCE), codes.split(AT_ONCE), strict=True):
                at = cell(part) & (CELLS - 1)  # also of what is not a number
                torch.add(below.index_select(0, at), part > border.index_select(0, at), out=found)
            return codes
    return torch.bucketize(row, borders, out_int32=True).to(torch.int16)
