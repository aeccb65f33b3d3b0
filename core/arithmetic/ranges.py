"""Where a uniform grid is clipped: from rows of numbers to scales and zero points, by four estimators.

minmax covers every number. percentile leaves out the outermost share. mse and entropy try shrunken ranges and keep the one whose
rounding loses least: in squares, or in information (the divergence between the histograms before and after, as TensorRT chooses). A few
numbers have no histogram to speak of: short rows, as those of groups, are shrunk alike, by the histogram of all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

SHRINK = tuple(1 - 0.05 * step for step in range(15))  # 1.00 … 0.30 of the full range
OUTERMOST = 0.001  # of the numbers, that percentile leaves out on each side that the grid has
BINS = 256  # of a histogram, from the lowest number to the highest
FEWEST = 64  # numbers of a row that a sample leaves
TOGETHER = 1 << 20  # numbers of short rows that their one histogram is taken of
CACHED = 1 << 18  # numbers of a long row whose errors are worked out together, within the processor's cache
AT_ONCE = 1 << 22  # numbers, or bins of histograms, that are looked at together
Turn = Callable[[], contextlib.AbstractContextManager]


def fit(
    rows: Tensor,
    bits: int,
    symmetric: bool,
    clipping: str = "minmax",
    power_of_two: bool = False,
    sample: int | None = None,
    turn: Turn = contextlib.nullcontext,
) -> tuple[Tensor, Tensor]:
    """rows (R, n) → scale (R,) float32 and zero point (R,) int16.

    Scales of a fixed-point grid are powers of two, rounded up. With `sample`, the error is taken over about so many evenly spaced numbers instead
    of all, though over no fewer than `FEWEST` of a row, and fewer ranges are tried. Each range is tried inside a `turn` of its own.
    """
    span = lambda low, high: spanning(low, high, bits, symmetric, power_of_two)
    with turn():
        low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)  # (R,)
        if symmetric:
            high = torch.maximum(high, -low)
            low = -high
        if clipping == "minmax" or (clipping == "entropy" and 2**bits > 2 * BINS):  # so many levels tell all bins apart
            return span(low, high)
        if sample is not None:
            rows = rows[:, :: max(1, min(rows.numel() // sample, rows.shape[1] // FEWEST))].contiguous()
        if clipping == "percentile":
            return span(*_percentile(rows, low, high, symmetric))
    tried = SHRINK if sample is None else SHRINK[::3]
    if clipping == "entropy" and rows.shape[1] < BINS:
        share = _alike(rows, low, high, bits, symmetric, tried, turn)
        return span(share * low, share * high)
    several = max(1, AT_ONCE // max(rows.shape[1], BINS))
    found = []
    for part, least, most in zip(rows.split(several), low.split(several), high.split(several), strict=True):
        with turn():
            loss = _squares(part, bits, symmetric) if clipping == "mse" else _divergence(part, least, most, bits, symmetric)
        found.append(_shrunk([(least * shrink, most * shrink) for shrink in tried], span, loss, turn))
    scales, zeros = zip(*found, strict=True)
    return torch.cat(scales), torch.cat(zeros)


def _shrunk(ranges: list[tuple[Tensor, Tensor]], span: Callable, loss: Callable, turn: Turn) -> tuple[Tensor, Tensor]:
    """Of each row (R,) the scale and zero point of that range, the first of equals, of which least is lost."""
    with turn():
        best = span(*ranges[0])
        least = loss(*best)
    for low, high in ranges[1:]:
        with turn():
            candidate = span(low, high)
            error = loss(*candidate)
            better = error < least
            least = torch.where(better, error, least)
            best = (torch.where(better, candidate[0], best[0]), torch.where(better, candidate[1], best[1]))
    return best


def _alike(rows: Tensor, low: Tensor, high: Tensor, bits: int, symmetric: bool, tried: tuple[float, ...], turn: Turn) -> float:
    """The one shrink of rows [low, high] by which the least information is lost over all their numbers, each as a share of its row's farther end."""
    with turn():
        ends = torch.maximum(high, -low).clamp(min=1e-30)
        least, most = (low / ends).amin(0, keepdim=True), (high / ends).amax(0, keepdim=True)  # (1,)
        stride = 1 | -(-rows.numel() // TOGETHER)  # odd, so that it meets every place of a row
        together = (rows / ends[:, None]).reshape(1, -1)[:, ::stride]
        loss = _divergence(together, least, most, bits, symmetric)
        lost = [float(loss(*spanning(least * share, most * share, bits, symmetric))) for share in tried]
    return tried[lost.index(min(lost))]


def spanning(low: Tensor, high: Tensor, bits: int, symmetric: bool, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """The scale and zero point whose grid spans [low, high] (R,); scale 1 and zero point 0 where a row is all zero."""
    scale = (high - low) / (2**bits - (2 if symmetric else 1))
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    if power_of_two:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    if symmetric:
        return scale, torch.zeros_like(scale, dtype=torch.int16)
    least = -(2 ** (bits - 1))
    zero = torch.round(least - low / scale).clamp(least, -least - 1)
    return scale, zero.to(torch.int16)


def _ends(bits: int, symmetric: bool) -> tuple[int, int]:
    half = 2 ** (bits - 1)
    return -half + (1 if symmetric else 0), half - 1


def _squares(rows: Tensor, bits: int, symmetric: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """Scales and zero points (R,) → squared rounding error of each row (R,)."""
    low, high = _ends(bits, symmetric)
    short = rows.shape[1] < BINS
    parts = [rows.t().contiguous()] if short else rows.split(CACHED, 1)  # short rows side by side: what is computed together lies together

    def error(scale: Tensor, zero: Tensor) -> Tensor:
        zero = zero.float()
        if not short:
            scale, zero = scale[:, None], zero[:, None]
        squares = (((part / scale).round_().clamp_(low - zero, high - zero).mul_(scale).sub_(part)).square_() for part in parts)
        return sum(each.sum(0 if short else 1) for each in squares)

    return error


def _percentile(rows: Tensor, low: Tensor, high: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The ends (R,) that leave out the outermost of the numbers of each row that are not 0; rows with few of them keep all."""
    left_out = (OUTERMOST * (rows != 0).sum(1, keepdim=True).double()).round().long()  # (R, 1)
    most = int(left_out.max())
    if most == 0:
        return low, high
    outermost = lambda numbers: numbers.topk(most + 1, 1).values.gather(1, left_out)[:, 0]
    if symmetric:
        end = outermost(rows.abs())
        return -end, end
    return -outermost(-rows).clamp(min=0), outermost(rows).clamp(min=0)


def _divergence(rows: Tensor, low: Tensor, high: Tensor, bits: int, symmetric: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """Scales and zero points (R,) → KL divergence (R,) of each row's histogram once it is clipped, from the one that rounding leaves.

    What rounding maps to one level is spread evenly over the bins that were not empty before, as in NVIDIA's "8-bit inference with
    TensorRT" (2017), which arXiv:2004.09602 compares.
    """
    first, last = _ends(bits, symmetric)
    width = ((high - low) / BINS).clamp(min=1e-30)[:, None]  # (R, 1)
    bins = ((rows - low[:, None]) / width).long().clamp_(0, BINS - 1)
    counts = torch.zeros(len(rows), BINS).scatter_add_(1, bins, torch.ones_like(rows))
    centres = low[:, None] + (torch.arange(BINS) + 0.5) * width  # (R, BINS)

    def divergence(scale: Tensor, zero: Tensor) -> Tensor:
        scale, zero = scale[:, None], zero[:, None].float()
        inside = centres.clamp((first - zero) * scale, (last - zero) * scale)
        clipped = torch.zeros_like(counts).scatter_add_(1, ((inside - low[:, None]) / width).long().clamp_(0, BINS - 1), counts)  # P
        level = ((inside / scale).round_() + zero - first).long().clamp_(0, last - first)  # (R, BINS)
        within = (centres == inside) & (counts > 0)
        mass = torch.zeros(len(counts), last - first + 1).scatter_add_(1, level, counts * within)
        shares = torch.zeros_like(mass).scatter_add_(1, level, within.float())
        left = torch.where(within, (mass / shares.clamp(min=1)).gather(1, level), torch.zeros(()))  # Q
        p, q = clipped / clipped.sum(1, keepdim=True).clamp(min=1), left / left.sum(1, keepdim=True).clamp(min=1)
        return torch.where(p > 0, p * (p.clamp(min=1e-12) / q.clamp(min=1e-6)).log(), torch.zeros(())).sum(1)

    return divergence
