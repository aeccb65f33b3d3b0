"""Eigenvectors of a large symmetric matrix, in pieces of a few tenths of a second each.

LAPACK's own routine cannot be interrupted: for 4096 × 4096 it takes some twenty seconds. The steps here are its own: Householder
reflections to a tridiagonal matrix T, a panel of columns at a time (Dongarra et al. 1989, doi:10.1016/0377-0427(89)90367-1), LAPACK's
eigenvectors of T, some at a time, and the reflections on them. Called by `core.arithmetic.factors`; knows nothing of layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
from scipy.linalg import eigh_tridiagonal, eigvalsh_tridiagonal
from scipy.linalg.blas import dsymv

PANEL = 32  # columns that are reduced in one turn
VECTORS = 256  # eigenvectors of T in one turn
CLOSE = 1e-6  # times the largest: eigenvectors of eigenvalues farther apart come out orthogonal by themselves, to 1e-10
ORTHOGONAL = 1e-8  # at most, between two vectors of a piece
LEAST_LEFT = 0.1  # of the length of an eigenvector, when what others have found of its space is taken away
NO_LARGER = 1e-14  # times the largest: an eigenvalue of this size is 0 to the precision of float64
Turn = Callable[[], contextlib.AbstractContextManager]


def eigh(matrix: np.ndarray, turn: Turn = contextlib.nullcontext) -> tuple[np.ndarray, np.ndarray]:
    """matrix (n, n) float64, positive semidefinite → eigenvalues (n,), largest first, and eigenvectors (n, n) by column.

    The vectors of eigenvalues that are 0 to machine precision may be left 0. `turn` is entered around every piece. The matrix is not changed.
    """
    try:
        return _in_pieces(matrix, turn)
    except np.linalg.LinAlgError:  # hundreds of equal eigenvalues, which weights hardly have: the vectors of T do not converge, or overlap
        with turn():
            values, vectors = np.linalg.eigh(matrix)
            return values[::-1].copy(), np.ascontiguousarray(vectors[:, ::-1])


def _in_pieces(matrix: np.ndarray, turn: Turn) -> tuple[np.ndarray, np.ndarray]:
    diagonal, beside, reflections = _tridiagonal(matrix, turn)
    with turn():
        values = eigvalsh_tridiagonal(diagonal, beside)
    size = len(values)
    first = int(np.searchsorted(values, NO_LARGER * max(values[-1], 0.0), side="right"))
    vectors = np.zeros((size, size), order="F")
    for low, high in _pieces(values, first):
        with turn():
            _values, part = eigh_tridiagonal(diagonal, beside, select="i", select_range=(low, high - 1), lapack_driver="stemr")
            near = int(np.searchsorted(values[first:low], values[low] - CLOSE * values[-1])) + first
            vectors[:, low:high] = _apart(part, vectors[:, near:low]) if near < low else part
            if np.abs(part.T @ part - np.eye(high - low)).max() > ORTHOGONAL:
                raise np.linalg.LinAlgError("the vectors of a cluster are not orthogonal")
    for start, panel, triangle in reversed(reflections):
        for low in range(first, size, 8 * VECTORS):
            with turn():
                part = vectors[start:, low : low + 8 * VECTORS]
                part -= panel @ (triangle @ (panel.T @ part))
    with turn():
        return values[::-1].copy(), np.ascontiguousarray(vectors[:, ::-1])


def _tridiagonal(matrix: np.ndarray, turn: Turn) -> tuple[np.ndarray, np.ndarray, list[tuple]]:
    """Diagonal (n,) and subdiagonal (n − 1,) of T = Qᵀ·M·Q, and Q as a product of blocks I − V·S·Vᵀ that act on rows from `start` on."""
    size = len(matrix)
    diagonal, beside, reflections = np.zeros(size), np.zeros(max(size - 1, 0)), []
    rest = np.asfortranarray(matrix)
    for start in range(0, size, PANEL):
        with turn():
            width = min(PANEL, size - start)
            panel, made = np.zeros((size - start, width), order="F"), np.zeros((size - start, width), order="F")  # V and W: M − V·Wᵀ − W·Vᵀ
            scales = np.zeros(width)
            for at in range(width):
                column = rest[at:, at] - panel[at:, :at] @ made[at, :at] - made[at:, :at] @ panel[at, :at]
                diagonal[start + at] = column[0]
                if len(column) == 1:
                    continue
                reflector, scales[at], beside[start + at] = _reflector(column[1:])
                panel[at + 1 :, at] = reflector
                product = dsymv(1.0, rest, panel[:, at], lower=1)
                product -= panel[:, :at] @ (made[:, :at].T @ panel[:, at]) + made[:, :at] @ (panel[:, :at].T @ panel[:, at])
                product *= scales[at]
                product -= 0.5 * scales[at] * (product @ panel[:, at]) * panel[:, at]
                made[at + 1 :, at] = product[at + 1 :]
            below, left = panel[width:], made[width:]
            rest = np.asfortranarray(rest[width:, width:] - below @ left.T - left @ below.T)
            reflections.append((start, panel, _triangle(panel, scales)))
    return diagonal, beside, reflections


def _reflector(column: np.ndarray) -> tuple[np.ndarray, float, float]:
    """v with v_0 = 1, and s, β such that (I − s·v·vᵀ)·column = β·e_0; s = 0 where the column is that already."""
    norm = float(np.linalg.norm(column))
    reflector = np.zeros_like(column)
    reflector[0] = 1.0
    if norm == abs(column[0]):
        return reflector, 0.0, float(column[0])
    beta = -np.copysign(norm, column[0])
    reflector[1:] = column[1:] / (column[0] - beta)
    return reflector, float((beta - column[0]) / beta), float(beta)


def _triangle(panel: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """S (k, k), upper triangular, with H_0·H_1·…·H_{k−1} = I − V·S·Vᵀ for H_i = I − s_i·v_i·v_iᵀ."""
    inner = panel.T @ panel
    triangle = np.diag(scales)
    for at in range(1, len(scales)):
        triangle[:at, at] = -scales[at] * (triangle[:at, :at] @ inner[:at, at])
    return triangle


def _apart(part: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Eigenvectors (n, k) made orthogonal to those of nearly the same eigenvalues that another piece has found.

    Raises `LinAlgError` where little is left of one: both pieces have found the same direction of a space that many share.
    """
    for _ in range(2):
        part, triangle = np.linalg.qr(part - near @ (near.T @ part))
        if np.abs(np.diag(triangle)).min() < LEAST_LEFT:
            raise np.linalg.LinAlgError("the pieces of a cluster overlap")
    return part


def _pieces(values: np.ndarray, first: int) -> list[tuple[int, int]]:
    """Ranges of about `VECTORS` eigenvalues from number `first` on, cut where neighbours lie farthest apart."""
    found, low = [], first
    while low < len(values):
        high = len(values)
        if high - low > 2 * VECTORS:
            near = np.arange(low + VECTORS // 2, low + 3 * VECTORS // 2)
            high = int(near[np.argmax(np.diff(values)[near - 1])])
        found.append((low, high))
        low = high
    return found
