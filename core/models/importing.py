"""A person's own checkpoint and pictures: checked, read into a known architecture, measured, and kept beside the shipped ones.

    asked = Import("resnet18", weights="mine.safetensors", data="flowers")
    made = bring(asked)                  # made["validation"]["top1"]: is this the figure you know?

Called by `python -m core import`, and, for the page's "Use my own", by a worker of the cluster. Imports torch only to read weights.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import zoo
from core.datasets import DATASETS, archive, brought, folder
from core.datasets.preparation import Preparation
from core.errors import BadField, BadInput
from core.home import folder as home_folder
from core.home import home, write_whole
from core.recipe import digest

DECODE_SHARE = 0.6  # of the progress; measuring is the rest
BATCH = 64
MOST_CLASSES_BYTES = 4_000_000
UPLOADS_SECONDS = 24 * 3600
CONVERT = "python -m core convert --weights FILE.pth --output FILE.safetensors"
QUESTION = "Is this the figure you know? If not, look at the order of the classes and at mean, std, resize and crop."


@dataclass(frozen=True)
class Import:
    """What is asked. `data` is a folder or a zip of one; `classes` names its class folders in the order of the model's outputs, None sorts them.

    Raises `BadInput` when a name or figure cannot be.
    """

    model: str
    weights: str
    data: str
    classes: tuple[str, ...] | None = None
    preparation: Preparation = field(default_factory=Preparation)
    name: str = ""
    flip: bool = True
    skip_unreadable: bool = False

    def __post_init__(self):
        zoo.check_model(self.model)
        size, crop = zoo.input_size(self.model, self.preparation.crop), self.preparation.crop
        if size != crop:
            raise BadField("crop", crop, f"a size that {self.model} reads; {size} is the nearest")
        object.__setattr__(self, "name", brought.check_name(self.name or brought.name_of(Path(self.data))))

    def check(self) -> None:
        """Raises `BadInput` when the files are not there, before any long work."""
        if not Path(self.weights).is_file():
            raise BadInput(f"There is no file {self.weights!r}; it takes a checkpoint as safetensors.")
        if Path(self.weights).suffix.lower() != ".safetensors":
            raise BadInput(f"{Path(self.weights).name} is not safetensors; convert it on the command line: `{CONVERT}`.")
        if not Path(self.data).exists():
            raise BadInput(f"There is no folder {self.data!r}; {folder.EXPECTED}.")

    def identity(self) -> str:
        """16 hexadecimal digits over what is asked, and over what lies in its files as far as their length and date tell."""
        dates = [(path.stat().st_size, path.stat().st_mtime_ns) for path in map(Path, (self.weights, self.data))]
        return digest(json.dumps(["import", self.to_json(), dates], sort_keys=True))

    def to_json(self) -> dict:
        return {
            "model": self.model, "weights": self.weights, "data": self.data, "classes": self.classes and list(self.classes),
            "preparation": self.preparation.to_json(), "name": self.name, "flip": self.flip, "skip_unreadable": self.skip_unreadable,
        }  # fmt: skip

    @staticmethod
    def from_json(value: dict[str, Any]) -> Import:
        classes = value["classes"]
        return Import(**(value | {"preparation": Preparation(**value["preparation"]), "classes": tuple(classes) if classes is not None else None}))


def import_command(model: str, dataset: str) -> str | None:
    """What a shell says to bring in a person's own pair, but for the places of its files; None for a dataset of Paretoscope's own.

    FILE.txt is a list of the classes in the order that they have here.
    """
    source = DATASETS.get(dataset)
    if not source.own:
        return None
    colours = " ".join(f"--{name} {','.join(f'{value:g}' for value in values)}" for name, values in (("mean", source.mean), ("std", source.std)))
    order = "" if list(source.classes) == sorted(source.classes) else " --classes FILE.txt"
    cut = f"--resize {source.resize or source.size} --crop {source.size}" + ("" if source.flip else " --no-flip")
    return f"python -m core import --model {model} --weights FILE.safetensors --data FOLDER{order} --name {dataset} {colours} {cut}"


def class_names(data: bytes) -> tuple[str, ...]:
    """The class folders in the order of the model's outputs: a line each, or a JSON list. Raises `BadInput`."""
    try:
        text = data[: MOST_CLASSES_BYTES + 1].decode("utf-8-sig").strip()
        names = json.loads(text) if text.startswith("[") else [line.strip() for line in text.splitlines() if line.strip()]
    except ValueError:
        names = None
    if len(data) > MOST_CLASSES_BYTES or not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise BadInput("The list of classes cannot be read; it takes the names of the class folders, a line each, in the order of the model's outputs.")
    return tuple(names)


