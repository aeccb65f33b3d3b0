"""What one layer's weight looks like before and after a recipe: its histogram with the marks of what was done, where it is zero, its singular values.

Tensors in, plain numbers out: lists, and bytes in base64 for the picture. Called by `core.layers.facts`.
"""

from __future__ import annotations

import base64
import contextlib
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.arithmetic.factors import shorter, spectrum
from core.arithmetic.grids import LARGEST_FLOAT8, Codebook, Floats, Grid, Signs, Uniform
from core.weights import Weight, flat

BINS = 96
MOST_MARKS = 64  # more levels than this are no lines any more
PICTURE = 128  # cells a side, at most
MOST_ROWS = 2048  # of a weight whose singular values are computed: beyond it takes minutes


def effective(layer: nn.Module) -> Tensor | None:
    """The weight that a layer amounts to: its own, or that of the factors in its place multiplied out; None where there is none of that form.

    Two factors (r, I, h, w) and (O, r, 1, 1), or three as in `core.arithmetic.factors`, give (O, I, h, w); linear ones (O, I).
    """
    if not isinstance(layer, nn.Sequential):
        weight = getattr(layer, "weight", None)
        return (weight if weight is not None else layer.in_proj_weight).detach()
    parts = [part.weight.detach() for part in layer]
    if parts[0].dim() == 2:
        return parts[1] @ parts[0]
    if len(parts) == 2:
        return torch.einsum("or,rihw->oihw", parts[1].flatten(1), parts[0])
    return torch.einsum("ob,bahw,ai->oihw", parts[2].flatten(1), parts[1], parts[0].flatten(1))


def histogram(before: Tensor | None, after: Tensor | None) -> dict:
    """Counts of both over the same bins: `low`, `high`, `before` and `after` (lists, or None); exact zeros are counted apart, as `zeros`.

    A pruned weight is nearly all zeros, and their bar would leave no room for the others.
    """
    given = [flat(value).numpy() for value in (before, after) if value is not None]
    ends = [float(end) for row in given if row.size for end in (row.min(), row.max())]
    low, high = (min(ends), max(ends)) if ends and max(ends) > min(ends) else (-1.0, 1.0)
    counted = {}
    for name, value in (("before", before), ("after", after)):
        row = None if value is None else flat(value).numpy()
        counted[name] = None if row is None else np.histogram(row[row != 0], BINS, (low, high))[0].tolist()
    zeros = [0 if value is None else int(value.numel() - np.count_nonzero(flat(value).numpy())) for value in (before, after)]
    return {"low": low, "high": high, **counted, "zeros": zeros}


def marks(before: Tensor | None, weight: Weight | None) -> list[dict]:
    """What to draw into the histogram, each with `kind`, `values` and `said`, a short text."""
    found = [] if weight is None or before is None else _threshold(before, weight)
    return found + ([] if weight is None or weight.grid is None else _levels(weight.grid))


def _threshold(before: Tensor, weight: Weight) -> list[dict]:
    """The size below which every weight was pruned and from which on every one was kept; nothing where another score decided."""
    mask = weight.mask
    if mask is None or mask.shape != before.shape or mask.all() or not mask.any():
        return []
    size = before.abs()
    pruned, kept = float(size[~mask].max()), float(size[mask].min())
    if pruned > kept:
        return []
    return [{"kind": "threshold", "values": [-kept, kept], "said": f"pruned below {kept:.3g}"}]


def _levels(grid: Grid) -> list[dict]:
    """The values that a grid or codebook has; of one with many scales those of the middle scale."""
    if isinstance(grid, Codebook):
        entries = grid.entries[1:]
        return [{"kind": "centroids", "values": _few(entries), "said": f"{len(entries)} shared values"}]
    if isinstance(grid, Floats):
        return [_float_ends(grid)]
    middle = float(grid.scale.flatten().double().quantile(0.5, interpolation="nearest"))
    scales = grid.scale.numel()
    where = "" if scales == 1 else f", those of the middle one of {scales:,} scales"
    if isinstance(grid, Signs):
        levels = torch.tensor([-middle, middle] if grid.bits == 1 else [-middle, 0.0, middle])
    else:
        assert isinstance(grid, Uniform)
        at = int((grid.scale.flatten().double() - middle).abs().argmin())
        zero = int(grid.zero_point.flatten()[at])
        levels = (torch.arange(grid.low, grid.high + 1) - zero) * middle
    return [{"kind": "grid", "values": _few(levels), "said": f"{len(levels):,} levels of {grid.bits} bit{'s' if grid.bits > 1 else ''}{where}"}]


def _float_ends(grid: Floats) -> dict:
    """The ends of a float that is scaled to the weights; those of 16 bits lie too far out to draw."""
    if grid.dtype != "float8":
        return {"kind": "grid", "values": [], "said": f"{grid.dtype}, unscaled"}
    scale = float(grid.scale)
    end = LARGEST_FLOAT8 * scale
    return {"kind": "grid", "values": [-end, end], "said": f"float8_e4m3, scale {scale:.3g}, up to ±{end:.3g}"}


def _few(levels: Tensor) -> list[float]:
    """All levels, or only the ends where they are too many to draw."""
    levels = levels if len(levels) <= MOST_MARKS else levels[[0, -1]]
    return [float(level) for level in levels]


def picture(value: Tensor) -> dict:
    """Where a weight is not zero, as a matrix of outputs × inputs: the share of each cell, 0…255, of at most `PICTURE` cells a side.

    value (O, I) or (O, I, h, w), read as (O, I·h·w). `rows`, `columns`, and `shares`, the bytes row by row in base64.
    """
    matrix = (value != 0).float().reshape(len(value), -1)
    rows, columns = min(PICTURE, matrix.shape[0]), min(PICTURE, matrix.shape[1])
    shares = F.adaptive_avg_pool2d(matrix[None, None], (rows, columns))[0, 0]
    return {"rows": rows, "columns": columns, "shares": base64.b64encode((255 * shares).round().byte().numpy().tobytes()).decode()}


def singular_values(value: Tensor, turn=contextlib.nullcontext) -> list[float] | None:
    """Of the weight as a matrix (O, I·h·w), largest first; None for a matrix too large to wait for."""
    if min(len(value), value[0].numel()) > MOST_ROWS:
        return None
    squares = spectrum(value, shorter, turn).squares
    return [math.sqrt(float(square)) for square in squares]
