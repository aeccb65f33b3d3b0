"""A MNIST of a few pictures, where `datasets --fetch mnist` would leave the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.datasets import load


def put(home: Path) -> None:
    """scikit-learn's digits, grown to 28×28, 200 a split."""
    digits = load("digits")
    arrays = {}
    for split in ("train", "calibration", "validation", "test"):
        part = digits.split(split)
        grown = np.kron(part.images[:200], np.ones((1, 1, 4, 4), np.uint8))[:, :, 2:-2, 2:-2]
        arrays |= {f"{split}_images": grown, f"{split}_labels": part.labels[:200]}
    place = home / "datasets" / "mnist.npz"
    place.parent.mkdir(parents=True, exist_ok=True)
    np.savez(place, **arrays)
