"""One file to take away: made, read back in its runtime, run over the validation split, and only then given out.

    asked = Export(Work("resnet18", "fashion_mnist", recipe), "onnx-int8")
    made = asked.found() or make(asked)        # kept by the run's identity and the format
    made.record                                # what was measured of the file
    made.files("small.onnx")                   # the file, preprocessing and classes, the model card, two scripts

Called by the cluster, the command line and notebooks. Exporting never changes a model. Imports torch only to make one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from core import engine
from core.asked import Asked
from core.engine import COMPRESS_SHARE
from core.errors import BadInput
from core.exports import sheet
from core.exports.formats import FORMATS, INT8, Around, Format
from core.keeping import kept
from core.machine import machine
from core.metrics import accuracy
from core.recipe import Recipe, digest
from core.studies import points
from core.work import Work

MOST_DISAGREEMENT = 1  # of a thousand pictures, for files that compute what the engine computed
WRITTEN = 0.75  # of the progress, when there is a file
WANTS_INT8 = {"step": "quantize", "weight_bits": 8, "activation_bits": 8}


@dataclass(frozen=True)
class Record:
    """What was measured of one file on one machine. `agreement` is the share of pictures with the engine's own label, and `sheet` what goes with the file."""

    format: str
    identity: str
    model: str
    dataset: str
    recipe: dict
    split: str
    images: int
    bytes: int
    sha256: str
    top1: float
    top1_low: float
    top1_high: float
    agreement: float
    run_top1: float
    runtime: str
    machine: dict
    seconds: dict
    date: str
    sheet: dict = field(repr=False)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict:
        return dataclasses.asdict(self) | {"notes": list(self.notes)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Record:
        return Record(**(value | {"notes": tuple(value["notes"])}))


@dataclass(frozen=True)
class Made:
    """A record, and the file that it is of."""

    record: Record
    data: bytes = field(repr=False)

    def files(self, name: str) -> dict[str, bytes]:
        """Everything that is given out, by name, for a file called `name`."""
        from core.exports.model_card import model_card

        record = self.record
        beside = {".json": json.dumps(record.sheet, indent=1).encode() + b"\n", ".md": model_card(record, name).encode()}
        return {name: self.data} | {name + suffix: text for suffix, text in (beside | sheet.scripts(FORMATS.get(record.format))).items()}

    def packed(self, name: str) -> bytes:
        """The same as one .zip file, uncompressed: what is in it is dense already."""
        return _zipped(self.files(name))

    def kept(self) -> bytes:
        return _zipped({"record.json": json.dumps(self.record.to_json()).encode(), "file": self.data})


@dataclass(frozen=True)
class Export(Asked):
    """What is asked for: a run, over the whole validation split, in a format."""

    kind: ClassVar[str] = "export"
    version: ClassVar[int] = 2  # of the form of what is kept, and of how a format is written
    shelf: ClassVar[str] = "exports"

    format: str

    def __post_init__(self):
        FORMATS.get(self.format)
        super().__post_init__()

    def check(self) -> None:
        """Before any long work. Raises `NotHere` for a runtime, dataset or checkpoint, `BadInput` where int8 would change the model."""
        absent = FORMATS.get(self.format).missing()
        if absent:
            raise absent
        refused = refusal(FORMATS.get(self.format), self.work.recipe)
        if refused:
            raise BadInput(refused)
        super().check()

    def identity(self) -> str:
        return digest(json.dumps([self.kind, self.version, self.format, FORMATS.get(self.format).version(), machine()["id"], self.work.identity()]))

    def kept_as(self) -> str:
        return f"{self.identity()}.zip"

    def file_name(self) -> str:
        return f"{self.model}-{self.dataset}-{self.work.recipe.key()[:8]}-{FORMATS.get(self.format).numbers}{FORMATS.get(self.format).suffix}"

    def recorded(self) -> Record | None:
        """What was measured of this export, while it is kept."""
        return _read_kept(self, _record)

    def found(self) -> Made | None:
        """The export, while it is kept."""
        return _read_kept(self, lambda archive: Made(_record(archive), archive.read("file")))

    def to_json(self) -> dict:
        return {"work": self.work.to_json(), "format": self.format}

    @staticmethod
    def from_json(value: dict) -> Export:
        return Export(Work.from_json(value["work"]), value["format"])


def refusal(format: Format, recipe: Recipe) -> str | None:
    """None, or why the recipe has no such file: exporting never changes a model, so int8 files need grids that are 8-bit already."""
    if format.numbers != INT8 or points.int8(recipe):
        return None
    return (
        f"{format.name} takes recipes whose weights and activations all end on 8-bit grids that integers compute with (symmetric, a scale for each tensor or "
        f"channel, static ranges), and exporting never changes a model; append quantize(weight_bits=8, activation_bits=8) to this recipe, another run."
    )


def too_many(differing: int, images: int) -> bool:
    """Whether other labels than the engine's on `differing` of so many pictures are more than `MOST_DISAGREEMENT`; in whole numbers, which do not round."""
    return 1000 * differing > MOST_DISAGREEMENT * images


def make(asked: Export, *, turn=contextlib.nullcontext, report: Callable[[dict], None] = lambda event: None, predicted: bytes | None = None) -> Made:
    """Compress, write, read back, run over the validation split. `predicted` are the labels of the run as it was measured (little-endian uint16), if known.

    Raises `BadInput` when a file that computes what the engine computed disagrees with it on more than `MOST_DISAGREEMENT` of a thousand pictures.
    """
    from core.datasets import load

    work, format = asked.work, FORMATS.get(asked.format)
    subject = engine.compress(work, engine.Hooks(turn, report=report))
    dataset, size = load(work.dataset), subject.architecture.input_size
    labels = dataset.split(work.split).labels
    started = time.monotonic()
    report({"stage": "write", "fraction": COMPRESS_SHARE})
    around = Around(work, size, turn)
    with turn():
        data = format.write(subject, around)
    if format.finish is not None:
        data = format.finish(data, around)
    written = time.monotonic()
    if predicted is None:
        predictions = engine.predict(subject, dataset, work, engine.Hooks(turn))
        expected = predictions.predicted
    else:
        expected = np.frombuffer(predicted, "<u2")

    with turn():
        logits = format.load(data)
    answered = []
    for pictures, _labels in dataset.batches(work.split, size, engine.batch_size(subject)):
        with turn():
            answered.append(logits(pictures).argmax(1))
        report({"stage": "verify", "fraction": WRITTEN + (1 - WRITTEN) * sum(map(len, answered)) / len(labels)})
    found = np.concatenate(answered)  # (n,)
    differing = int((found != expected).sum())
    if format.held and too_many(differing, len(labels)):
        raise BadInput(
            f"The {format.title} file of this run is refused: {format.runtime} gives {differing:,} of {len(labels):,} pictures another "
            f"label than the engine, and at most {MOST_DISAGREEMENT / 10:g} % may differ; another format may do."
        )
    right = int((found == labels).sum())
    low, high = accuracy.wilson(right, len(labels))
    record = Record(
        format=format.name, identity=work.identity(), model=work.model, dataset=work.dataset, recipe=work.recipe.to_json(), split=work.split,
        images=len(labels), bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), top1=100 * right / len(labels), top1_low=low, top1_high=high,
        agreement=float((found == expected).mean()), run_top1=100 * float((expected == labels).mean()), runtime=format.version(), machine=machine(),
        seconds={"write": written - started, "verify": time.monotonic() - written},
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        sheet=sheet.sheet(dataset.source, size, work, format), notes=tuple(subject.notes),
    )  # fmt: skip
    return Made(record, data)


def _record(archive: zipfile.ZipFile) -> Record:
    return Record.from_json(json.loads(archive.read("record.json")))


def _read_kept(asked: Export, read: Callable[[zipfile.ZipFile], Any]) -> Any:
    path = kept.get(asked.shelf, asked.kept_as())
    if path is None:
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return read(archive)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        kept.drop(path)
        return None


def _zipped(files: dict[str, bytes]) -> bytes:
    """The same bytes for the same files, whenever it is done."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return made.getvalue()
