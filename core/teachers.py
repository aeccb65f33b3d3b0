"""A teacher's answers: the logits of a checkpoint for training pictures, as they are and mirrored; computed once and kept."""

from __future__ import annotations

import contextlib

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from core import kept
from core.datasets import Dataset
from core.training import logits_of
from core.zoo import Checkpoint

BATCH = 64


def answers(checkpoint: Checkpoint, dataset: Dataset, images: int, turn=contextlib.nullcontext, report=lambda event: None) -> torch.Tensor:
    """Logits (2, n, K) float32 of the first n training pictures: [0] as they are, [1] mirrored."""
    pictures = dataset.split("train").images[:images]
    name = f"{checkpoint.hash}-{dataset.fingerprint}-{len(pictures)}.safetensors"
    stored = kept.get("teachers", name)
    if stored:
        try:
            return load_file(stored)["logits"]
        except SafetensorError:
            kept.drop(stored)
    module = checkpoint.load()
    parts: list[list[torch.Tensor]] = [[], []]
    with torch.inference_mode():
        for start in range(0, len(pictures), BATCH):
            with turn():
                x = dataset.prepare(pictures[start : start + BATCH], checkpoint.input_size)
                parts[0].append(logits_of(module(x)))
                parts[1].append(logits_of(module(x.flip(3).contiguous(memory_format=torch.channels_last))))
            report({"fraction": min(1.0, (start + BATCH) / len(pictures))})
    logits = torch.stack([torch.cat(part) for part in parts])
    kept.put("teachers", name, save({"logits": logits}))
    return logits.clone()
