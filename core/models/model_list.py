"""Measures what assets/models.json says of torchvision's classifiers and the teaching models, by building and running every one of them.

Called by `python -m core models --generate` through `zoo.write_models`; it takes ten minutes and up to 8 GB of memory. Whoever only
wants to read the list asks `zoo.models()`.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping
from types import MappingProxyType

import torch
import torchvision
from torch import nn

from core import zoo
from core.arithmetic import channels
from core.errors import BadArtifact
from core.metrics import cost
from core.models import teaching_models
from core.models.architecture import Architecture, probe, skeleton
from core.weights import weights_of

CLASSES = 10  # the head that parameters and multiply-adds are counted with
SIZES = (32, 40, 48, 56, 64, 75, 96, 112, 128, 160, 192, 224, 256, 299, 384, 448, 512)  # inputs tried, smallest first
STEPS = (1, 2, 4, 7, 8, 14, 16, 28, 32, 56, 64, 112, 224)
DOUBLE_AT_MOST = 30_000_000  # parameters; larger networks are compared in float32, which takes half the time and memory
FAMILIES = {
    "alexnet": "AlexNet", "convnext": "ConvNeXt", "densenet": "DenseNet", "efficientnet": "EfficientNet", "googlenet": "GoogLeNet",
    "inception": "Inception", "maxvit": "MaxViT", "mnasnet": "MNASNet", "mobilenetv2": "MobileNetV2", "mobilenetv3": "MobileNetV3",
    "regnet": "RegNet", "resnet": "ResNet", "shufflenetv2": "ShuffleNetV2", "squeezenet": "SqueezeNet", "swin_transformer": "Swin Transformer",
    "vgg": "VGG", "vision_transformer": "Vision Transformer",
}  # fmt: skip


def names() -> list[str]:
    """Torchvision's classifiers and the teaching models by name, sorted."""
    return sorted([*torchvision.models.list_models(module=torchvision.models), *teaching_models.MODELS])


def facts(model: str) -> dict:
    """Everything that the list says of one model."""
    size = smallest_input(model)
    module = Architecture.plain(model, CLASSES, size).build()
    teaching = model in teaching_models.MODELS
    return {
        "name": model,
        "family": teaching_models.FAMILY if teaching else FAMILIES[torchvision.models.get_model_builder(model).__module__.rpartition(".")[2]],
        "parameters": cost.parameters(module),
        "macs": cost.macs(module, size),
        "smallest_input": size,
        "input_step": input_step(model, size),
        "weights": [name for name, _parameter in weights_of(module)],
        "batch_norm": any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()),
        "imagenet_weights": not teaching and len(torchvision.models.get_model_weights(model)) > 0,
        "channel_prunable": channel_prunable(model, size),
    } | ({"teaching": True} if teaching else {})


def smallest_input(model: str) -> int:
    """The first of `SIZES` that the model accepts, evaluating one picture and training on two."""
    size = next(size for size in SIZES if _accepts(model, size))
    module = Architecture.plain(model, CLASSES, size).build()
    with torch.no_grad():  # what shapes alone would not tell
        assert tuple(module(torch.zeros(1, 3, size, size)).shape) == (1, CLASSES)
        assert tuple(module.train()(torch.zeros(2, 3, size, size)).shape) == (2, CLASSES)
    return size


def input_step(model: str, smallest: int) -> int:
    """The smallest of `STEPS` by which the input can grow: a vision transformer wants whole patches; the largest of all inputs where it cannot."""
    return next((step for step in STEPS if _accepts(model, smallest + step) and _accepts(model, smallest + 2 * step)), zoo.LARGEST_INPUT)


def _accepts(model: str, size: int) -> bool:
    """Whether shapes fit, from the constructor to the logits, for one picture in eval mode and two in training."""
    try:
        module = skeleton(model, CLASSES, size).eval()
        evaluated = probe(module, size)
        trained = probe(module.train(), size, batch=2)
    except (RuntimeError, ValueError, AssertionError):
        return False
    return tuple(evaluated.shape) == (1, CLASSES) and tuple(trained.shape) == (2, CLASSES)


def channel_prunable(model: str, size: int) -> bool | str:
    """True when half of the channels can be removed and what stays computes what the whole network does with them ignored.

    Otherwise the reason, as the end of a sentence.
    """
    plain = Architecture.plain(model, CLASSES, size)
    whole = plain.build()
    try:
        found = channels.groups(whole, size)
    except (RuntimeError, ValueError, ZeroDivisionError):
        return "torch-pruning cannot trace it"
    if not found:
        return "none of its channels can be removed without changing what the others do"
    exact = cost.parameters(whole) <= DOUBLE_AT_MOST
    _enliven(whole.double() if exact else whole, size)
    generator = torch.Generator().manual_seed(0)
    chosen = [(group, torch.randperm(group.units, generator=generator)[: group.units // 2]) for group in found]
    smaller = copy.deepcopy(whole)
    channels.remove(smaller, chosen)
    channels.disconnect(whole, chosen)
    x = torch.randn(2, 3, size, size, generator=generator).to(next(whole.parameters()).dtype)
    with torch.no_grad():
        expected, left = whole(x), smaller(x)
    if not torch.allclose(left, expected, rtol=0, atol=float(expected.std()) * (1e-6 if exact else 1e-2)):
        return "its channels hang together in ways that torch-pruning does not see"
    try:
        plain.of(smaller).build()
    except BadArtifact:
        return "its shapes cannot be described once channels are gone"
    return True


def _enliven(module: nn.Module, size: int) -> None:
    """Random weights and the batch-norm statistics that fit them, so that every channel matters to the output."""
    generator = torch.Generator().manual_seed(1)
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1 and "layer_scale" not in name:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator) if not name.endswith("bias") else parameter.normal_(std=0.1, generator=generator)
        for norm in norms:
            norm.momentum = None
            norm.train()
        module(torch.randn(4, 3, size, size, generator=generator).to(parameter.dtype))
        for norm in norms:
            norm.running_var.clamp_(min=0.1)
    module.eval()


def measure(report=lambda event: None, known: Mapping[str, dict] = MappingProxyType({})) -> list[dict]:
    """`facts` of every model, sorted by name; those of `known` models as they are."""
    found = []
    for number, model in enumerate(names()):
        report({"fraction": number / len(names()), "stage": model})
        found.append(known[model] if model in known else facts(model))
        gc.collect()
    return found
