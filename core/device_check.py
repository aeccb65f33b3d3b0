"""Whether CUDA or MPS computes what the processor computes, before it serves accuracy and training on this machine.

    found = check("cuda")     # device, sentence and figures; kept for `core.device.chosen`

A checkpoint answers the same pictures on both. Then it has its last layer drawn anew and is trained on both: plainly, with shared weights, on 8-bit grids of
weights and activations, and by a teacher. Called by `python -m core device`, which the cluster process runs where a device was found and not checked yet.

Answers are held to what exports are held to: a file that gives other labels on more than one picture of a thousand is refused, so a device that rounds
otherwise, say by TF32, would make runs that cannot be exported. Trainings are held to their mean loss: every update adds to a difference in the last digits,
until answers tip over. Convolutions by another library on one processor (`torch.backends.mkldnn` off) move it by less than 0.1 %; a rounding without a
gradient, or a codebook with twice its own, by 7 % and more.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from core import device, zoo
from core.datasets import load
from core.jobs.turns import Turns
from core.methods.apply import Context, apply
from core.metrics.accuracy import evaluate
from core.models.architecture import Architecture
from core.recipe import step_from_json
from core.weights import Compressed

MODEL, DATA, IMAGES = "mobilenet_v3_small", "digits", 256
PLAN = {"epochs": 2, "learning_rate": 0.02, "images": 300}
TRAININGS = {
    "plain": [{"step": "finetune"}],
    "with shared weights": [{"step": "share_weights", "clusters": 16}, {"step": "finetune"}],
    "on 8-bit grids": [{"step": "quantize", "weight_bits": 8, "activation_bits": 8}, {"step": "finetune"}],
    "by a teacher": [{"step": "distill", "hints": 1.0}],
}  # the last step of each takes the plan
ALIKE = 0.999  # of the pictures, at least
LOSS = 0.02  # of the mean loss of a training, at most
POINTS = 5.0  # of top-1 behind a training, at most


def check(name: str) -> dict:
    """`device` (the one that serves from now on) and a `sentence`; kept in the home folder, together with what was measured."""
    words, found = device.WORDS[name], {}
    try:
        there, here = _measured(name), _measured(device.CPU)
        found = {"alike": float((there["predicted"] == here["predicted"]).mean()), "speed": here["seconds"] / there["seconds"], "trainings": {}}
        for training, own in here["trainings"].items():
            theirs = there["trainings"][training]
            found["trainings"][training] = {"loss": abs(theirs["loss"] / own["loss"] - 1), "points": abs(theirs["top1"] - own["top1"])}
        worst = max(found["trainings"], key=lambda training: found["trainings"][training]["loss"])
        loss, points = (max(each[figure] for each in found["trainings"].values()) for figure in ("loss", "points"))
        serves = found["alike"] >= ALIKE and loss <= LOSS and points <= POINTS
        sentence = (
            f"{words} answers {100 * found['alike']:.1f} % of {IMAGES} pictures as the processor does, and {len(TRAININGS)} short trainings end within "
            f"{100 * loss:.2f} % of the processor's loss (furthest: {worst}) and {points:.1f} points of its top-1, in {1 / found['speed']:.2f} of its time, "
        )
        sentence += f"so {words} serves accuracy and training." if serves else "so the processor goes on to serve accuracy and training."
    except Exception as error:  # a driver that is too old, memory, an operator or a type that is missing: torch raises whatever it likes
        serves, reason = False, (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        sentence = f"{words} cannot be used ({reason}), so the processor serves accuracy and training."
    return device.keep(found | {"device": name if serves else device.CPU, "checked": name, "sentence": sentence})


def _measured(name: str) -> dict:
    """On that device `predicted` (n,), the `trainings`, each with its mean `loss` and its `top1` in percent, and the `seconds` of the first of them."""
    with device.using(name):
        device.place()
        checkpoint, dataset = zoo.checkpoint(MODEL, DATA), load(DATA)
        predicted = evaluate(checkpoint.load(), dataset, checkpoint.input_size, "validation", IMAGES, turn=Turns().compute).predicted
        trainings = {training: _trained(checkpoint, dataset, steps) for training, steps in TRAININGS.items()}
    return {"predicted": predicted, "trainings": trainings, "seconds": next(iter(trainings.values()))["seconds"]}


def _trained(checkpoint: zoo.Checkpoint, dataset, steps: list[dict]) -> dict:
    subject = Compressed.of(checkpoint.load(), Architecture(checkpoint.model, checkpoint.classes, checkpoint.input_size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        subject.module.classifier[-1].reset_parameters()
    said: list[dict] = []
    context = Context(checkpoint, dataset, turn=Turns().compute, report=lambda event: said.append(event.get("curve", {})))
    started = time.monotonic()
    for step in (*steps[:-1], steps[-1] | PLAN):
        apply(step_from_json(step), subject, context)
    epochs = [point for point in said if "top1" in point]
    return {"loss": float(np.mean([epoch["loss"] for epoch in epochs])), "top1": epochs[-1]["top1"], "seconds": time.monotonic() - started}
