"""The models: torchvision's classifiers and two teaching models, built for a dataset, and their checkpoints with cards.

The list of names, sizes and smallest inputs is read from the generated assets/models.json, so that listing models
imports no torch; `build` and `Checkpoint.load` do.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from core.errors import BadField, BadRecipe, NotHere, UnknownName
from core.home import ASSETS, home
from core.recipe import digest

MODELS_FILE = ASSETS / "models.json"
STEM = "plain torchvision stem at 32×32"
LARGEST_INPUT = 512


@functools.cache
def models() -> dict[str, dict]:
    """name → what assets/models.json says of each of torchvision's 80 classifiers and of the teaching models, sorted by name.

    `family`; `parameters` with 10 classes; `macs` at `smallest_input`; `input_step`, by which the input may grow; `layers`,
    the number of weights; `batch_norm`; `imagenet_weights`; `channel_prunable`, which is True or the reason why not; and, of the models of
    `core.models.teaching_models` alone, `teaching`.
    """
    return {entry["name"]: entry for entry in json.loads(MODELS_FILE.read_text())["models"]}


def write_models(report=lambda event: None, path: Path = MODELS_FILE, only_missing: bool = False) -> None:
    """Build, run and prune every model, or only those that the list lacks, and write what was measured; takes minutes. Same torchvision, same file."""
    from importlib.metadata import version

    from core.home import write_whole
    from core.models import model_list

    lines = ",\n".join("  " + json.dumps(entry) for entry in model_list.measure(report, models() if only_missing else {}))
    head = json.dumps({"torchvision": version("torchvision"), "classes": model_list.CLASSES})
    write_whole(path, f'{head[:-1]}, "models": [\n{lines}\n]}}\n'.encode())
    if path == MODELS_FILE:
        models.cache_clear()


def check_model(name: object) -> dict:
    """The facts about a model; raises `UnknownName`."""
    if not isinstance(name, str) or name not in models():
        raise UnknownName("model", name, list(models()))
    return models()[name]


def input_size(model: str, wanted: int) -> int:
    """`wanted`, or the next size that the model can read where it cannot read that, the last where there is none; raises `BadField` beyond 512."""
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 8 <= wanted <= LARGEST_INPUT:
        raise BadField("input_size", wanted, f"a whole number from 8 to {LARGEST_INPUT}")
    facts = check_model(model)
    smallest, step = facts["smallest_input"], facts.get("input_step", 1)
    size = smallest + -(-max(0, wanted - smallest) // step) * step
    return size if size <= LARGEST_INPUT else size - step


def check_reads(model: str, size: int) -> None:
    """Raises `BadRecipe` when the model cannot read pictures of `size` × `size`, as a student of a checkpoint must."""
    nearest = input_size(model, size)
    if nearest != size:
        which = f"none smaller than {nearest}×{nearest}" if nearest > size else f"only {nearest}×{nearest}"
        raise BadRecipe(f"{model} cannot be the student, because the pictures are {size}×{size}, and it reads {which}.")


def stem(model: str, size: int) -> str:
    """What a checkpoint's card says about how pictures enter the model."""
    if check_model(model).get("teaching"):
        return "one grey channel of 28×28 pixels, without the frame of two that makes 32×32"
    return STEM if size == 32 else f"plain torchvision stem at {size}×{size}"


def build(model: str, classes: int, size: int, imagenet: bool = False):
    """A freshly initialised classifier in eval mode, channels_last, for pictures of `size` × `size`.

    With `imagenet`, torchvision's default weights except the head; raises `NotHere` when they can be neither found nor fetched.
    To load weights into a module, `core.models.architecture.Architecture.build` is quicker: it initialises nothing.
    """
    import torch

    module = construct(model, classes, size)
    if imagenet:
        _load_imagenet(module, model, size)
    return module.eval().to(memory_format=torch.channels_last)


def construct(model: str, classes: int, size: int):
    """Torchvision's own module, or a teaching model, as its constructor leaves it, with a head of `classes` and no auxiliary heads."""
    import torchvision

    from core.models import teaching_models

    if model in teaching_models.MODELS:
        return teaching_models.construct(model, classes, size)
    options: dict = {"num_classes": classes}
    if model.startswith("vit_"):
        options["image_size"] = size
    if model == "maxvit_t":
        options["input_size"] = (size, size)
    if model in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    return torchvision.models.get_model(model, **options)


