"""Eigenvectors in pieces, against numpy's own, on the spectra that make such algorithms stumble."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest

from core.arithmetic import eigen


def matrix_of(spectrum: np.ndarray, seed: int = 0) -> np.ndarray:
    """Symmetric, with these eigenvalues and random eigenvectors."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(spectrum), len(spectrum))))
    return (basis * spectrum) @ basis.T


def gram(rows: int, columns: int) -> np.ndarray:
    matrix = np.random.default_rng(rows).standard_normal((rows, columns))
    return matrix @ matrix.T


MATRICES = {
    "random": lambda: gram(333, 1000),
    "of low rank": lambda: gram(300, 40),
    "nearly diagonal": lambda: np.diag(np.arange(200.0)) + 1e-9,
    "diagonal": lambda: np.diag(np.arange(100.0)),
    "all alike": lambda: np.eye(97) * 3,
    "clusters": lambda: matrix_of(np.repeat([5.0, 1.0, 0.1], [100, 150, 51])),
    "hundreds alike": lambda: matrix_of(np.repeat([2.0, 1.0], [210, 490])),
    "falling fast": lambda: matrix_of(0.9 ** np.arange(320)),
    "one panel": lambda: gram(20, 50),
    "zero": lambda: np.zeros((70, 70)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_values_and_vectors_are_numpys(name, monkeypatch):
    monkeypatch.setattr(eigen, "VECTORS", 32)  # several pieces of everything
    matrix = MATRICES[name]()
    matrix = (matrix + matrix.T) / 2
    before, largest = matrix.copy(), np.abs(matrix).max() or 1.0
    values, vectors = eigen.eigh(matrix)
    assert np.array_equal(matrix, before)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1], atol=1e-11 * largest * len(matrix))
    found = vectors.any(0)
    assert found[values > 1e-9 * largest].all()
    np.testing.assert_allclose(vectors[:, found].T @ vectors[:, found], np.eye(int(found.sum())), atol=1e-9)
    np.testing.assert_allclose((vectors * values) @ vectors.T, matrix, atol=1e-10 * largest * len(matrix))


def test_no_piece_takes_long():
    """Every turn is a small part of the whole."""
    lasted = []

    @contextlib.contextmanager
    def turn():
        started = time.process_time()
        yield
        lasted.append(time.process_time() - started)

    eigen.eigh(gram(1280, 1340), turn)  # small ones have few pieces, of which the longest swings
    assert len(lasted) > 40 and max(lasted) < 0.25 * sum(lasted)
