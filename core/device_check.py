"""Whether CUDA or MPS computes what the processor computes, before it serves accuracy and training on this machine.

    found = check("cuda")     # device, sentence and figures; kept for `core.device.chosen`

A checkpoint answers the same pictures on both, then loses its last layer and is trained on both. Called by `python -m core device`, which the cluster
process runs where a device was found and not checked yet.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from core import device, zoo
from core.datasets import load
from core.errors import BadInput, NotHere
from core.jobs.turns import Turns
from core.metrics.accuracy import evaluate
from core.training import Plan, cross_entropy, fit

MODEL, DATA, IMAGES = "mobilenet_v3_small", "digits", 256
PLAN = Plan(epochs=2, learning_rate=0.02, images=512, batch_size=64, flip=False, seed=0)
ALIKE = 0.99  # of the pictures, at least: logits that nearly tie may fall either way
POINTS = 5.0  # of top-1 behind the short training, at most


def check(name: str) -> dict:
    """`device` (the one that serves from now on) and a `sentence`; kept in the home folder, together with what was measured."""
    words, found = device.WORDS[name], {}
    try:
        there, here = _measured(name), _measured(device.CPU)
        alike, ratio = float((there["predicted"] == here["predicted"]).mean()), here["seconds"] / there["seconds"]
        found = {"alike": alike, "top1": there["top1"], "top1_of_the_processor": here["top1"], "speed": ratio}
        serves = alike >= ALIKE and abs(there["top1"] - here["top1"]) <= POINTS
        sentence = (
            f"{words} answers {100 * alike:.1f} % of {IMAGES} pictures as the processor does, and a short training ends at {there['top1']:.1f} % top-1 "
            f"where the processor's ends at {here['top1']:.1f} %, in {1 / ratio:.2f} of its time, "
        )
        sentence += f"so {words} serves accuracy and training." if serves else "so the processor goes on to serve accuracy and training."
    except (NotHere, BadInput, RuntimeError) as error:  # torch's own of a driver that is too old, memory, an operator that is missing
        serves, reason = False, str(error).strip().splitlines()[0].rstrip(".")
        sentence = f"{words} cannot be used ({reason}), so the processor serves accuracy and training."
    return device.keep(found | {"device": name if serves else device.CPU, "checked": name, "sentence": sentence})


def _measured(name: str) -> dict:
    """`predicted` (n,), `top1` in percent behind the training, and its `seconds`, on that device."""
    with device.using(name):
        device.place()
        checkpoint, dataset = zoo.checkpoint(MODEL, DATA), load(DATA)
        module = checkpoint.load()
        turn = Turns().compute
        predicted = evaluate(module, dataset, checkpoint.input_size, "validation", IMAGES, turn=turn).predicted
        with torch.no_grad():
            module.classifier[-1].weight.zero_()
        started = time.monotonic()
        fit(module, dataset, checkpoint.input_size, PLAN, cross_entropy(), turn=turn)
        seconds = time.monotonic() - started
        right = evaluate(module, dataset, checkpoint.input_size, "validation", IMAGES, turn=turn).right
    return {"predicted": predicted, "top1": 100 * float(np.mean(right)), "seconds": seconds}
