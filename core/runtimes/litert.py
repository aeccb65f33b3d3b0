"""LiteRT, which runs TensorFlow Lite files, one picture at a time. Optional: `missing()` says how to get it. Imports no torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from core.errors import BadInput, NotHere

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

RUNS, CONVERTS = "ai_edge_litert", "litert_torch"


def missing(converting: bool = True) -> NotHere | None:
    """None when files can be run here, and made too where that is wanted."""
    wanted = (RUNS, CONVERTS, "ai_edge_quantizer") if converting else (RUNS,)
    if all(importlib.util.find_spec(name) for name in wanted):
        return None
    action = "`.venv/bin/python -m pip install --requirement requirements-litert.txt` gets it."
    return NotHere("TensorFlow Lite", "it is optional, and about 1 GB", action)


def name() -> str:
    """The runtime with its version, as a measurement names it."""
    try:
        return f"ai-edge-litert {version('ai-edge-litert')}"
    except PackageNotFoundError:
        return "ai-edge-litert"


def interpreter(model: bytes, threads: int = 1) -> Interpreter:
    """A file, ready to run; raises `NotHere` without LiteRT, `BadInput` for a file that it cannot run, such as one with an operator that it lacks."""
    absent = missing(converting=False)
    if absent:
        raise absent
    from ai_edge_litert.interpreter import Interpreter

    try:
        opened = Interpreter(model_content=model, num_threads=threads)
        opened.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0][:200].rstrip(". ")
        raise BadInput(f"LiteRT cannot run this file: {reason}; take ONNX instead.") from None
    return opened


def logits(opened: Interpreter, pictures) -> np.ndarray:
    """pictures (B, 3, S, S) float32, torch or numpy → logits (B, K) float32; the file takes one picture at a time."""
    runner = opened.get_signature_runner()
    (given,), (gives,) = runner.get_input_details(), runner.get_output_details()
    pictures = np.asarray(pictures)  # (B, 3, S, S)
    return np.concatenate([runner(**{given: np.ascontiguousarray(picture[None], np.float32)})[gives] for picture in pictures])


def predict(opened: Interpreter, batches: Iterable) -> np.ndarray:
    """The most probable label (n,) uint16 of every picture in the batches."""
    return np.concatenate([logits(opened, batch).argmax(1).astype(np.uint16) for batch in batches])
