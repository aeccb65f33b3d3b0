"""Makes checkpoints: trains a model on a dataset from its plain start, and writes weights with a card.

Called by `python -m core train` and, for the page's Train button, by a worker of the cluster.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from pathlib import Path

from core import zoo
from core.datasets import load
from core.datasets.base import fitting
from core.errors import BadField, Cancelled
from core.home import folder, write_whole
from core.recipe import digest

# model → (epochs, peak learning rate) on a set of the size of Fashion-MNIST; found by training, see the cards
SETTINGS = {
    "resnet18": (11, 0.08),
    "mobilenet_v3_small": (36, 0.1),
    "squeezenet1_1": (32, 0.03),
    "shufflenet_v2_x0_5": (32, 0.15),
    "lenet_300_100": (40, 0.05),
    "lenet_5": (8, 0.05),
}
ELSE = (12, 0.05)
BATCH_SIZE = 128
LARGE_MACS, LARGE_BATCH_SIZE = 40_000_000, 64  # a larger model takes its turn for fewer pictures, at a rate as much smaller (arXiv:1706.02677)
SMALL_SET = 5_000  # pictures; sets below this get more epochs, of smaller batches and smaller steps
SMALL_EPOCHS, SMALL_BATCH_SIZE = 60, 32
# model → (epochs, peak learning rate, batch size) on a small set. SqueezeNet has no batch norm and ends in a ReLU: noisier
# or larger steps switch every class's output off, for good.
ON_SMALL_SETS = {"squeezenet1_1": (120, 0.012, 128), "squeezenet1_0": (120, 0.012, 128)}
STARTS = {"none": "random weights", "imagenet": "ImageNet weights", "checkpoint": "the checkpoint that was there before"}
LABEL_SMOOTHING = 0.05
WEIGHT_DECAY = 5e-4
SHIFT = 2


def settings(model: str, pictures: int) -> tuple[int, float, int]:
    """(epochs, peak learning rate, batch size) that this project trains `model` with on so many pictures."""
    epochs, rate = SETTINGS.get(model, ELSE)
    if pictures >= SMALL_SET:
        large = model not in SETTINGS and (zoo.models()[model].get("macs") or 0) > LARGE_MACS
        return (epochs, rate / 2, LARGE_BATCH_SIZE) if large else (epochs, rate, BATCH_SIZE)
    return ON_SMALL_SETS.get(model, (SMALL_EPOCHS, rate / 4, SMALL_BATCH_SIZE))


def train(
    model: str,
    dataset_name: str,
    *,
    epochs: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float = WEIGHT_DECAY,
    seed: int = 0,
    size: int | None = None,
    start: str = "none",
    out: Path | None = None,
    turn=contextlib.nullcontext,
    report=lambda event: None,
    command: str = "",
) -> zoo.Checkpoint:
    """Train, measure on validation and test, and write `OUT/FAMILY/MODEL.safetensors` (float16) with its card.

    Trains on the train and calibration splits, never on the held-out pictures. What is measured is what was written:
    the weights are rounded to float16 first. A killed training goes on from its last whole epoch; one that its person stopped
    raises `Cancelled`, which says so. `start` is "none" for
    random weights, "imagenet", or "checkpoint" for another cycle from the checkpoint that is there (arXiv:1608.03983).
    """
    import torch
    from safetensors.torch import save

    from core import training
    from core.arithmetic.finite import check_finite
    from core.metrics.accuracy import evaluate, summary

    zoo.check_model(model)
    dataset = load(dataset_name)
    pictures = len(dataset.split("train")) + len(dataset.split("calibration"))
    usual_epochs, usual_rate, batch_size = settings(model, pictures)
    epochs = usual_epochs if epochs is None else epochs
    size = zoo.input_size(model, size or dataset.source.input_size)
    whole_batch, batch_size = batch_size, fitting(batch_size, size)  # of large pictures a batch has fewer
    learning_rate = usual_rate * batch_size / whole_batch if learning_rate is None else learning_rate
    if not 1 <= epochs <= 1000:
        raise BadField("epochs", epochs, "a whole number from 1 to 1000")
    if start not in STARTS:
        raise BadField("start", start, "one of " + ", ".join(STARTS))
    if not 0 < learning_rate <= 10:
        raise BadField("learning_rate", learning_rate, "a number above 0, at most 10")
    if not 0 <= weight_decay <= 1:
        raise BadField("weight_decay", weight_decay, "a number from 0 to 1")
    torch.manual_seed(seed)
    before = zoo.checkpoint(model, dataset_name) if start == "checkpoint" else None
    module = before.load() if before else zoo.build(model, len(dataset.source.classes), size, start == "imagenet")
    plan = training.Plan(
        epochs=epochs, learning_rate=learning_rate, flip=dataset.source.flip, shift=SHIFT, calibration_too=True, seed=seed,
        batch_size=batch_size, weight_decay=weight_decay,
    )  # fmt: skip
    job = digest(json.dumps([model, dataset_name, size, before.hash if before else start]))
    state = folder("training") / f"{model}-{dataset_name}-{job}.safetensors"
    try:
        training.fit(
            module, dataset, size, plan, training.cross_entropy(LABEL_SMOOTHING), turn=turn, report=report, state=state,
            watch=min(1_000, len(dataset.split("validation"))),
        )  # fmt: skip
    except KeyboardInterrupt:
        raise Cancelled(_farewell(training.whole_epochs(state, plan))) from None
    stored = {name: tensor.half().contiguous() if tensor.is_floating_point() else tensor.contiguous() for name, tensor in module.state_dict().items()}
    check_finite(stored, "What was trained, rounded to float16,", f"take a learning rate below {learning_rate:g}")
    module.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()})
    figures = {
        split: summary(evaluate(module, dataset, size, split, batch_size=training.WATCH_BATCH, turn=turn)) if len(dataset.split(split)) else None
        for split in ("validation", "test")
    }
    card = {
        "model": model, "dataset": dataset_name, "family": dataset.source.family, "classes": len(dataset.source.classes),
        "input_size": size, "stem": zoo.stem(model, size),
        "command": command or f"python -m core train --model {model} --dataset {dataset_name} --epochs {epochs}",
        "epochs": epochs, "learning_rate": learning_rate, "weight_decay": weight_decay, "batch_size": plan.batch_size, "seed": seed, "trained_on": pictures,
        "start": STARTS[start], "before": _history(before), "threads": torch.get_num_threads(), "stored_as": "float16",
        "validation": figures["validation"], "test": figures["test"], "date": datetime.date.today().isoformat(), "versions": versions(),
    }  # fmt: skip
    path = (out or zoo.folders()[0]) / dataset.source.family / f"{model}.safetensors"
    write_whole(path, save(stored))
    write_whole(path.with_suffix(".json"), (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode())
    state.unlink(missing_ok=True)
    return zoo.Checkpoint(model, dataset.source.family, path, card)


def _farewell(whole_epochs: int) -> str:
    if not whole_epochs:
        return "Cancelled before the first epoch was whole; the same command starts anew."
    return f"Cancelled after {whole_epochs} whole epoch{'s' if whole_epochs > 1 else ''}; the same command goes on from there."


def _history(before: zoo.Checkpoint | None) -> dict | None:
    """What the card keeps of the checkpoint that a further cycle started from."""
    if before is None:
        return None
    return {key: before.card.get(key) for key in ("command", "epochs", "learning_rate", "weight_decay", "seed", "validation", "test", "before")}


def versions() -> dict[str, str]:
    """The versions of what computes: Python, torch and torchvision."""
    import platform
    from importlib.metadata import version

    return {"python": platform.python_version(), "torch": version("torch"), "torchvision": version("torchvision")}
