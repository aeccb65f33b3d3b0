"""Fashion-MNIST: the embedded subset in assets/, and the full set when this machine has it.

Both have the same calibration, validation and test pictures: the splits are cut from the original files by one fixed
order, and `python -m core datasets --embed` writes the subset from the original idx files.
"""

from __future__ import annotations

import gzip
import math
import shutil
import zlib
from pathlib import Path

import numpy as np

from core.datasets.base import DATASETS, SPLITS, Arrays, Source, stratified_order, take
from core.errors import NotHere, ParetoscopeError
from core.home import ASSETS, home

SUBSET = ASSETS / "datasets" / "fashion_mnist.npz"
SYSTEM = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CALIBRATION, SUBSET_TRAIN = 2_000, 10_000
KINDS = ("images-idx3", "labels-idx1")


def read_idx(path: Path) -> np.ndarray:
    """One gzipped idx file (http://yann.lecun.com/exdb/mnist) as uint8; raises when its header does not fit its length."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error):
        data = b""
    start = 4 + 4 * data[3] if len(data) > 3 else 4
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    if data[:3] != b"\0\0\x08" or len(data) - start != math.prod(shape):
        raise ParetoscopeError(f"{path} is not a whole idx file of bytes; fetch the dataset again.")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def originals() -> Path | None:
    """The folder with the four original files: the system package's, or the downloaded one."""
    for folder in (SYSTEM, home() / "datasets" / "FashionMNIST" / "raw"):
        if all((folder / f"{part}-{kind}-ubyte.gz").exists() for part in ("train", "t10k") for kind in KINDS):
            return folder
    return None


def read_full() -> dict[str, Arrays]:
    """train 58,000 (the 60,000 less the calibration pictures), calibration 2,000, validation 5,000, test 5,000."""
    folder = originals()
    train, held_out = (
        (read_idx(folder / f"{part}-images-idx3-ubyte.gz")[:, None], read_idx(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int64))
        for part in ("train", "t10k")
    )
    order, held_order = stratified_order(train[1]), stratified_order(held_out[1])
    return {
        "calibration": take(train, order[:CALIBRATION]),
        "train": take(train, order[CALIBRATION:]),
        "validation": take(held_out, held_order[:5_000]),
        "test": take(held_out, held_order[5_000:]),
    }


def read_subset() -> dict[str, Arrays]:
    with np.load(SUBSET, allow_pickle=False) as stored:
        return {name: (stored[f"{name}_images"], stored[f"{name}_labels"].astype(np.int64)) for name in SPLITS}


def subset_labels() -> dict[str, np.ndarray]:
    with np.load(SUBSET, allow_pickle=False) as stored:
        return {name: stored[f"{name}_labels"] for name in SPLITS}


def missing_full() -> NotHere | None:
    if originals():
        return None
    return NotHere(
        "Full Fashion-MNIST", "its original files were found neither in the system's datasets nor among the downloads",
        "Run `python -m core datasets --fetch fashion_mnist_full`, or install the Debian package dataset-fashion-mnist.",
    )  # fmt: skip


def missing_subset() -> NotHere | None:
    if SUBSET.exists():
        return None
    return NotHere("Fashion-MNIST", f"{SUBSET} does not exist", "Run `git checkout -- assets/datasets` in the checkout.")


def fetch() -> None:
    """Download the original files by torchvision into the home folder, anew: it takes a part of a file for the whole."""
    from torchvision.datasets import FashionMNIST

    shutil.rmtree(home() / "datasets" / "FashionMNIST", ignore_errors=True)
    FashionMNIST(str(home() / "datasets"), download=True)


def write_subset(path: Path = SUBSET) -> None:
    """Cut the embedded subset from the original files: 10,000 + 2,000 training pictures and all 10,000 held-out ones."""
    splits = read_full()
    splits["train"] = take(splits["train"], np.arange(SUBSET_TRAIN))
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"{name}_images": images for name, (images, _labels) in splits.items()}
    arrays |= {f"{name}_labels": labels.astype(np.uint8) for name, (_images, labels) in splits.items()}
    np.savez_compressed(path, **arrays)


_SHARED = dict(
    family="fashion_mnist", classes=CLASSES, channels=1, size=28, input_size=32, mean=(0.286,), std=(0.353,),
    licence="MIT, Zalando Research, https://github.com/zalandoresearch/fashion-mnist", flip=True,
)  # fmt: skip
DATASETS.add(
    "fashion_mnist",
    Source(
        name="fashion_mnist", title="Fashion-MNIST", read=read_subset, missing=missing_subset,
        files=lambda: [SUBSET], labels=subset_labels, **_SHARED,
    ),
)  # fmt: skip
DATASETS.add(
    "fashion_mnist_full",
    Source(
        name="fashion_mnist_full", title="Fashion-MNIST, full", read=read_full, missing=missing_full, fetch=fetch,
        files=lambda: [originals() / f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in KINDS], **_SHARED,
    ),
)  # fmt: skip
