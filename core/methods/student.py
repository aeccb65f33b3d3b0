"""A student: a fresh, smaller network in the place of the checkpoint's, to be taught by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core import zoo
from core.errors import BadField, BadRecipe
from core.methods.apply import applies, fits
from core.recipe import STRUCTURE, TRAIN, Step, param, register

MULTIPLE = 8  # channels; kernels like multiples
SLOW = 0.05  # momentum of a batch norm; torch's own is 0.1, mobilenet_v3's 0.01


@register
@dataclass(frozen=True)
class Student(Step):
    """Starts with a fresh network for the checkpoint's classes and input size: torchvision's initialisation, drawn by the seed.

    A width w keeps the share w of every layer's channels, nearest to a multiple of 8, as in MobileNets (Howard et al. 2017,
    arXiv:1704.04861): the last channels leave, tied ones together, and each weight is multiplied by √(n / n′), n and n′ the
    numbers it sums over per output before and after. So what a layer puts out has the variance that it has at full width:
    Var(y) = n · Var(W) · E(x²) (He et al. 2015, arXiv:1502.01852). Channels that are shuffled, split or normalised together stay.

    A teacher "self" of a distillation after it is still the checkpoint. To train a small network by a larger one's answers is
    Hinton et al. 2015, arXiv:1503.02531.
    """

    name: ClassVar[str] = "student"
    title: ClassVar[str] = "Student"
    kind: ClassVar[str] = STRUCTURE
    first: ClassVar[bool] = True

    model: str = param("self", help='"self" for the architecture of the model itself, or the name of another torchvision model.')
    width: float = param(0.5, 0.25, 1.0, 0.05, help="Share of the channels of each layer; 1 leaves the architecture as it is.", harder="down")

    def check(self) -> None:
        if self.model != "self" and self.model not in zoo.models():
            raise BadField("student.model", self.model, '"self" or the name of a torchvision model')

    def check_model(self, model: str) -> None:
        """Raises `BadRecipe` when the student cannot be made narrower; reads the model list only."""
        own = self.model_after(model)
        prunable = zoo.models().get(own, {}).get("channel_prunable", True)
        if self.width < 1 and prunable is not True:
            raise BadRecipe(f"student cannot make {own} narrower: {prunable}; take a width of 1.")

    def model_after(self, model: str) -> str:
        return model if self.model == "self" else self.model


@fits(Student)
def shapes(step: Student, subject):
    """A student of the same shapes as any other seed's; raises `BadRecipe` where there is none."""
    from core.weights import Compressed

    before = subject.architecture
    step.check_model(before.model)
    model = step.model_after(before.model)
    zoo.check_reads(model, before.input_size)
    module, architecture, _whole = _made(model, before.classes, before.input_size, step.width, 0)
    return Compressed.of(module, architecture)


@applies(Student)
def apply(step: Student, subject, context) -> None:
    from core.weights import Compressed

    step.check_model(subject.architecture.model)
    model = step.model_after(subject.architecture.model)
    zoo.check_reads(model, context.input_size)
    with context.turn():
        module, architecture, whole = _fresh(model, context.checkpoint.classes, context.input_size, step.width, context.seed)
        fresh = Compressed.of(module, architecture)
    subject.module, subject.architecture, subject.weights = fresh.module, fresh.architecture, fresh.weights
    subject.activations.clear()
    if whole:
        from core.arithmetic.channels import whole_because

        subject.notes.append(f"student left {whole} layers at full width, because {whole_because(model)}.")
    momenta = [layer.momentum for layer in fresh.module.modules() if getattr(layer, "running_var", None) is not None]
    if momenta and min(momenta) <= SLOW:
        subject.notes.append(
            f"Batch norms of {model} average over about {1 / min(momenta):.0f} updates, which a short training does not have; put calibrate_batchnorm after it."
        )
    if not any(later.kind == TRAIN for later in context.later):
        subject.notes.append("The student's weights are random, because no training follows; put a distill or finetune step after it.")


def _fresh(model: str, classes: int, input_size: int, width: float, seed: int):
    """A new network of that width, its architecture, and how many of its layers could not be narrowed. The last one is remembered."""
    key = (model, classes, input_size, width, seed)
    if key not in _LAST:
        _LAST.clear()
        _LAST[key] = _made(*key)
    return _LAST[key]


_LAST: dict[tuple, tuple] = {}


def _made(model: str, classes: int, input_size: int, width: float, seed: int):
    import torch

    from core.arithmetic import channels
    from core.models.architecture import Architecture

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = zoo.build(model, classes, input_size)
    found = channels.groups(module, input_size) if width < 1 else []
    _narrow(module, found, width)
    architecture = Architecture.plain(model, classes, input_size).of(module)
    made = architecture.build()  # in the memory order that a packed file comes back in
    made.load_state_dict(module.state_dict())
    return made, architecture, len(channels.untouched(module, found)) if width < 1 else 0


def _narrow(module, groups: list, width: float) -> None:
    """Take the last channels of every group, and scale what reads fewer numbers than before."""
    import torch

    from core.arithmetic import channels
    from core.weights import weights_of

    before = {name: parameter[0].numel() for name, parameter in weights_of(module)}
    removed = []
    for group in groups:
        kept = channels.nearest(group.units - round((1 - width) * group.units), group.units, group.width, MULTIPLE)
        removed.append((group, torch.arange(kept, group.units)))
    channels.remove(module, removed)
    with torch.no_grad():
        for name, parameter in weights_of(module):
            if parameter[0].numel() != before[name]:
                parameter.mul_((before[name] / parameter[0].numel()) ** 0.5)
