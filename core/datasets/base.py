"""What a dataset is: a source that says whether it is here, and four disjoint splits of pictures.

The sources are registered by their own files; `core.datasets.load` is what the engine calls. Imports no torch until
pictures are prepared.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.errors import BadField, NotHere
from core.keeping import kept
from core.recipe import digest
from core.registry import Registry

SPLITS = ("train", "calibration", "validation", "test")
CACHE_LIMIT_BYTES = 256 * 2**20
SPLIT_SEED = 20_240_501

Arrays = tuple[np.ndarray, np.ndarray]  # images (N, C, H, W) uint8, labels (N,) int64


@dataclass(frozen=True)
class Source:
    """One entry of the dataset registry. `missing()` is None when the pictures are here.

    `family` names the set of classes and held-out pictures: checkpoints belong to a family, so the embedded subset and
    the full set share them. `flip` says whether a mirrored picture still belongs to its class. `files` are what `read`
    decodes, and `labels` reads the labels alone: what a page needs, which must not wait for pictures.
    """

    name: str
    title: str
    family: str
    classes: tuple[str, ...]
    channels: int
    size: int
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    flip: bool
    read: Callable[[], dict[str, Arrays]] = field(repr=False)
    missing: Callable[[], NotHere | None] = field(repr=False, default=lambda: None)
    fetch: Callable[[], None] | None = field(repr=False, default=None)
    files: Callable[[], Sequence[Path]] | None = field(repr=False, default=None)
    labels: Callable[[], dict[str, np.ndarray]] | None = field(repr=False, default=None)
    fingerprint: str = ""  # known where `read` gives the splits in their final order
    own: bool = False  # a person brought it
    resize: int | None = None  # what the shorter side of a picture became before the middle `size` × `size` was cut out; None where pictures are squares

    def to_json(self) -> dict:
        absent = self.missing()
        return {
            "name": self.name, "title": self.title, "classes": list(self.classes), "channels": self.channels,
            "size": self.size, "input_size": self.input_size, "licence": self.licence,
            "here": absent is None, "reason": str(absent) if absent else "", "imported": self.own,
        }  # fmt: skip


DATASETS: Registry[Source] = Registry("dataset")


@dataclass(frozen=True)
class Split:
    """Pictures in a fixed, stratified order: the first n are a fair sample for every n."""

    images: np.ndarray  # (N, C, H, W) uint8
    labels: np.ndarray  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)


class Dataset:
    """The decoded splits of one source, with the preprocessing that a checkpoint expects."""

    def __init__(self, source: Source, splits: dict[str, Arrays]):
        self.source = source
        self._prepared: dict[tuple, object] = {}
        if source.fingerprint:
            self.splits, self.fingerprint = {name: Split(*splits[name]) for name in SPLITS}, source.fingerprint
            return
        self.splits = {name: _ordered(*splits[name]) for name in SPLITS}
        held_out = b"".join(self.splits[name].images.tobytes() + self.splits[name].labels.tobytes() for name in SPLITS)
        self.fingerprint = digest(held_out)

    def split(self, name: str) -> Split:
        if name not in SPLITS:
            raise BadField("split", name, "one of " + ", ".join(SPLITS))
        return self.splits[name]

    def prepare(self, images: np.ndarray, input_size: int):
        """uint8 (N, C, H, W) → normalised float32 (N, 3, S, S), channels_last.

        Pictures up to four pixels too small are padded with the mean; others are resized bilinearly.
        """
        import torch
        import torch.nn.functional as F

        source = self.source
        mean = torch.tensor(source.mean).view(1, -1, 1, 1)
        std = torch.tensor(source.std).view(1, -1, 1, 1)
        x = torch.from_numpy(np.ascontiguousarray(images)).float().div_(255).sub_(mean).div_(std)
        gap = input_size - source.size
        if 0 < gap <= 4:
            x = F.pad(x, (gap // 2, gap - gap // 2, gap // 2, gap - gap // 2))
        elif gap:
            x = F.interpolate(x, size=(input_size, input_size), mode="bilinear", antialias=gap < 0)
        return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

    def tensors(self, split: str, input_size: int, count: int | None = None):
        """The first `count` prepared pictures and labels of a split; kept in memory while they are small enough."""
        import torch

        part = self.split(split)
        count = len(part) if count is None else min(count, len(part))
        size = count * 3 * input_size**2 * 4
        if size > CACHE_LIMIT_BYTES:
            return None, torch.from_numpy(part.labels[:count])
        kept = self._prepared.get((split, input_size))
        if kept is None or len(kept) < count:
            kept = self._prepared[split, input_size] = self.prepare(part.images[:count], input_size)
        return kept[:count], torch.from_numpy(part.labels[:count])

    def batches(self, split: str, input_size: int, batch_size: int, count: int | None = None, start: int = 0):
        """Yield `(pictures, labels)` of the split's first `count` pictures, from `start` on, in order; of large pictures fewer at a time."""
        import torch

        batch_size = fitting(batch_size, input_size)
        images, labels = self.tensors(split, input_size, count)
        for at in range(start, len(labels), batch_size):
            end = min(at + batch_size, len(labels))
            chosen = images[at:end] if images is not None else self.prepare(self.split(split).images[at:end], input_size)
            yield chosen, torch.as_tensor(labels[at:end])


