"""A folder of class folders: what is in it, its classes in order, and which picture belongs to which split.

    listing = look(Path("flowers"))                 # flowers/rose/1.jpg, … or flowers/train/rose/1.jpg, flowers/val/…
    listing.splits["validation"]                    # [(path, label), …] in the fixed, stratified order of every dataset

Reads names only; `core.datasets.brought` decodes the pictures. Called by `core.models.importing`. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.datasets.base import SPLITS, stratified_order
from core.errors import BadInput

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # those of torchvision.datasets.ImageFolder
OWN = {
    "train": "train", "training": "train", "calibration": "calibration", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
MOST_HELD_OUT, MOST_CALIBRATION = 5_000, 2_000  # pictures
FEWEST, MOST = 10, 1_000_000
MOST_CLASSES = 65_535  # predicted labels are kept as uint16
EXPECTED = "it takes a folder with one folder of pictures for each class, or with such folders in train, val and test"

Pictures = list[tuple[Path, int]]


@dataclass(frozen=True)
class Listing:
    """What a folder holds. `own` says whether it came with a split of its own."""

    classes: tuple[str, ...]
    splits: dict[str, Pictures]
    own: bool

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))


def look(folder: Path, classes: Sequence[str] | None = None) -> Listing:
    """The pictures of a folder by split, and its classes: sorted by name, or in the order of `classes`.

    A folder with train beside val or test keeps its own split: calibration is cut from train, and where there is no val the test pictures are halved.
    Any other is split by a fixed, stratified order: a fifth for validation and for test each, a tenth for calibration. Raises `BadInput` for a
    folder without pictures or with one class, for links that lead out of it, to a folder or in a circle, and for `classes` that are not the folder's.
    """
    if not folder.is_dir():
        raise BadInput(f"There is no folder {str(folder)!r}; {EXPECTED}.")
    root = _unwrapped(folder.resolve())
    inner = _folders(root)
    parts: dict[str, dict[str, list[Path]]] = {}
    if inner and all(path.name.lower() in OWN for path in inner):
        for path in inner:
            _check_link(path, root)
            parts.setdefault(OWN[path.name.lower()], {}).update(_classes(path, root))
    if "train" not in parts and {"validation", "test"} & set(parts):
        raise BadInput(f"{folder} has {' and '.join(sorted(path.name for path in inner))} but no train folder; {EXPECTED}.")
    own = len(parts) > 1
    if not own:
        parts = {"all": parts.get("train") or _classes(root, root)}
    found = _order(folder, parts["train" if own else "all"], classes)
    number = {name: place for place, name in enumerate(found)}
    for part, held in parts.items():
        unknown = sorted(set(held) - set(found))
        if unknown:
            raise BadInput(f"The {part} pictures of {folder} have the class {unknown[0]!r}, which its train pictures have not; {EXPECTED}.")
    pictures = {part: [(path, number[name]) for name in sorted(held) for path in held[name]] for part, held in parts.items()}
    count = sum(map(len, pictures.values()))
    if not FEWEST <= count <= MOST:
        raise BadInput(f"{folder} holds {count} pictures; it takes from {FEWEST} to {MOST:,}.")
    splits = _own(pictures) if own else _cut(pictures["all"])
    return Listing(found, {split: stratified(splits[split]) for split in SPLITS}, own)


def _unwrapped(root: Path) -> Path:
    """The folder itself, or the one folder in it that holds everything, as in archives."""
    inner = _folders(root)
    if len(inner) == 1 and inner[0].name.lower() not in OWN and len(_folders(inner[0])) > 1 and not any(_is_picture(path) for path in root.iterdir()):
        _check_link(inner[0], root)
        return inner[0]
    return root


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if path.is_dir() and not _ignored(path.name))
    except OSError as error:
        raise BadInput(f"The folder {place} cannot be read ({error.strerror}); {EXPECTED}.") from None


def _ignored(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not _ignored(path.name)


def _classes(place: Path, root: Path) -> dict[str, list[Path]]:
    """Class → its pictures, sorted; those in folders of its folder too."""
    found = {}
    for path in _folders(place):
        _check_link(path, root)
        found[path.name] = sorted(_walk(path, root))
    return found


def _walk(place: Path, root: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(place):
        folders[:] = [name for name in folders if not _ignored(name)]
        for name in (*folders, *files):
            _check_link(Path(parent, name), root)
        yield from (Path(parent, name) for name in files if _is_picture(Path(name)))


def _check_link(path: Path, root: Path) -> None:
    """A link may stand for a picture of the same folder, and for nothing else."""
    if not path.is_symlink():
        return
    try:
        path.stat()  # `resolve` raises another error for a loop in each version of Python, or none
    except FileNotFoundError:
        pass
    except OSError as error:
        raise BadInput(f"{path} is a link that cannot be followed ({error.strerror}); put the pictures themselves there.") from None
    target = path.resolve()
    if not target.is_relative_to(root):
        raise BadInput(f"{path} is a link that leads out of the folder to {target}; put the pictures themselves there.")
    if target.is_dir():
        raise BadInput(f"{path} is a link to another folder; put the pictures themselves there.")


def _order(folder: Path, held: dict[str, list[Path]], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The classes of the folder, in the order that is wanted."""
    if not any(held.values()):
        raise BadInput(f"No pictures were found in class folders of {folder}; {EXPECTED}, as {', '.join(SUFFIXES)}.")
    empty = next((name for name in sorted(held) if not held[name]), None)
    if empty is not None:
        raise BadInput(f"The class folder {empty!r} of {folder} holds no pictures; fill it or remove it.")
    if len(held) < 2:
        raise BadInput(f"{folder} has one class, {next(iter(held))!r}, and a classifier tells at least two apart; {EXPECTED}.")
    if len(held) > MOST_CLASSES:
        raise BadInput(f"{folder} has {len(held):,} classes; it takes at most {MOST_CLASSES:,}.")
    names = tuple(sorted(held)) if wanted is None else tuple(wanted)
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise BadInput(f"The list of classes names {twice!r} twice; it takes each class folder once, in the order of the model's outputs.")
    if set(names) != set(held):
        strange, left = sorted(set(names) - set(held)), sorted(set(held) - set(names))
        fault = f"names {strange[0]!r}, which is no class folder of {folder}" if strange else f"lacks the class folder {left[0]!r}"
        raise BadInput(f"The list of classes {fault}; it takes each class folder once, in the order of the model's outputs.")
    return names


