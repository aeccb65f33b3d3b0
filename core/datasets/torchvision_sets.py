"""CIFAR, SVHN and the MNISTs by torchvision.datasets: small pictures, listed always, downloaded on request, never at import."""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

import numpy as np

from core.datasets import class_names
from core.datasets.base import DATASETS, SPLITS, Arrays, Source, stratified_order, take
from core.errors import NotHere
from core.home import home, write_whole

CALIBRATION = 2_000


def place(name: str) -> Path:
    """The decoded splits, written once after the download; whole or not there."""
    return home() / "datasets" / f"{name}.npz"


def fetch(name: str, class_name: str) -> None:
    """Download by torchvision, which checks what it finds, and write the decoded splits: reading them imports no torch.

    The official training pictures less 2,000 for calibration; the official test pictures halved.
    """
    import torchvision.datasets

    kind = getattr(torchvision.datasets, class_name)
    train, held_out = (_arrays(kind(str(home() / "datasets"), **_part(class_name, part), download=True)) for part in ("train", "test"))
    order, held_order = stratified_order(train[1]), stratified_order(held_out[1])
    half = len(held_order) // 2
    splits = {
        "calibration": take(train, order[:CALIBRATION]), "train": take(train, order[CALIBRATION:]),
        "validation": take(held_out, held_order[:half]), "test": take(held_out, held_order[half:]),
    }  # fmt: skip
    packed = io.BytesIO()
    images = {f"{split}_images": found for split, (found, _labels) in splits.items()}
    labels = {f"{split}_labels": found for split, (_images, found) in splits.items()}
    np.savez(packed, **images, **labels)
    write_whole(place(name), packed.getvalue())


def read(name: str, title: str) -> dict[str, Arrays]:
    try:
        with np.load(place(name), allow_pickle=False) as stored:
            return {split: (stored[f"{split}_images"], stored[f"{split}_labels"]) for split in SPLITS}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise NotHere(title, f"{place(name)} is damaged", f"Run `python -m core datasets --fetch {name}` again.") from None


def _part(class_name: str, part: str) -> dict:
    return {"split": part} if class_name == "SVHN" else {"train": part == "train"}


def _arrays(part) -> Arrays:
    images = np.asarray(part.data)
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[1] != 3:  # SVHN's colours come first already
        images = images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images), np.asarray(part.labels if hasattr(part, "labels") else part.targets, np.int64)


def missing(name: str, title: str) -> NotHere | None:
    if place(name).exists():
        return None
    return NotHere(title, "it has not been downloaded", f"Run `python -m core datasets --fetch {name}` while online.")


def _add(name: str, title: str, class_name: str, **facts) -> None:
    DATASETS.add(
        name,
        Source(
            name=name, title=title, family=name, read=functools.partial(read, name, title), missing=functools.partial(missing, name, title),
            fetch=functools.partial(fetch, name, class_name), **facts,
        ),
    )  # fmt: skip


_add(
    "cifar10", "CIFAR-10", "CIFAR10", channels=3, size=32, input_size=32,
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), licence="Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html", flip=True,
)  # fmt: skip
_add(
    "mnist", "MNIST", "MNIST", channels=1, size=28, input_size=32, classes=tuple("0123456789"),
    mean=(0.1307,), std=(0.3081,), licence="CC BY-SA 3.0, LeCun, Cortes and Burges", flip=False,
)  # fmt: skip
_add(
    "kmnist", "Kuzushiji-MNIST", "KMNIST", channels=1, size=28, input_size=32, classes=class_names.KMNIST,
    mean=(0.1918,), std=(0.3483,), licence="CC BY-SA 4.0, ROIS-DS Center for Open Data in the Humanities, https://codh.rois.ac.jp/kmnist", flip=False,
)  # fmt: skip
_add(
    "cifar100", "CIFAR-100", "CIFAR100", channels=3, size=32, input_size=32, classes=class_names.CIFAR100,
    mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762), licence="Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html", flip=True,
)  # fmt: skip
_add(
    "svhn", "SVHN", "SVHN", channels=3, size=32, input_size=32, classes=tuple("0123456789"),
    mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970), licence="for non-commercial use, Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers",
    flip=False,
)  # fmt: skip