def fitting(batch_size: int, input_size: int) -> int:
    """As many pictures of a side above 64 pixels as have the pixels of `batch_size` that are 64 wide, at least 8: a turn stays short."""
    return min(batch_size, max(8, batch_size * 64**2 // input_size**2))


def stratified_order(labels: np.ndarray, seed: int = SPLIT_SEED) -> np.ndarray:
    """A permutation whose every prefix holds the classes in about their true proportions.

    labels (N,) → indices (N,) int64. The k-th shuffled picture of a class of n stands at (k + u) / n, u uniform.
    """
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + rng.random(len(members))) / len(members)
    return np.argsort(place, kind="stable")


def take(arrays: Arrays, order: np.ndarray) -> Arrays:
    return arrays[0][order], arrays[1][order]


def _ordered(images: np.ndarray, labels: np.ndarray) -> Split:
    labels = labels.astype(np.int64)
    order = stratified_order(labels)
    return Split(np.ascontiguousarray(images[order]), labels[order])


@functools.lru_cache(maxsize=2)
def load(name: str) -> Dataset:
    """The dataset of that name, decoded once a process; raises `NotHere` with the one action that gets it."""
    source = DATASETS.get(name)
    absent = source.missing()
    if absent:
        raise absent
    return Dataset(source, source.read())


def fingerprint(name: str) -> str:
    """`load(name).fingerprint`, without decoding a picture while the files, and the code that reads them, are those of the last time."""
    source = DATASETS.get(name)
    if source.files is None or source.missing():
        return load(name).fingerprint
    facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in (*source.files(), Path(__file__), Path(inspect.getfile(source.read)))]
    return _fingerprint(name, digest(repr(facts)))


@functools.lru_cache(maxsize=64)
def _fingerprint(name: str, files: str) -> str:
    found = kept.get_json("fingerprints", f"{name}-{files}.json")
    if found is None:
        found = {"fingerprint": load(name).fingerprint}
        kept.put("fingerprints", f"{name}-{files}.json", json.dumps(found).encode())
    return found["fingerprint"]


@functools.lru_cache(maxsize=8)
def labels(name: str, split: str) -> np.ndarray:
    """(N,) int64: `load(name).split(split).labels`, without decoding a picture where the source can. Shared: do not change them."""
    source = DATASETS.get(name)
    if source.labels is None or source.missing():
        return load(name).split(split).labels
    found = source.labels()[split].astype(np.int64)
    return found[stratified_order(found)]
