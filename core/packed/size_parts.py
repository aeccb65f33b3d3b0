"""Where the bytes of a run's packed file went: by layer and by kind, beside the paper's arithmetic; and each layer's way from float32 to its bytes.

    asked = SizeParts(Work("resnet18", "fashion_mnist", recipe))
    found = measure(asked)     # the parts of found["layers"] and found["rest"] add up to found["bytes"], which is the file's length

The file is the one that is downloaded: it is written, and read by `core.artifact.streams`. What layers go through is told by `core.packed.size_stages`.
Called by the cluster, the command line and notebooks; the page "Size" draws it. Imports torch only to measure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from core import engine
from core.asked import Asked
from core.engine import COMPRESS_SHARE
from core.errors import UnknownName
from core.layers.facts import form_of, owners
from core.packed import FORMAT

if TYPE_CHECKING:
    from core.weights import Compressed

BATCH_NORM, BIASES, OTHERS, HEADER = "batch norm", "biases", "others", "header"
KINDS = ("values", "positions", "codebooks", "scales", BATCH_NORM, BIASES, OTHERS, HEADER)
REST = {BATCH_NORM: "batch norms", OTHERS: "everything else", HEADER: "header and checksum"}  # rows of their own, below the layers


@dataclass(frozen=True)
class SizeParts(Asked):
    """What is asked: a model on a dataset and a recipe; what it is measured on does not count."""

    kind: ClassVar[str] = "size"
    version: ClassVar[int] = FORMAT  # of the file whose bytes are told


def measure(asked: SizeParts, *, turn=contextlib.nullcontext, report: Callable[[dict], None] = lambda event: None) -> dict:
    """The parts as JSON, in bytes.

    `bytes` is the file's length, `paper_bytes` and `dense_bytes` (float32, of the uncompressed model) stand beside it. An entry of `layers` has `layer`
    (its path), `form`, `numbers` and `nonzero` (of its weights), `file` and `paper` (kind → bytes) and `stages`; one of `rest` has `title`, `file` and `paper`.
    """
    from core import artifact
    from core.metrics import size
    from core.packed import size_stages

    work = asked.work
    base = engine.loaded(work.model, work.dataset, work.checkpoint.hash)
    after = engine.compress(work, engine.Hooks(turn, report=report))
    with turn():
        data = engine.packed(after, work).data
    with turn():
        streams = artifact.streams(data)
        paths = [name.rpartition(".")[0] for name in (base if after.architecture.model == base.architecture.model else after).weights]
        rows = _rows(after, paths, streams)
    entries = []
    for number, path in enumerate(paths):
        if path in rows:
            with turn():
                layer = _layer(path, base, after) | rows.pop(path)
                layer["stages"] = size_stages.stages(base, after, data, streams, layer["weights"])
            entries.append(layer)
        report({"stage": "evaluate", "fraction": COMPRESS_SHARE + (1 - COMPRESS_SHARE) * (number + 1) / len(paths)})
    return {
        "model": work.model, "dataset": work.dataset, "recipe": work.recipe.to_json(), "bytes": len(data), "paper_bytes": size.paper_bytes(after),
        "dense_bytes": size.dense_bytes(base), "layers": entries, "rest": [{"title": REST[kind]} | rows[kind] for kind in REST if kind in rows],
        "notes": list(after.notes),
    }  # fmt: skip


def entry_of(found: dict, layer: str) -> dict:
    """The entry of one layer; raises `UnknownName` with the layers that there are."""
    for entry in found["layers"]:
        if entry["layer"] == layer:
            return entry
    raise UnknownName("layer", layer, [entry["layer"] for entry in found["layers"]])


def by_kind(found: dict, which: str = "file") -> dict[str, float]:
    """kind → bytes of the whole file, or with "paper" of the paper's arithmetic; kinds that take nothing are left out."""
    sums = dict.fromkeys(KINDS, 0)
    for row in (*found["layers"], *found["rest"]):
        for kind, count in row[which].items():
            sums[kind] += count
    return {kind: count for kind, count in sums.items() if count}


def _rows(after: Compressed, paths: list[str], streams: list) -> dict[str, dict]:
    """Path, or kind of `REST` → `file` and `paper`: what a layer's weights and biases take, then what belongs to no layer."""
    from core.metrics import size

    roles, owner, rows = _roles(after), owners(paths, _names(after)), {}

    def add(which: str, tensor: str, kind: str, count: float) -> None:
        row = rows.setdefault(owner.get(tensor, kind), {"file": {}, "paper": {}})[which]
        row[kind] = row.get(kind, 0) + count

    for stream in streams:
        if stream.kind == "counters":
            kind = BATCH_NORM if _counted_by_batch_norms(after) else OTHERS
        elif stream.kind == "header":
            kind = HEADER
        else:
            kind = roles.get(stream.tensor) or {"zero points": "scales"}.get(stream.kind, stream.kind)
        if stream.length:
            add("file", stream.tensor, kind, stream.length)
    paper = size.by_kind(after)
    for name, tensor in after.module.state_dict().items():
        if name in paper:
            for kind, count in paper[name].items():
                if count:
                    add("paper", name, roles.get(name) or kind, count)
        elif tensor.is_floating_point():
            add("paper", name, roles[name], 4 * tensor.numel())
    return rows


def _names(subject: Compressed) -> list[str]:
    """Every tensor but those of batch norms, which are a row of their own."""
    roles = _roles(subject)
    return [name for name in subject.module.state_dict() if roles.get(name) not in (BATCH_NORM, OTHERS)]


def _roles(subject: Compressed) -> dict[str, str]:
    """Name of a tensor that is no weight → `BATCH_NORM`, `BIASES` or `OTHERS`."""
    from torch import nn

    from core.weights import weights_of

    weights = {name for name, _parameter in weights_of(subject.module)}
    layers = {name.rpartition(".")[0] for name in weights}
    found = {}
    for name in subject.module.state_dict():
        path, _, kind = name.rpartition(".")
        if name in weights:
            continue
        if isinstance(subject.module.get_submodule(path), nn.modules.batchnorm._BatchNorm):
            found[name] = BATCH_NORM
        else:
            found[name] = BIASES if kind.endswith("bias") and (path in layers or path.rpartition(".")[0] in layers) else OTHERS
    return found


def _counted_by_batch_norms(subject: Compressed) -> bool:
    roles = _roles(subject)
    return all(roles.get(name) == BATCH_NORM for name, tensor in subject.module.state_dict().items() if not tensor.is_floating_point())


def _layer(path: str, base: Compressed, after: Compressed) -> dict:
    """Which weights of the compressed model stand at a path, and how many numbers they hold."""
    from core.weights import nonzeros, weights_of

    same = after.architecture.model == base.architecture.model
    found = [(name, value) for name, value in weights_of(after.module) if path in owners([path], [name]).values()]
    return {
        "layer": path, "form": form_of((base if same else after).module.get_submodule(path)), "weights": [name for name, _value in found],
        "numbers": sum(value.numel() for _name, value in found), "nonzero": sum(nonzeros(value) for _name, value in found),
    }  # fmt: skip
