"""Somebody else's checkpoint into a known architecture: which tensor goes where, and what is wrong with the others.

    tensors = read(Path("mine.safetensors"))
    fitted = fit(tensors, "resnet18", classes=("cat", "dog"), input_size=224)
    fitted.state, fitted.unmatched, fitted.notes

Recognised are wrappers and prefixes (`module.`, `state_dict.`, `model.`, whatever stands before all names), a head of Dropout and one Linear layer
in place of torchvision's, heads without a bias, auxiliary heads that only training uses, and checkpoints that count no batches in their batch norms.
Called by `core.models.importing`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from core import zoo
from core.errors import BadCheckpoint, BadInput
from core.models.architecture import Architecture

AUXILIARY = ("aux1", "aux2", "AuxLogits")  # torchvision's names of heads that only training uses
COUNTER = "num_batches_tracked"
SHOWN = 3  # names in a sentence


@dataclass(frozen=True)
class Fitted:
    """`state` has every tensor of the architecture, float32; `unmatched` the names of those that it has no place for; `notes` say what was recognised."""

    state: dict[str, Tensor]
    unmatched: list[str]
    notes: list[str]


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises `BadInput` when it is none, or not whole."""
    if not path.is_file():
        raise BadInput(f"There is no file {str(path)!r}; it takes a checkpoint as safetensors.")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        reason = " ".join(str(error).split()).removeprefix("Error while deserializing header: ")
        raise BadInput(f"{path.name} is not a whole safetensors file ({reason[:80]}); save the checkpoint again, or convert it first.") from None


def fit(tensors: Mapping[str, Tensor], model: str, classes: Sequence[str], input_size: int) -> Fitted:
    """Raises `BadInput`, naming the tensors, for a checkpoint of another architecture, of another number of classes, or with NaN or infinities."""
    module = Architecture.plain(model, len(classes), input_size).build()
    wanted, head = module.state_dict(), _head(module)
    prefix = _prefix(tensors, wanted)
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    outside = sorted(name for name in tensors if not name.startswith(prefix))
    notes = [f"{prefix!r} was taken off the names."] if prefix else []
    notes += _rename_head(own, wanted, module, head)
    _check_names(own, wanted, module, model, [*(prefix + name for name in sorted(own) if name not in wanted), *outside])
    left = sorted(name for name in own if name not in wanted)
    if any(name.split(".")[0] in AUXILIARY for name in left):
        notes.append("The auxiliary heads were left out: only training uses them.")
    _check_shapes(own, wanted, head, model, classes)
    _check_numbers(own, wanted)
    state = {name: own[name].to(tensor.dtype).contiguous() if name in own else torch.zeros_like(tensor) for name, tensor in wanted.items()}
    return Fitted(state, [*(prefix + name for name in left), *outside], notes)


def _prefix(names: Collection[str], wanted: Collection[str]) -> str:
    """What stands before the names of the architecture: that by which most of them are found, the shortest of equals."""
    found = dict.fromkeys([""], 0)
    for name in names:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in wanted:
                prefix = "".join(f"{part}." for part in parts[:cut])
                found[prefix] = found.get(prefix, 0) + 1
    return max(found, key=lambda prefix: (found[prefix], -len(prefix)))


def _head(module: nn.Module) -> str:
    """The path of the layer that gives the logits."""
    return [path for path, layer in module.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))][-1]


def _rename_head(own: dict[str, Tensor], wanted: Mapping[str, Tensor], module: nn.Module, head: str) -> list[str]:
    """Give the one layer of somebody's own head the name of the architecture's, in place."""
    weight, bias = f"{head}.weight", f"{head}.bias"
    notes = []
    if weight not in own:
        place = _alone(module, head)
        found = [name for name in own if name not in wanted and name.endswith("weight") and name.startswith(f"{place}.")]
        if len(found) > 1:
            raise BadInput(f"The checkpoint's head has {len(found)} layers ({_few(found)}); it takes a head of one Linear layer, with or without Dropout.")
        if found:
            theirs = found[0].removesuffix("weight")
            own[weight] = own.pop(found[0])
            if f"{theirs}bias" in own:
                own[bias] = own.pop(f"{theirs}bias")
            notes.append(f"The head {theirs.removesuffix('.')!r} was taken as {head!r}: Dropout changes nothing once training is over.")
    if weight in own and bias in wanted and bias not in own:
        own[bias] = torch.zeros(len(own[weight]))
        notes.append("The head has no bias, so it is 0.")
    return notes


