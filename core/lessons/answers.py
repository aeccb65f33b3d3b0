"""A teacher's answers to a few pictures, to show what a temperature does to them: shipped for the shipped checkpoints.

`python -m core.lessons.answers` writes assets/answers.json anew after checkpoints have changed. An answer belongs to the hash of its
checkpoint; one of another checkpoint is not shown. Reading imports no torch.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import struct
import sys
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from core import zoo
from core.home import ASSETS, write_whole
from core.recipe import digest
from core.zoo import Checkpoint

FILE = ASSETS / "answers.json"
LOOKED_AT, BATCH = 300, 50  # validation pictures
DOUBTFUL, SURE = 0.75, 0.97  # probabilities of the most probable class


@functools.cache
def _shipped() -> dict[str, dict]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def find(checkpoint: Checkpoint) -> dict | None:
    """`logits` (K floats), `names` (K), `label` and `picture` (a data URL) of one validation picture; None when there is none."""
    return _shipped().get(checkpoint.hash)


def identity(checkpoint: Checkpoint, dataset_name: str) -> str:
    """Under which the cluster keeps the answers of a checkpoint that has none shipped."""
    return digest(f"answers {checkpoint.hash} {dataset_name}")


def several(first: Mapping | None) -> list[dict]:
    """`label`, `logits`, `number` and `picture` of the few pictures in what `make` returned; empty when there is nothing."""
    return [{name: first[name] for name in ("number", "label", "logits", "picture")}, *first["others"]] if first else []


def make(checkpoint: Checkpoint, dataset_name: str, turn: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext) -> dict:
    """The answer to the picture that is told right, but only just: where softening shows most. `others` are those that `choose` adds.

    `turn` is entered around every batch and may wait, or raise `Cancelled`.
    """
    import torch

    from core.datasets import load

    dataset = load(dataset_name)
    split = dataset.split("validation")
    parts = []
    with turn():
        module = checkpoint.load()
    with torch.inference_mode():
        for x, _labels in dataset.batches("validation", checkpoint.input_size, BATCH, min(LOOKED_AT, len(split))):
            with turn():
                parts.append(module(x))
    logits = torch.cat(parts)  # (n, K)
    first, *others = (
        {"number": number, "label": int(split.labels[number]), "logits": [round(float(value), 3) for value in logits[number]],
         "picture": picture(split.images[number])}
        for number in choose(logits.softmax(1).numpy(), split.labels[: len(logits)])
    )  # fmt: skip
    return {"model": checkpoint.model, "dataset": dataset_name, "names": list(dataset.source.classes)} | first | {"others": others}


def choose(answers: np.ndarray, labels: np.ndarray) -> list[int]:
    """Of probabilities (n, K) and labels (n,): pictures told right with some doubt, one told wrong, one that is sure. No class twice."""
    right, best = answers.argmax(1) == labels, answers.max(1)
    chosen: list[int] = []
    for wanted, about in ((right, DOUBTFUL), (right, DOUBTFUL), (~right, DOUBTFUL), (right, DOUBTFUL), (right & (best >= SURE), SURE)):
        new = wanted & ~np.isin(labels, labels[chosen])
        if new.any():
            chosen.append(int(np.argmin(np.where(new, np.abs(best - about), np.inf))))
    return chosen or [0]


def picture(image: np.ndarray) -> str:
    """(C, H, W) uint8 with one or three channels → a PNG as a data URL (https://www.w3.org/TR/png)."""
    channels, height, width = image.shape
    lines = image.transpose(1, 2, 0).reshape(height, -1)
    raw = b"".join(b"\0" + line.tobytes() for line in lines)  # filter type 0 before each line
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(raw, 9)) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def build() -> int:
    """Write the answers of every shipped checkpoint; returns how many."""
    found = {}
    for checkpoint in zoo.checkpoints():
        if ASSETS in checkpoint.path.parents:
            found[checkpoint.hash] = make(checkpoint, checkpoint.family)
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in found.items())
    write_whole(FILE, f"{{\n{lines}\n}}\n".encode())
    return len(found)


if __name__ == "__main__":
    print(f"{build()} answers written to {FILE}", file=sys.stderr)
