"""A teacher's answers: the logits of a checkpoint for training pictures, as they are and mirrored; computed once and kept.

And its hints: the features that its classifier reads, for the same pictures.
"""

from __future__ import annotations

import contextlib

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from core import hints
from core.datasets import Dataset
from core.datasets.base import fitting
from core.keeping import kept
from core.training import classifier, logits_of, penultimate
from core.zoo import Checkpoint

BATCH = 64
LOGITS, FEATURES = "logits", "features"


def answers(checkpoint: Checkpoint, dataset: Dataset, images: int, turn=contextlib.nullcontext, report=lambda event: None) -> torch.Tensor:
    """Logits (2, n, K) float32 of the first n training pictures: [0] as they are, [1] mirrored."""
    return _kept(LOGITS, checkpoint, dataset, images, turn, report)


def features(checkpoint: Checkpoint, dataset: Dataset, images: int, turn=contextlib.nullcontext, report=lambda event: None) -> torch.Tensor:
    """What the classifier reads (2, n, W) float32 of the first n training pictures: [0] as they are, [1] mirrored.

    Raises `BadRecipe` when they would take too much memory (`core.hints`).
    """
    hints.check(checkpoint, dataset, images)
    return _kept(FEATURES, checkpoint, dataset, images, turn, report)


def _kept(kind: str, checkpoint: Checkpoint, dataset: Dataset, images: int, turn, report) -> torch.Tensor:
    pictures = dataset.split("train").images[:images]
    name = f"{checkpoint.hash}-{dataset.fingerprint}-{len(pictures)}{'' if kind == LOGITS else '-' + kind}.safetensors"
    stored = kept.get("teachers", name)
    if stored:
        try:
            return load_file(stored)[kind]
        except SafetensorError:
            kept.drop(stored)
    found = _computed(kind, checkpoint, dataset, pictures, turn, report)
    kept.put("teachers", name, save({kind: found}))
    return found.clone()


def _computed(kind: str, checkpoint: Checkpoint, dataset: Dataset, pictures, turn, report) -> torch.Tensor:
    module = checkpoint.load()
    parts: list[list[torch.Tensor]] = [[], []]
    batch = fitting(BATCH, checkpoint.input_size)
    with torch.inference_mode(), penultimate(classifier(module)) as seen:
        for start in range(0, len(pictures), batch):
            with turn():
                x = dataset.prepare(pictures[start : start + batch], checkpoint.input_size)
                for part, shown in zip(parts, (x, x.flip(3).contiguous(memory_format=torch.channels_last)), strict=True):
                    logits = logits_of(module(shown))
                    part.append(logits if kind == LOGITS else seen[0].clone())
            report({"fraction": min(1.0, (start + batch) / len(pictures))})
    return torch.stack([torch.cat(part) for part in parts])
