"""Low-rank factors of a layer: which forms there are, the layers they consist of, and the arithmetic that finds their values.

    ["svd", r]         linear layer (O, I)         linear I → r,        linear r → O
                       convolution (O, I, h, w)    h×w convolution I → r, 1×1 convolution r → O
    ["tucker", a, b]   convolution (O, I, h, w)    1×1 convolution I → a, h×w convolution a → b, 1×1 convolution b → O

`core.models.architecture` describes factored networks by these forms; the step `factorize` chooses them and asks for the values.
Knows neither steps nor architectures.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.arithmetic import eigen
from core.keeping.remembered import Remembered

SVD, TUCKER = "svd", "tucker"
RANKS = {SVD: 1, TUCKER: 2}
PIECE = 2_000_000_000  # multiply-adds in float64: about 0.1 s of one thread
WHOLE = 1280  # rows up to which LAPACK finds all eigenvectors within half a second
REMEMBERED_BYTES = 192 * 1024**2
Turn = Callable[[], contextlib.AbstractContextManager]


def factor_shapes(form: list, weight: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes of the factors' weights, in the order in which they run, of a weight (O, I) or (O, I, h, w)."""
    method, *ranks = form
    outputs, inputs, *kernel = weight
    point = (1,) * len(kernel)
    if method == SVD:
        return [(ranks[0], inputs, *kernel), (outputs, ranks[0], *point)]
    return [(ranks[0], inputs, *point), (ranks[1], ranks[0], *kernel), (outputs, ranks[1], *point)]


def saves(form: list, weight: tuple[int, ...]) -> bool:
    """Whether the factors hold fewer numbers than the weight."""
    return sum(map(math.prod, factor_shapes(form, weight))) < math.prod(weight)


def is_form(value: object, weight: tuple[int, ...]) -> bool:
    """Whether `value`, which may be anything, is a form for this weight that makes it smaller, and so bounds the ranks."""
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        return False
    method, *ranks = value
    if len(ranks) != RANKS.get(method) or not all(isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1 for rank in ranks):
        return False
    return (method == SVD or spatial(weight)) and saves(value, weight)


def spatial(weight: tuple[int, ...]) -> bool:
    """A kernel of more than one place; the Tucker form of any other has one factor too many."""
    return len(weight) == 4 and weight[2:] != (1, 1)


def put_factors(module: nn.Module, path: str, form: list) -> nn.Sequential:
    """Replace the layer at `path` by factors, their weights on the meta device; the last takes over the layer's own bias.

    The factor with the kernel has the stride, padding and dilation; padding with zeros stays right, as a 1×1 convolution
    without a bias makes 0 of 0.
    """
    layer = module.get_submodule(path)
    shapes = factor_shapes(form, tuple(layer.weight.shape))
    parts = [_part(layer, shape, number == len(shapes) - 2) for number, shape in enumerate(shapes)]
    parts[-1].bias = layer.bias
    factors = nn.Sequential(*parts).train(layer.training)
    owner, _, name = path.rpartition(".")
    setattr(module.get_submodule(owner), name, factors)
    return factors


def _part(layer: nn.Module, shape: tuple[int, ...], moves: bool) -> nn.Module:
    """One factor; of a convolution's, the one that `moves` over the picture as the whole layer does."""
    outputs, inputs = shape[:2]
    if isinstance(layer, nn.Linear):
        return nn.Linear(inputs, outputs, bias=False, device="meta")
    if not moves:
        return nn.Conv2d(inputs, outputs, 1, bias=False, device="meta")
    return nn.Conv2d(
        inputs, outputs, layer.kernel_size, layer.stride, layer.padding, layer.dilation, padding_mode=layer.padding_mode, bias=False, device="meta"
    )


@dataclass(frozen=True)
class Spectrum:
    """Of a matrix M (m, n): squared singular values (m,) float64, largest first, and left singular vectors (m, m) float32, by column."""

    squares: Tensor
    vectors: Tensor

    def rank_keeping(self, share: float) -> int:
        """The smallest rank that keeps this share of the sum of the squares, which is the squared norm of M; at least 1."""
        kept = self.squares.cumsum(0)
        return min(len(kept), int((kept < share * kept[-1]).sum()) + 1)


def spectrum(weight: Tensor, side: Callable[[Tensor], Tensor], turn: Turn = contextlib.nullcontext) -> Spectrum:
    """The spectrum of a weight unfolded by `side`: `by_output`, `by_input` or `shorter`.

    The last ones are remembered, because they depend on neither the energy nor the rank that a slider asks for.
    """
    with turn():
        stored = _places_first(weight).contiguous().numpy()
        key = (side.__name__, tuple(weight.shape), hashlib.blake2b(stored, digest_size=16).digest())
    return _SPECTRA.get(key, lambda: _spectrum(side(weight), turn))


_SPECTRA: Remembered[Spectrum] = Remembered(REMEMBERED_BYTES, lambda known: 4 * known.vectors.numel())