def bring(asked: Import, *, tensors: dict | None = None, turn=contextlib.nullcontext, report: Callable[[dict], None] = lambda event: None) -> dict:
    """Check, decode, measure and keep; returns the checkpoint's card, with the `pictures` of each split, and what was left out.

    `tensors` are weights that were read already. `turn` is entered around every piece of computing and may wait, or raise `Cancelled`. Raises
    `BadInput` before anything is kept when weights and pictures do not belong together.
    """
    from safetensors.torch import save

    from core.datasets import Dataset
    from core.models import matching
    from core.models.architecture import Architecture

    if tensors is None:
        asked.check()
    report({"stage": "import", "fraction": 0.0})
    with _unpacked(Path(asked.data), turn) as place:
        listing = folder.look(place, asked.classes)
        with turn():
            fitted = matching.fit(tensors if tensors is not None else matching.read(Path(asked.weights)), asked.model, listing.classes, asked.preparation.crop)
        weights = save(fitted.state)
        _check_free(asked, weights)
        facts = brought.keep(
            asked.name, listing, asked.preparation, flip=asked.flip, skip_unreadable=asked.skip_unreadable, origin=str(Path(asked.data).absolute()), turn=turn,
            report=lambda fraction: report({"stage": "import", "fraction": DECODE_SHARE * fraction}),
        )  # fmt: skip
    source = DATASETS.get(asked.name)
    with turn():
        module = Architecture.plain(asked.model, len(source.classes), source.size).build()
        module.load_state_dict(fitted.state)
    figures = _measured(module, Dataset(source, source.read()), facts["pictures"], turn, report)
    card = _card(asked, facts, figures, fitted)
    path = _weights_of(asked)
    write_whole(path, weights)
    write_whole(path.with_suffix(".json"), (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode())
    return card


def upload(name: str, data: bytes | memoryview) -> Path:
    """Keep what a browser sent, under a name of its content, until it is imported; what lay there for a day goes."""
    place = home_folder("uploads")
    for old in place.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > UPLOADS_SECONDS:
                old.unlink()
    path = place / f"{hashlib.blake2b(data, digest_size=16).hexdigest()}{Path(name).suffix.lower()}"
    if not path.exists():
        write_whole(path, data)
    return path


def forget_uploads(asked: Import) -> None:
    """Remove what `upload` kept of an import that is done."""
    for path in map(Path, (asked.weights, asked.data)):
        if path.parent == home() / "uploads":
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _unpacked(data: Path, turn):
    """The folder of pictures; that of a zip lasts as long as it is looked at."""
    if not data.is_file():
        yield data
        return
    place = home_folder("imports") / f".unpacked-{uuid.uuid4().hex[:8]}"

    def check() -> None:
        with turn():
            pass

    try:
        place.mkdir()
        archive.unpack(data, place, check)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _weights_of(asked: Import) -> Path:
    return home() / "checkpoints" / asked.name / f"{asked.model}.safetensors"


def _check_free(asked: Import, weights: bytes) -> None:
    """A checkpoint that was trained here is not written over by one that was brought."""
    path = _weights_of(asked)
    card = path.with_suffix(".json")
    if path.exists() and card.exists() and "imported" not in json.loads(card.read_text()) and path.read_bytes() != weights:
        raise BadInput(f"A checkpoint of {asked.model} on {asked.name!r} was trained here already; choose another name.")


def _measured(module, dataset, pictures: dict[str, int], turn, report) -> dict[str, dict | None]:
    """The summary of validation, and of test where the pictures have one."""
    from core.metrics.accuracy import evaluate, summary

    splits = [split for split in ("validation", "test") if pictures[split]]
    total, seen, found = sum(pictures[split] for split in splits), 0, dict.fromkeys(("validation", "test"))
    for split in splits:
        progress = lambda fraction: report(
            {"stage": "evaluate", "fraction": DECODE_SHARE + (1 - DECODE_SHARE) * (seen + fraction * pictures[split]) / total}  # noqa: B023  (called within)
        )
        found[split] = summary(evaluate(module, dataset, dataset.source.size, split, batch_size=BATCH, turn=turn, report=progress))
        seen += pictures[split]
    return found


def _card(asked: Import, facts: dict, figures: dict, fitted) -> dict:
    from core.models.checkpoints import versions

    return {
        "model": asked.model, "dataset": asked.name, "family": asked.name, "classes": len(facts["classes"]), "input_size": asked.preparation.crop,
        "stem": zoo.stem(asked.model, asked.preparation.crop),
        "imported": {"weights": Path(asked.weights).name, "unmatched": fitted.unmatched, "notes": fitted.notes},
        "class_names": facts["classes"], "preparation": facts["preparation"], "pictures": facts["pictures"], "own_split": facts["own_split"],
        "unreadable": facts["unreadable"], "stored_as": "float32", "validation": figures["validation"], "test": figures["test"],
        "date": datetime.date.today().isoformat(), "versions": versions(),
    }  # fmt: skip
