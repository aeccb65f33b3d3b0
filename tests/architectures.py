"""The smallest torchvision model of each family, with lively random weights, and what every kind of step is tried with on it.

Random weights are enough to see that a step works on an architecture; what it costs in accuracy is measured on trained ones.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import nn

import core.methods  # noqa: F401  (registers the steps)
from core import artifact, zoo
from core.arithmetic.activations import measured
from core.datasets import Dataset, load
from core.home import folder
from core.methods.apply import Context, apply, check_fits
from core.models.architecture import Architecture
from core.recipe import Recipe, Step, step_from_json
from core.weights import Compressed
from tests.core.test_channel_prune import lively

CLASSES = 10
LOOKED_AT = ("mixed_precision", "contribution_prune")  # evaluate many times, so that a preview's few pictures must do


@dataclass(frozen=True)
class Setting:
    """A step as in a file, after what it needs before it."""

    step: dict
    after: tuple[dict, ...] = field(default=())

    def words(self) -> str:
        fields = ", ".join(f"{name} {value}" for name, value in self.step.items() if name != "step")
        behind = "".join(f", after {step['step']}" for step in self.after)
        return self.step["step"] + (f": {fields}" if fields else "") + behind

    def recipe(self) -> Recipe:
        return Recipe(tuple(step_from_json(step) for step in (*self.after, self.step)))


def _setting(name: str, *after: dict, **fields) -> Setting:
    return Setting({"step": name} | fields, after)


THREE_BITS = {"step": "quantize", "weight_bits": 3}
SETTINGS = (
    _setting("magnitude_prune"),
    _setting("gradient_prune", images=32),
    _setting("entropy_prune", images=32),
    _setting("entropy_prune", granularity="weight"),
    _setting("contribution_prune", images=32, sparsity=0.2),
    _setting("random_prune"),
    _setting("nm_prune"),
    _setting("channel_prune", importance="l1"),
    _setting("share_weights"),
    _setting("share_weights", scope="model"),
    _setting("factorize", energy=0.5),
    _setting("factorize", method="tucker", energy=0.5),
    _setting("quantize", weight_bits=4, granularity="group"),
    _setting("quantize", weight_bits=4, parameters="weights_and_biases", granularity="model"),
    _setting("quantize", weight_bits=8, activation_bits=8),
    _setting("quantize", weight_bits=8, activation_bits=8, activation_scale="dynamic"),
    _setting("mixed_precision", images=20),
    _setting("binarize"),
    _setting("binarize", activations=True),
    _setting("ternarize"),
    _setting("cast", dtype="float8"),
    _setting("calibrate_batchnorm", images=50),
    _setting("equalize"),
    _setting("correct_bias", THREE_BITS, images=50),
    _setting("round_adaptively", THREE_BITS, images=50, iterations=20),
    _setting("student", width=0.5),
    _setting("finetune", THREE_BITS, images=100, learning_rate=0.001),
    _setting("finetune", THREE_BITS, images=100, learning_rate=0.001, checkpoint_activations=True),
    _setting("finetune", images=100, learning_rate=0.001, checkpoint_activations=True, memory_limit=4000),
    _setting("distill", {"step": "student", "width": 1.0}, images=100, learning_rate=0.001),
    _setting("distill", THREE_BITS, images=100, learning_rate=0.001, hints=1.0, alpha_schedule="confidence"),
)


def smallest() -> dict[str, str]:
    """Family → its model with the fewest parameters, the fewest first; models that tests have put beside them are left out."""
    found: dict[str, str] = {}
    for name, facts in sorted(zoo.models().items(), key=lambda pair: pair[1]["parameters"]):
        if name != "five_layers":
            found.setdefault(facts["family"], name)
    return found


def whole(model: str) -> nn.Module:
    return lively(Architecture.plain(model, CLASSES, size(model)).build())


def size(model: str) -> int:
    return zoo.models()[model]["smallest_input"]


def made(recipe: Recipe, model: str, module: nn.Module, dataset: Dataset | None = None) -> Compressed:
    """What the engine makes of `module`, asking first whether the recipe fits, as the engine does; a refusal is raised."""
    zoo.check_model(model)
    before = model
    subject = Compressed.of(module, Architecture.plain(model, CLASSES, size(model)))
    for step in recipe.steps:
        step.check_model(before)
        before = step.model_after(before)
    check_fits(recipe.steps, subject)
    for number, step in enumerate(recipe.steps):
        apply(step, subject, _context(step, model, module, dataset or load("digits"), recipe.steps[number + 1 :]))
    return subject


def _context(step: Step, model: str, module: nn.Module, dataset: Dataset, later: tuple[Step, ...]) -> Context:
    """With `module`, as it was, for the checkpoint, and so for the teacher."""
    checkpoint = SimpleNamespace(model=model, input_size=size(model), classes=CLASSES, hash=f"untrained-{model}", load=lambda: copy.deepcopy(module).eval())
    if getattr(step, "hints", 0):
        checkpoint.path = folder("untrained") / f"{model}.safetensors"
        if not checkpoint.path.exists():
            save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, checkpoint.path)
    return Context(checkpoint, dataset, images_at_most=32 if step.name in LOOKED_AT else None, later=later)


def faults(subject: Compressed, recipe: Recipe, model: str) -> list[str]:
    """What is wrong with a compressed model: answers, plain weights, or the file it comes back from. None where all is well."""
    x = torch.randn(2, 3, size(model), size(model), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answers = measured(subject)(x)
    found = [] if answers.shape == (2, CLASSES) and torch.isfinite(answers).all() else ["the answers are not finite, or not one a class"]
    found += [
        f"{name} is not its state's value" for name, weight in subject.weights.items() if not torch.equal(subject.module.get_parameter(name), weight.value())
    ]
    back = artifact.read(artifact.write(subject, recipe=recipe).data)
    states = subject.module.state_dict(), back.module.state_dict()
    found += [f"{name} comes back otherwise" for name in states[0].keys() | states[1].keys() if not _same(states, name)]
    if back.activations != subject.activations or back.architecture != subject.architecture:
        found.append("the grids of activations, or the architecture, come back otherwise")
    with torch.inference_mode():
        if not torch.equal(measured(back)(x), answers):
            found.append("the model that comes back answers otherwise")
    return found


def _same(states: tuple[dict, dict], name: str) -> bool:
    return all(name in state for state in states) and torch.equal(states[0][name], states[1][name])
