"""`train`: makes a checkpoint, in this process, with progress, and goes on where a killed training stopped."""

from __future__ import annotations

import shlex
from pathlib import Path

from core.commands import device, options, terminal
from core.device import chosen, using
from core.models import checkpoints
from core.recipe import MAX_SEED


def add(commands) -> None:
    train = commands.add_parser(
        "train", help="train a model on a dataset",
        description="Trains a model on a dataset's training pictures, measures it on those held out, and keeps the checkpoint with a card\n"
        "that says how it came to be. Ctrl-C stops; the same command goes on from the last whole epoch.",
    )  # fmt: skip
    options.model_and_dataset(train)
    train.add_argument("--epochs", type=options.whole("epochs", 1, 1000), metavar="N", help="passes over the pictures; the default suits the model")
    train.add_argument("--learning-rate", type=options.number("learning_rate", 0, 10), metavar="R", help="peak of the one-cycle rate; the default suits it too")
    train.add_argument("--weight-decay", type=options.number("weight_decay", 0, 1, low_too=True), default=checkpoints.WEIGHT_DECAY, metavar="D",
                       help="pulls weights towards zero; the default is 0.0005, small models may want less")  # fmt: skip
    train.add_argument("--seed", type=options.whole("seed", 0, MAX_SEED), default=0, metavar="S", help="same seed, same weights (default 0)")
    train.add_argument("--input-size", type=options.whole("input_size", 8, 512), metavar="N", help="pictures are brought to N×N; the default is the dataset's")
    train.add_argument(
        "--weights", choices=("none", "imagenet", "checkpoint"), default="none",
        help="start from random weights, from ImageNet's where they can be had, or from the checkpoint that is there, for another cycle",
    )  # fmt: skip
    train.add_argument("--out", type=Path, metavar="FOLDER", help="keep the checkpoint below FOLDER; the default is Paretoscope's own")
    train.add_argument(
        "--threads", type=options.whole("threads", 1, 256), default=1, metavar="N",
        help="more are faster, but give other weights and slow what else Paretoscope computes (default 1)",
    )  # fmt: skip
    train.set_defaults(act=train_checkpoint)


def train_checkpoint(given) -> None:
    from core import zoo
    from core.commands.threads import use_threads
    from core.datasets import DATASETS
    from core.jobs.turns import Turns

    zoo.check_model(given.model)
    absent = DATASETS.get(given.dataset).missing()
    if absent:
        raise absent
    terminal.warn(device.hint())
    use_threads(given.threads)
    with terminal.Progress(f"{given.model} on {given.dataset}") as progress, using(chosen()):
        made = checkpoints.train(
            given.model, given.dataset, epochs=given.epochs, learning_rate=given.learning_rate, weight_decay=given.weight_decay,
            seed=given.seed, size=given.input_size,
            start=given.weights, out=given.out, turn=Turns().compute, report=progress, command=_command(given),
        )  # fmt: skip
    for split in ("validation", "test"):
        figures = made.card[split]
        if figures is None:  # pictures of one's own may have no test split
            continue
        print(f"{split}: {figures['top1']:.2f} % ({figures['top1_low']:.2f} … {figures['top1_high']:.2f}), n = {figures['images']:,}")
    print(f"kept as {made.path}")


def _command(given) -> str:
    """The line that the card shows; empty, for the usual one, where only the usual options were given."""
    extra = []
    for option, value, usual in (
        ("--learning-rate", given.learning_rate, None), ("--weight-decay", given.weight_decay, checkpoints.WEIGHT_DECAY),
        ("--seed", given.seed, 0), ("--input-size", given.input_size, None),
        ("--weights", given.weights, "none"), ("--threads", given.threads, 1),
    ):  # fmt: skip
        if value != usual:
            extra += [option, str(value)]
    if not extra:
        return ""
    epochs = ["--epochs", str(given.epochs)] if given.epochs else []
    return shlex.join(["python", "-m", "core", "train", "--model", given.model, "--dataset", given.dataset, *epochs, *extra])
