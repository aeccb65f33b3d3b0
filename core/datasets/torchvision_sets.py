"""CIFAR-10 and MNIST by torchvision.datasets: listed always, downloaded on request, never at import."""

from __future__ import annotations

import functools

import numpy as np

from core.datasets.base import DATASETS, Arrays, Source, stratified_order, take
from core.errors import NotHere
from core.home import home

CALIBRATION = 2_000


def _open(class_name: str, download: bool = False):
    import torchvision.datasets

    kind = getattr(torchvision.datasets, class_name)
    return [kind(str(home() / "datasets"), train=train, download=download) for train in (True, False)]


def read(class_name: str) -> dict[str, Arrays]:
    """The official training pictures less 2,000 for calibration; the official test pictures halved."""
    train, held_out = (_arrays(part) for part in _open(class_name))
    order, held_order = stratified_order(train[1]), stratified_order(held_out[1])
    half = len(held_order) // 2
    return {
        "calibration": take(train, order[:CALIBRATION]),
        "train": take(train, order[CALIBRATION:]),
        "validation": take(held_out, held_order[:half]),
        "test": take(held_out, held_order[half:]),
    }


def _arrays(part) -> Arrays:
    images = np.asarray(part.data)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images), np.asarray(part.targets, dtype=np.int64)


def missing(name: str, title: str, marker: str) -> NotHere | None:
    if (home() / "datasets" / marker).exists():
        return None
    return NotHere(title, "it has not been downloaded", f"Run `python -m core datasets --fetch {name}` while online.")


def _add(name: str, title: str, class_name: str, marker: str, **facts) -> None:
    DATASETS.add(
        name,
        Source(
            name=name, title=title, family=name, read=functools.partial(read, class_name),
            missing=functools.partial(missing, name, title, marker), fetch=functools.partial(_open, class_name, download=True), **facts,
        ),
    )  # fmt: skip


_add(
    "cifar10", "CIFAR-10", "CIFAR10", "cifar-10-batches-py", channels=3, size=32, input_size=32,
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), licence="Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html", flip=True,
)  # fmt: skip
_add(
    "mnist", "MNIST", "MNIST", "MNIST", channels=1, size=28, input_size=32, classes=tuple("0123456789"),
    mean=(0.1307,), std=(0.3081,), licence="CC BY-SA 3.0, LeCun, Cortes and Burges", flip=False,
)  # fmt: skip
