"""What goes with a file: preprocessing and class names as JSON, and the scripts that read both. Imports no torch."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from core.datasets import Source
    from core.exports.formats import Format
    from core.work import Work

PADDED = 4  # pictures at most so much too small are padded rather than resized, as in `core.datasets.base`


def sheet(source: Source, input_size: int, work: Work, format: Format) -> dict:
    """Everything that a program needs to run the file: the pictures that it takes, how they are prepared, and the names of its answers.

    x = (pixel / 255 − mean) / std, then fit · x · fitᵀ where there is a `fit`, then the channel of a grey picture three times.
    """
    return {
        "model": work.model, "dataset": work.dataset, "format": format.name, "run": work.identity(),
        "recipe": work.recipe.to_json(), "classes": list(source.classes),
        "input": [1 if format.suffix == ".tflite" else None, 3, input_size, input_size],
        "picture": {"size": source.size, "resize": source.resize or source.size, "channels": source.channels},
        "mean": list(source.mean), "std": list(source.std),
        "preparation": _words(source, input_size), "fit": fit(source.size, input_size),
    }  # fmt: skip


def fit(size: int, input_size: int) -> list[list[float]] | None:
    """The matrix (S, n) that brings n rows (and columns) of a picture to S: padding by 0, else bilinear, with antialiasing where it shrinks."""
    gap = input_size - size
    if gap == 0:
        return None
    if 0 < gap <= PADDED:
        return np.eye(input_size, size, -(gap // 2)).tolist()
    scale = max(1.0, size / input_size)
    centres = (np.arange(input_size)[:, None] + 0.5) * size / input_size  # (S, 1)
    weights = np.clip(1 - np.abs(np.arange(size) + 0.5 - centres) / scale, 0, None)
    return (weights / weights.sum(1, keepdims=True)).tolist()


def _words(source: Source, input_size: int) -> str:
    gap = input_size - source.size
    cut = f" from the middle, after the shorter side became {source.resize}" if source.resize else ""
    shape = f"{source.size}×{source.size} pixels{cut}" + (", grey" if source.channels == 1 else ", red, green, blue")
    fitted = "" if gap == 0 else f", then {gap // 2} zeros on each side" if 0 < gap <= PADDED else f", then resized to {input_size}×{input_size}, bilinear"
    return f"{shape}; pixel / 255, less mean, divided by std{fitted}{', then the one channel three times' if source.channels == 1 else ''}"


def scripts(format: Format) -> dict[str, bytes]:
    """Suffix → script: what runs the file, and what checks it in continuous integration."""
    folder = files("core.exports") / "scripts"
    return {".py": (folder / format.script).read_bytes(), ".check.py": (folder / "check.py").read_bytes()}