def _spectrum(matrix: Tensor, turn: Turn) -> Spectrum:
    """By the eigenvectors of M·Mᵀ (m, m) in float64, exact to float32's precision: for 512×4608, a seventh of the time of an SVD."""
    rows = len(matrix)
    gram = torch.zeros(rows, rows, dtype=torch.float64)
    for part in matrix.split(max(1, PIECE // rows**2), dim=1):
        with turn():
            part = part.double()
            gram.addmm_(part, part.T)
    if rows > WHOLE:
        found = eigen.eigh(gram.numpy(), turn)
        with turn():
            squares, vectors = map(torch.from_numpy, found)
            return Spectrum(squares.clamp_(min=0), vectors.float())
    with turn():
        squares, vectors = torch.linalg.eigh(gram)
        return Spectrum(squares.flip(0).clamp_(min=0), vectors.flip(1).float())


def by_output(weight: Tensor) -> Tensor:
    """(O, I) as it is; (O, I, h, w) → (O, h·w·I), which is no copy for channels_last."""
    return _places_first(weight).reshape(len(weight), -1)


def by_input(kernel: Tensor) -> Tensor:
    """(O, I, h, w) → (I, O·h·w)."""
    return kernel.transpose(0, 1).reshape(kernel.shape[1], -1)


def shorter(weight: Tensor) -> Tensor:
    """`by_output`, or its transpose where that has fewer rows."""
    matrix = by_output(weight)
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _places_first(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1) if weight.dim() == 4 else weight


def _kernels(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `by_output`, to a weight of this shape."""
    if len(shape) == 2:
        return matrix
    rows, inputs, height, width = shape
    return matrix.reshape(rows, height, width, inputs).permute(0, 3, 1, 2)


def svd(weight: Tensor, rank: int, side: Spectrum, turn: Turn = contextlib.nullcontext) -> list[Tensor]:
    """The factors' weights of the best approximation of this rank, `side` being the weight's spectrum by `shorter`.

    With W = U·S·Vᵀ as a matrix (O, h·w·I), the first is S_r½·V_rᵀ (r, I, h, w) and the last U_r·S_r½ (O, r, 1, 1); linear layers alike.
    """
    matrix, vectors = by_output(weight), side.vectors[:, :rank]
    wide = matrix.shape[0] <= matrix.shape[1]
    long = matrix if wide else matrix.T  # (m, n), m ≤ n
    projected = torch.empty(rank, long.shape[1])
    columns = max(1, 2 * PIECE // (rank * len(vectors)))
    for low in range(0, long.shape[1], columns):
        with turn():
            projected[:, low : low + columns] = vectors.T @ long[:, low : low + columns]
    first, last = (projected, vectors) if wide else (vectors.T, projected.T)
    shapes = factor_shapes([SVD, rank], tuple(weight.shape))
    return _finished(weight, [_kernels(first, shapes[0]), _kernels(last, shapes[1])], turn)


def tucker(
    kernel: Tensor, ranks: tuple[int, int], by_input_side: Spectrum, by_output_side: Spectrum, rounds: int, turn: Turn = contextlib.nullcontext
) -> list[Tensor]:
    """The factors' weights of kernel (O, I, h, w) ≈ core ×_I A ×_O B, A (I, a) and B (O, b) with orthonormal columns: Tucker-2.

    The higher-order SVD first: A and B are the leading vectors of both unfoldings. Then so many rounds of higher-order
    orthogonal iteration (De Lathauwer et al. 2000): the leading vectors of one unfolding as the other side is projected.
    """
    a, b = ranks
    into, out = by_input_side.vectors[:, :a], by_output_side.vectors[:, :b]  # (I, a), (O, b)
    for _ in range(rounds):
        with turn():
            projected = by_input(_along_output(kernel, out))  # (I, b·h·w)
        into = _spectrum(projected, turn).vectors[:, :a]
        with turn():
            projected = by_output(_along_input(kernel, into))  # (O, a·h·w)
        out = _spectrum(projected, turn).vectors[:, :b]
    with turn():
        core = _along_output(_along_input(kernel, into), out)  # (b, a, h, w)
    return _finished(kernel, [into.T[:, :, None, None], core, out[:, :, None, None]], turn)


def _along_output(kernel: Tensor, basis: Tensor) -> Tensor:
    """kernel (O, I, h, w), basis (O, b) → (b, I, h, w)."""
    return _kernels(basis.T @ by_output(kernel), (basis.shape[1], *kernel.shape[1:]))


def _along_input(kernel: Tensor, basis: Tensor) -> Tensor:
    """kernel (O, I, h, w), basis (I, a) → (O, a, h, w)."""
    return (_places_first(kernel) @ basis).permute(0, 3, 1, 2)


def _finished(weight: Tensor, parts: list[Tensor], turn: Turn) -> list[Tensor]:
    """The parts made equally large; inputs and outputs that the weight ignores are ignored exactly."""
    shape = tuple(weight.shape)
    with turn():
        used = by_output(weight) != 0
        reads = _kernels(used.any(0, keepdim=True), (1, *shape[1:]))  # (1, I, h, w)
        makes = used.any(1).view(-1, *(1,) * (len(shape) - 1))
    with turn():
        parts[0] = parts[0] * (reads if parts[0].shape[1:] == shape[1:] else reads.any(-1, keepdim=True).any(-2, keepdim=True))
    with turn():
        parts[-1] = parts[-1] * makes
    for number in range(len(parts) - 1):
        with turn():
            parts[number], parts[number + 1] = _balanced(parts[number], parts[number + 1])
    return parts


def _balanced(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with each channel between two factors scaled so that what makes it and what reads it have one norm.

    Grids, thresholds and learning rates then treat both alike (as arXiv:1906.04721 does for layers).
    """
    _outputs, _channels, *places = range(first.dim())
    makes, reads = (torch.linalg.vector_norm(part, dim=(side, *places)) for part, side in ((first, 1), (second, 0)))  # (r,)
    ratio = torch.where((makes > 0) & (reads > 0), (reads / makes).sqrt(), torch.ones_like(makes))
    return first * ratio.view(-1, *(1,) * (first.dim() - 1)), second / ratio.view(1, -1, *(1,) * (second.dim() - 2))
