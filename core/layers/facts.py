"""The layers of one run: what each holds, computes and takes, and what its weight looks like, before and after a recipe.

    asked = Layers(Work("resnet18", "fashion_mnist", recipe))
    found = measure(asked)     # found["layers"]: one entry a layer; "rest" is what belongs to none; both sum to "total"

Figures come from `core.metrics` and `core.artifact`, pictures from `core.layers.values`. Called by the cluster, the command line and
notebooks; the Layers page draws it. Imports torch only to measure.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from core import engine
from core.asked import Asked
from core.engine import COMPRESS_SHARE
from core.packed import FORMAT

if TYPE_CHECKING:
    from torch import nn

    from core.weights import Compressed

FIGURES = ("parameters", "nonzero", "macs", "paper_bytes", "artifact_bytes")


@dataclass(frozen=True)
class Layers(Asked):
    """What is asked: a model on a dataset and a recipe; what it is measured on does not count."""

    kind: ClassVar[str] = "layers"
    version: ClassVar[int] = FORMAT  # of the file whose bytes are told


def pattern(chosen: Iterable[str], layers: Sequence[str]) -> str:
    """The value of a step's `layers` that means exactly the `chosen` ones among all `layers` (paths): "all", or patterns as short as they can be.

    `layer1.*` stands for everything below `layer1` where all of it is chosen.
    """
    left, parts = set(chosen), []
    if left >= set(layers):
        return "all"
    for path in layers:
        if path not in left:
            continue
        names = path.split(".")
        for depth in range(1, len(names) + 1):
            below = f"{'.'.join(names[:depth])}.*"
            meant = [other for other in layers if fnmatch.fnmatchcase(other, below)]
            if len(meant) > 1 and set(meant) <= left:
                break
        else:
            below, meant = path, [path]
        parts.append(below)
        left -= set(meant)
    return ", ".join(parts)


def measure(asked: Layers, *, turn=contextlib.nullcontext, report: Callable[[dict], None] = lambda event: None) -> dict:
    """Figures and pictures as JSON.

    An entry of `layers` has `layer` (its path), `form`, `before` and `after` with each of `FIGURES` (`after` is None where the layer is gone), `weight`
    (what `core.layers.values` tells of it) and `notes`.
    """
    work = asked.work
    base = engine.loaded(work.model, work.dataset, work.checkpoint.hash)
    after = engine.compress(work, engine.Hooks(turn, report=report))
    paths = [name.rpartition(".")[0] for name in base.weights]
    same = after.architecture.model == base.architecture.model
    with turn():
        figures = _figures(base, paths), _figures(after, paths if same else [])  # another model has layers of its own
    report({"stage": "evaluate", "fraction": COMPRESS_SHARE})
    entries = []
    for number, path in enumerate(paths):
        told, notes = _weight(base, after, path, turn)
        before, now = figures[0][path], figures[1].get(path)
        gone = now is None or (not now["parameters"] and told["after_shape"] is None)
        form = form_of(base.module.get_submodule(path))
        entries.append({"layer": path, "form": form, "before": before, "after": None if gone else now, "weight": told, "notes": notes})
        report({"stage": "evaluate", "fraction": COMPRESS_SHARE + (1 - COMPRESS_SHARE) * (number + 1) / len(paths)})
    return {
        "model": work.model, "dataset": work.dataset, "recipe": work.recipe.to_json(), "layers": entries, "notes": list(after.notes),
        **{name: {"before": figures[0][name], "after": figures[1][name]} for name in ("rest", "total")},
    }  # fmt: skip


def _figures(subject: Compressed, paths: list[str]) -> dict[str, dict]:
    """Path → `FIGURES` of that layer, its biases and whatever stands in its place; and of "rest" and "total"."""
    from core import artifact
    from core.metrics import cost, size
    from core.weights import nonzeros

    module = subject.module
    packed, paper, macs = artifact.write(subject), size.by_weight(subject), cost.count(module, subject.architecture.input_size)
    total = {
        "parameters": cost.parameters(module), "nonzero": cost.nonzero(module), "macs": macs.macs,
        "paper_bytes": size.paper_bytes(subject), "artifact_bytes": packed.size,
    }  # fmt: skip
    stored: Counter[str] = Counter()
    for stream in artifact.streams(packed.data):
        stored[stream.tensor] += stream.length
    found = {path: dict.fromkeys(FIGURES, 0) for path in paths}
    parameters = dict(module.named_parameters())
    for name, path in owners(paths, parameters).items():
        raw = 4 * parameters[name].numel()
        of = found[path]
        of["parameters"] += parameters[name].numel()
        of["nonzero"] += nonzeros(parameters[name])
        of["paper_bytes"] += paper.get(name, raw)
        of["artifact_bytes"] += stored[name]
    for name, path in owners(paths, macs.layers).items():
        found[path]["macs"] += macs.layers[name]
    rest = {name: total[name] - sum(of[name] for of in found.values()) for name in FIGURES}
    return found | {"rest": rest, "total": total}


def owners(paths: list[str], names: Iterable[str]) -> dict[str, str]:
    """Name of a parameter or layer → the innermost of `paths` that it belongs to; what belongs to none is left out."""
    known, owners = set(paths), {}
    for name in names:
        path = name
        while path and path not in known:
            path = path.rpartition(".")[0]
        if path:
            owners[name] = path
    return owners


def _weight(base: Compressed, after: Compressed, path: str, turn) -> tuple[dict, list[str]]:
    """What `core.layers.values` tells of a layer's weight, and what is to be said of it."""
    from core.layers import values

    before, now, notes = values.effective(base.module.get_submodule(path)), None, []
    layer = _at(after.module, path)
    if layer is not None and after.architecture.model == base.architecture.model:
        now = values.effective(layer)
        if path in after.architecture.factors:
            notes.append(f"This layer became {len(layer)} factors; the weight is what they amount to, multiplied out.")
    state = next((after.weights[name] for name in (f"{path}.weight", f"{path}.in_proj_weight") if name in after.weights), None) if now is not None else None
    with turn():
        told = {
            "before_shape": list(before.shape), "after_shape": None if now is None else list(now.shape),
            "histogram": values.histogram(before, now), "marks": values.marks(before, state), "picture": None if now is None else values.picture(now),
        }  # fmt: skip
    told["singular_values"] = {"before": values.singular_values(before, turn), "after": None if now is None else values.singular_values(now, turn)}
    if told["singular_values"]["before"] is None:
        notes.append(f"Singular values are left out of matrices with more than {values.MOST_ROWS:,} rows and columns.")
    return told, notes


def _at(module: nn.Module, path: str) -> nn.Module | None:
    """The layer at a path, if the network still has one with weights there."""
    from torch import nn

    try:
        layer = module.get_submodule(path)
    except AttributeError:
        return None
    return layer if isinstance(layer, (nn.Conv2d, nn.Linear, nn.MultiheadAttention, nn.Sequential)) else None


def form_of(layer: nn.Module) -> str:
    """`3×3 convolution, 64 → 128`, `linear, 512 → 10`."""
    from torch import nn

    if isinstance(layer, nn.Conv2d):
        kernel = "×".join(str(length) for length in layer.kernel_size)
        grouped = "depthwise " if layer.groups == layer.in_channels > 1 else f"{layer.groups} groups, " if layer.groups > 1 else ""
        return f"{grouped}{kernel} convolution, {layer.in_channels} → {layer.out_channels}"
    if isinstance(layer, nn.Linear):
        return f"linear, {layer.in_features} → {layer.out_features}"
    return f"attention, {layer.embed_dim}"
