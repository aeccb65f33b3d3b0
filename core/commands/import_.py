"""`import`: a checkpoint and pictures of one's own, measured and kept beside the shipped ones. `convert`: a .pth file as safetensors.

A .pth file is read here alone, by its owner, as weights and nothing else; the server and the workers read safetensors only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from core.commands import options, terminal
from core.commands.measure import check_writable
from core.errors import BadField, BadInput
from core.work import THREADS

PICKLED = (".pth", ".pt", ".bin", ".ckpt")


def add(commands) -> None:
    command = commands.add_parser(
        "import", help="bring a checkpoint and pictures of your own",
        description="Reads a checkpoint into a known model and a folder of class folders as a dataset, measures the accuracy, and keeps both in\n"
        "Paretoscope's own folder: all commands and the page take them from then on. Nothing of yours is changed.",
        epilog="The folder holds one folder of pictures for each class, or such folders in train, val and test; a .zip of it does as well.\n"
        "The checkpoint is safetensors, or a .pth file of weights alone.",
    )  # fmt: skip
    command.add_argument("--model", required=True, metavar="M", help="the model that the weights are of; `python -m core models` lists all")
    command.add_argument("--weights", required=True, type=Path, metavar="FILE", help="its checkpoint")
    command.add_argument("--data", required=True, type=Path, metavar="FOLDER", help="the pictures")
    command.add_argument("--classes", type=Path, metavar="FILE", help="class folders in the order of the model's outputs, a line each; sorted by default")
    command.add_argument("--mean", type=_colours("mean"), metavar="R,G,B", help="of the colours, from 0 to 1; the default is ImageNet's")
    command.add_argument("--std", type=_colours("std"), metavar="R,G,B", help="of the colours, from 0 to 1; the default is ImageNet's")
    command.add_argument("--resize", type=options.whole("resize", 8, 2048), metavar="N", help="shorter side; default: 256 for a crop of 224, else the crop")
    command.add_argument("--crop", type=options.whole("crop", 8, 512), metavar="N", help="the square in the middle that the model reads (default 224)")
    command.add_argument("--name", default="", metavar="NAME", help="what the dataset is called here; the default is its folder's name")
    command.add_argument("--no-flip", action="store_true", help="pictures must not be mirrored when something is trained on them: a mirrored 2 is no 2")
    command.add_argument("--skip-unreadable", action="store_true", help="leave out pictures that cannot be read instead of refusing the folder")
    options.json_flag(command)
    command.set_defaults(act=import_)

    conversion = commands.add_parser(
        "convert", help="make a safetensors file of your own .pth file",
        description="Reads the weights of a .pth file that you trust, with nothing executed of it, and writes them as safetensors for the page's upload.",
    )  # fmt: skip
    conversion.add_argument("--weights", required=True, type=Path, metavar="FILE", help="the .pth file")
    conversion.add_argument("--output", required=True, type=Path, metavar="FILE", help="the .safetensors file to write")
    conversion.set_defaults(act=convert)


def import_(given) -> None:
    from core.commands.threads import use_threads
    from core.datasets.preparation import Preparation
    from core.jobs.turns import Turns
    from core.models.importing import QUESTION, Import, bring, class_names

    chosen = {name: getattr(given, name) for name in ("mean", "std", "resize", "crop") if getattr(given, name) is not None}
    classes = None if given.classes is None else class_names(_bytes(given.classes))
    asked = Import(
        given.model, str(given.weights), str(given.data), classes, Preparation(**chosen), given.name, not given.no_flip, given.skip_unreadable
    )  # fmt: skip
    tensors = None
    use_threads(THREADS)
    if given.weights.suffix.lower() in PICKLED:
        tensors = unpickled(given.weights)
    with terminal.Progress(f"{asked.model} on {asked.name}") as progress:
        card = bring(asked, tensors=tensors, turn=Turns().compute, report=progress)
    if given.json:
        terminal.print_json(card)
        return
    for sentence in said(card):
        print(sentence)
    print(QUESTION)


def said(card: dict) -> list[str]:
    """What was imported, as lines."""
    counts = ", ".join(f"{count:,} {split}" for split, count in card["pictures"].items())
    lines = [f"{card['model']} on {card['dataset']}: {card['classes']} classes, pictures: {counts}", *card["imported"]["notes"]]
    if card["imported"]["unmatched"]:
        lines.append(f"Tensors that were not used: {', '.join(card['imported']['unmatched'])}.")
    if card["unreadable"]:
        lines.append(f"Pictures that cannot be read were left out: {', '.join(card['unreadable'])}.")
    for split in ("validation", "test"):
        if card[split]:
            figures = card[split]
            lines.append(f"{split}: {figures['top1']:.2f} % ({figures['top1_low']:.2f} … {figures['top1_high']:.2f}), n = {figures['images']:,}, measured")
    return lines


def convert(given) -> None:
    from safetensors.torch import save

    from core.home import write_whole

    if given.output.suffix != ".safetensors":
        raise BadInput(f"--output cannot be {str(given.output)!r}; it takes the name of a .safetensors file.")
    check_writable(given.output, "--output")
    tensors = {name: tensor.clone().contiguous() for name, tensor in unpickled(given.weights).items()}  # tensors that share memory become two
    write_whole(given.output, save(tensors))
    print(f"{len(tensors)} tensors written to {given.output}")


def unpickled(path: Path) -> dict:
    """The tensors of a .pth file by their dotted names, read as weights alone; raises `BadInput` for what holds anything else."""
    import torch

    if not path.is_file():
        raise BadInput(f"There is no file {str(path)!r}; --weights takes a checkpoint.")
    damaged = (torch.serialization.pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except damaged:
        raise BadInput(f"{path} cannot be read as weights alone: it is damaged, or holds a whole model; save model.state_dict() instead.") from None
    found = dict(_tensors(stored))
    if not found:
        raise BadInput(f"{path} holds no tensors by name; save model.state_dict().")
    return found


def _tensors(stored: object, before: str = ""):
    """(dotted name, tensor) of every tensor in dictionaries within dictionaries."""
    import torch

    if isinstance(stored, torch.Tensor):
        yield before.removesuffix("."), stored.detach()
    elif isinstance(stored, Mapping):
        for name, value in stored.items():
            yield from _tensors(value, f"{before}{name}.")


def _bytes(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    raise BadInput(f"The list of classes {str(path)!r} cannot be read; --classes takes a file with a class folder on each line.")


def _colours(name: str):
    """An option's type: one number, or three with commas."""

    def parse(text: str) -> tuple[float, ...]:
        try:
            return tuple(map(float, text.split(",")))
        except ValueError:
            raise BadField(name, text, "one number for all colours, or three with commas, as in 0.485,0.456,0.406") from None

    return parse
