"""Imagenette, Flowers102 and Oxford-IIIT Pet by torchvision.datasets: photographs, prepared as for ImageNet and decoded once into files.

Listed always, downloaded on request. Listing and reading them imports no torch.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Callable
from pathlib import Path

from core.datasets import class_names, decoded
from core.datasets.base import DATASETS, Source
from core.datasets.folder import Listing, Pictures, stratified
from core.datasets.preparation import Preparation
from core.errors import NotHere
from core.home import folder, home

CALIBRATION = 2_000  # pictures at most, and a tenth of the training pictures


def _imagenette(root: str, part: str) -> tuple[tuple[str, ...], Pictures]:
    from torchvision.datasets import Imagenette

    found = Imagenette(root, split=part, download=not (Path(root) / "imagenette2").exists())
    return tuple(names[0] for names in found.classes), found._samples


def _flowers(root: str, part: str) -> tuple[tuple[str, ...], Pictures]:
    from torchvision.datasets import Flowers102

    found = Flowers102(root, split=part, download=True)
    return tuple(found.classes), list(zip(found._image_files, found._labels, strict=True))


def _pets(root: str, part: str) -> tuple[tuple[str, ...], Pictures]:
    from torchvision.datasets import OxfordIIITPet

    found = OxfordIIITPet(root, split=part, download=True)
    return tuple(found.classes), list(zip(found._images, found._labels, strict=True))


# name → title, classes, licence, what torchvision calls the parts that train, validation and test come from, and how they are read
LISTED: dict[str, tuple[str, tuple[str, ...], str, tuple[str, ...], Callable]] = {
    "imagenette": (
        "Imagenette", class_names.IMAGENETTE, "Apache 2.0, https://github.com/fastai/imagenette; the pictures are of ImageNet", ("train", "val"), _imagenette,
    ),
    "flowers102": (
        "Flowers102", class_names.FLOWERS102, "Nilsback and Zisserman 2008, https://www.robots.ox.ac.uk/~vgg/data/flowers/102", ("train", "val", "test"),
        _flowers,
    ),
    "oxford_pets": ("Oxford-IIIT Pet", class_names.OXFORD_PETS, "CC BY-SA 4.0, https://www.robots.ox.ac.uk/~vgg/data/pets", ("trainval", "test"), _pets),
}  # fmt: skip


def sources() -> dict[str, Source]:
    """name → what was decoded, or an entry that says how to get it."""
    return {name: _source(name) for name in LISTED}


def _source(name: str) -> Source:
    title, _classes, licence, *_rest = LISTED[name]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # not there, or half removed: it can be fetched
        found = decoded.source(home() / "datasets" / name / decoded.FACTS, title, licence, fetch=_fetcher(name))
        if found.missing() is None:
            return found
    return _absent(name)


@functools.cache
def _fetcher(name: str) -> Callable[[], None]:
    return functools.partial(fetch, name)


@functools.cache
def _absent(name: str) -> Source:
    title, classes, licence, *_rest = LISTED[name]
    usual = Preparation()
    missing = NotHere(title, "it has not been downloaded", f"Run `python -m core datasets --fetch {name}` while online.")
    return Source(
        name=name, title=title, family=name, classes=classes, channels=3, size=usual.crop, input_size=usual.crop, mean=usual.mean, std=usual.std,
        licence=licence, flip=True, read=_raising(missing), missing=lambda: missing, fetch=_fetcher(name),
    )  # fmt: skip


def _raising(missing: NotHere) -> Callable:
    def read():
        raise missing

    return read


DATASETS.also(sources)


def fetch(name: str) -> None:
    """Download by torchvision, then decode. Calibration is cut from train; where there is no official validation split, the held-out pictures are halved."""
    *_facts, parts, read = LISTED[name]
    pictures = []
    for part in parts:
        classes, found = read(str(folder("datasets")), part)
        pictures.append(stratified([(Path(path), int(label)) for path, label in found]))
    train, held_out = pictures[0], pictures[-1]
    count = min(CALIBRATION, max(1, len(train) // 10))
    validation = pictures[1] if len(pictures) > 2 else held_out[: -(-len(held_out) // 2)]
    test = held_out if len(pictures) > 2 else held_out[len(validation) :]
    splits = {"train": train[count:], "calibration": train[:count], "validation": validation, "test": test}
    place = home() / "datasets" / name
    shutil.rmtree(place, ignore_errors=True)  # what is damaged is fetched anew
    decoded.write(place, Listing(classes, {split: stratified(part) for split, part in splits.items()}, True), Preparation(), skip_unreadable=True)