def _load_imagenet(module, model: str, size: int) -> None:
    """By torchvision's own loading, which knows the older names and versions in its files; a vision transformer's positions are interpolated."""
    import torch
    import torchvision

    if not check_model(model).get("imagenet_weights", True):
        raise NotHere(f"ImageNet weights of {model}", "there are none", "Train from scratch with --weights none.")
    damaged = torch.serialization.pickle.UnpicklingError  # what torch's own loading says of a file that is none
    weights = torchvision.models.get_model_weights(model).DEFAULT
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch says there what it downloads
            stored = torchvision.models.get_model(model, weights=weights, progress=False).state_dict()
    except (OSError, RuntimeError, EOFError, damaged) as error:  # RuntimeError: a download with the wrong hash, or half a file
        kept = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
        if kept.exists():
            reason, mend = f"{kept} cannot be read", "delete it and run again while online"
        else:
            reason, mend = f"torchvision could not fetch them ({error})", "run once while online"
        raise NotHere(f"ImageNet weights of {model}", reason, f"Train from scratch with --weights none, or {mend}.") from None
    if model.startswith("vit_"):
        stored = torchvision.models.vision_transformer.interpolate_embeddings(size, module.patch_size, stored)
    for name, tensor in module.state_dict().items():
        if name in stored and stored[name].shape == tensor.shape:
            tensor.copy_(stored[name])


@dataclass(frozen=True)
class Checkpoint:
    """Trained weights of one model on one family of datasets. `card` says how they came to be."""

    model: str
    family: str
    path: Path
    card: dict

    @property
    def input_size(self) -> int:
        return self.card["input_size"]

    @property
    def classes(self) -> int:
        return self.card["classes"]

    @functools.cached_property
    def hash(self) -> str:
        """16 hexadecimal digits over the file's bytes."""
        return _hash_file(self.path, self.path.stat().st_mtime_ns)

    def load(self):
        """The model with these weights, float32, eval mode, channels_last. Stored as float16, widened here.

        Raises `BadInput` for weights that are no numbers, which no step can work on.
        """
        from safetensors.torch import load_file

        from core.arithmetic.finite import check_finite
        from core.models.architecture import Architecture

        module = Architecture.plain(self.model, self.classes, self.input_size).build()
        stored = load_file(self.path)
        check_finite(stored, f"The checkpoint {self.path}", "put another in its place, or train it anew with `python -m core train`")
        module.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()})
        return module


@functools.lru_cache(maxsize=64)
def _hash_file(path: Path, _modified: int) -> str:
    return digest(path.read_bytes())


def folders() -> list[Path]:
    """Where checkpoints are looked for: the person's own first, then those that are shipped."""
    return [home() / "checkpoints", ASSETS / "checkpoints"]


def checkpoints() -> list[Checkpoint]:
    """Every checkpoint on this machine; a person's own hides a shipped one of the same pair."""
    found: dict[tuple[str, str], Checkpoint] = {}
    for folder in folders():
        for card in sorted(folder.glob("*/*.json")):
            pair = (card.stem, card.parent.name)
            weights = card.with_suffix(".safetensors")
            if pair not in found and weights.exists():
                found[pair] = Checkpoint(*pair, weights, _card(card, card.stat().st_mtime_ns))
    return list(found.values())


@functools.lru_cache(maxsize=256)
def _card(path: Path, _modified: int) -> dict:
    return json.loads(path.read_text())


def checkpoint(model: str, dataset: str) -> Checkpoint:
    """The checkpoint of a model on a dataset's family; raises `NotHere` with the command that trains one."""
    from core.datasets import DATASETS

    check_model(model)
    source = DATASETS.get(dataset)
    family = source.family
    for folder in folders():
        card = folder / family / f"{model}.json"
        weights = card.with_suffix(".safetensors")
        if card.exists() and weights.exists():
            return Checkpoint(model, family, weights, _card(card, card.stat().st_mtime_ns))
    if source.own:
        raise NotHere(
            f"A checkpoint of {model} on {dataset}", "none of it was imported, or it is gone",
            f"Import it with `python -m core import --model {model} --weights FILE --data FOLDER`.",
        )  # fmt: skip
    raise NotHere(
        f"A checkpoint of {model} on {dataset}", "none was shipped or trained here yet",
        f"Train one with `python -m core train --model {model} --dataset {dataset}`.",
    )  # fmt: skip