def _cut(pictures: Pictures) -> dict[str, Pictures]:
    """A fixed, stratified split of pictures that came without one."""
    pictures, held = stratified(pictures), min(MOST_HELD_OUT, len(pictures) // 5)
    calibration = 2 * held + _calibration(len(pictures))
    return {
        "validation": pictures[:held], "test": pictures[held : 2 * held],
        "calibration": pictures[2 * held : calibration], "train": pictures[calibration:],
    }  # fmt: skip


def _own(parts: dict[str, Pictures]) -> dict[str, Pictures]:
    """The folder's own split, with the parts that it lacks; test may stay empty."""
    train, calibration = stratified(parts["train"]), parts.get("calibration")
    if not calibration:
        count = _calibration(len(train))
        calibration, train = train[:count], train[count:]
    validation, test = parts.get("validation"), parts.get("test", [])
    if not validation:
        test = stratified(test)
        validation, test = test[: -(-len(test) // 2)], test[-(-len(test) // 2) :]
    for name, part in (("train", train), ("validation", validation)):
        if not part:
            raise BadInput(f"The {name} split holds no pictures; {EXPECTED}.")
    return {"train": train, "calibration": calibration, "validation": validation, "test": test}


def _calibration(count: int) -> int:
    return min(MOST_CALIBRATION, max(1, count // 10))


def stratified(pictures: Pictures) -> Pictures:
    """The same pictures in the fixed order of every dataset: each prefix holds the classes in about their true proportions."""
    order = stratified_order(np.array([label for _path, label in pictures], np.int64))
    return [pictures[number] for number in order]