def _alone(module: nn.Module, head: str) -> str:
    """The outermost part of the network that holds no parameters but the head's."""
    count, place = sum(1 for _ in module.get_submodule(head).parameters()), head
    while "." in place and sum(1 for _ in module.get_submodule(place.rpartition(".")[0]).parameters()) == count:
        place = place.rpartition(".")[0]
    return place


def _check_names(own: Collection[str], wanted: Collection[str], module: nn.Module, model: str, unmatched: Collection[str]) -> None:
    """Refuse what lacks a tensor, and what has layers that the architecture has not: the rest would fit and be another network.

    The error's `names` have all that is missing and all `unmatched`, as the checkpoint spells them.
    """
    missing = [name for name in wanted if name not in own and not name.endswith(COUNTER)]
    parts = {name for name, _child in module.named_children()}
    strange = [name for name in own if name not in wanted and name.split(".")[0] in parts]
    if not missing and not strange:
        return
    faults = [f"{len(missing)} of its {len(wanted)} tensors are missing ({_few(missing)})"] if missing else []
    faults += [f"{len(strange)} have no place in it ({_few(strange)})"] if strange else []
    fits = [name for name in _models_of(own) if name != model]
    said = f"; by its names it may be of {' or '.join(fits[:SHOWN])}" if fits else ""
    names = (*(f"missing: {name}" for name in missing), *(f"no place: {name}" for name in unmatched))
    raise BadCheckpoint(f"The checkpoint does not fit {model}: {' and '.join(faults)}{said}.", names)


def _models_of(own: Collection[str]) -> list[str]:
    """The models whose weights, but for the head's, are exactly these."""
    names = {name for name in own if name.endswith(("weight", "bias"))}
    return [model for model, facts in zoo.models().items() if set(facts["weights"][:-1]) <= names and _covers(facts["weights"], own)]


def _covers(weights: Sequence[str], own: Collection[str]) -> bool:
    """Whether no convolution of the checkpoint is beyond `weights`: resnet34 has all the names of resnet18, and more."""
    places = {name.rpartition(".")[0].rpartition(".")[0] for name in weights}
    return all(name.rpartition(".")[0].rpartition(".")[0] in places for name in own if name.endswith(".weight"))


def _check_shapes(own: Mapping[str, Tensor], wanted: Mapping[str, Tensor], head: str, model: str, classes: Sequence[str]) -> None:
    wrong = [name for name in wanted if name in own and own[name].shape != wanted[name].shape]
    if not wrong:
        return
    of_head = {f"{head}.weight", f"{head}.bias"}
    shape, needed = list(own[f"{head}.weight"].shape), list(wanted[f"{head}.weight"].shape)
    if set(wrong) <= of_head and shape[1:] == needed[1:]:
        some = ", ".join(classes[:SHOWN]) + (", …" if len(classes) > SHOWN else "")
        raise BadInput(f"The checkpoint tells {shape[0]} classes apart, and the pictures are of {len(classes)} ({some}); it takes as many classes.")
    first = wrong[0]
    raise BadCheckpoint(
        f"The checkpoint does not fit {model}: {len(wrong)} tensors have other shapes "
        f"({first} is {_times(own[first])}, and would be {_times(wanted[first])}); it takes a checkpoint of torchvision's {model} for this size of picture.",
        [f"other shape: {name} is {_times(own[name])}, and would be {_times(wanted[name])}" for name in wrong],
    )


def _check_numbers(own: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name, tensor in own.items():
        if name not in wanted or not wanted[name].is_floating_point():
            continue
        if not tensor.is_floating_point():
            raise BadInput(f"The tensor {name} holds whole numbers ({tensor.dtype}); it takes floating-point weights.".replace("torch.", ""))
        if not bool(torch.isfinite(tensor.float()).all()):
            raise BadInput(f"The tensor {name} holds NaN or infinities; it takes a checkpoint of finite numbers.")


def _times(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a single number"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
