"""Channel pruning over torchvision's families and every importance: what works, what is refused, and torch-pruning's own count of what is left."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
import torch_pruning
from torch import nn

from core import zoo
from core.arithmetic import channels
from core.datasets import load
from core.errors import BadRecipe
from core.methods.apply import Context, apply
from core.methods.channel_prune import ChannelPrune
from core.metrics import cost
from core.models.architecture import Architecture
from core.recipe import Recipe, params
from core.weights import Compressed
from core.work import Work
from tests.core.test_channel_prune import lively

IMPORTANCES = next(spec.choices for spec in params(ChannelPrune) if spec.name == "importance")
REFUSED = {  # the smallest member of each family → the importances that it has nothing to be ranked by
    "resnet18": (), "resnext50_32x4d": (), "vgg11_bn": (), "densenet121": (), "googlenet": (), "mobilenet_v2": (), "mobilenet_v3_small": (),
    "mnasnet0_5": (), "efficientnet_b0": (), "regnet_y_400mf": (), "shufflenet_v2_x0_5": (), "squeezenet1_1": ("bn_scale",),
    "convnext_tiny": ("bn_scale",), "vit_b_32": ("bn_scale",),
}  # fmt: skip
WHOLE = {"shufflenet_v2_x0_5": "shuffled", "convnext_tiny": "layer normalisation", "vit_b_32": "attention"}  # said of what stays


@functools.lru_cache(maxsize=1)
def whole_network(model: str) -> nn.Module:
    return lively(Architecture.plain(model, 10, zoo.models()[model]["smallest_input"]).build())


@functools.lru_cache(maxsize=1)
def whole_count(model: str, size: int) -> tuple[int, int]:
    return count(whole_network(model), size)


def count(module: nn.Module, size: int) -> tuple[int, int]:
    """Parameters, and multiply-adds of convolutions and linear layers, by torch-pruning, which counts additions of biases along."""
    _macs, parameters, by_layer, _ = torch_pruning.utils.count_ops_and_params(module, torch.zeros(1, 3, size, size), layer_wise=True)
    total = 0
    for layer in module.modules():
        counted, bias = int(by_layer.get(layer) or 0), 0 if getattr(layer, "bias", None) is None else layer.bias.numel()
        if isinstance(layer, nn.Conv2d):
            total += counted * layer.weight.numel() // (layer.weight.numel() + bias)
        elif isinstance(layer, nn.Linear) and counted:
            total += counted - bias
    return parameters, total


def test_the_list_has_every_family_that_is_asked_for():
    families = {zoo.models()[model]["family"] for model in REFUSED}
    assert len(families) >= 12 and {zoo.models()[model]["family"] for model in WHOLE} <= set(channels.WHOLE)
    assert {model for model in REFUSED if not zoo.models()[model]["batch_norm"]} == {model for model, refused in REFUSED.items() if "bn_scale" in refused}


@pytest.mark.parametrize("model", [name for name, facts in zoo.models().items() if not facts["batch_norm"]])
def test_every_model_without_batch_norm_is_refused_a_ranking_by_it_from_the_list_alone(model):
    with pytest.raises(BadRecipe, match=f"cannot rank the channels of {model} by bn_scale, because it has no batch norm; take l1, l2 or taylor"):
        Work(model, "digits", Recipe((ChannelPrune(importance="bn_scale"),)))


@pytest.mark.slow
@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("model", REFUSED)
def test_channels_leave_or_a_sentence_says_why_not(model, importance):
    size = zoo.models()[model]["smallest_input"]
    step = ChannelPrune(sparsity=0.3, importance=importance, images=32, round_to=1)
    if importance in REFUSED[model]:
        with pytest.raises(BadRecipe) as caught:  # by the model list alone: nothing was built
            Work(model, "digits", Recipe((step,)))
        assert str(caught.value) == f"channel_prune cannot rank the channels of {model} by {importance}, because it has no batch norm; take l1, l2 or taylor."
        return
    whole = whole_network(model)
    subject = Compressed.of(whole, Architecture.plain(model, 10, size))
    apply(step, subject, Context(SimpleNamespace(input_size=size), load("digits")))
    with torch.inference_mode():
        answers = subject.module(torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)))
    assert answers.shape == (2, 10) and torch.isfinite(answers).all()
    parameters, macs = count(subject.module, size)
    assert cost.parameters(subject.module) == parameters < 0.97 * cost.parameters(whole)
    assert cost.macs(whole, size) - cost.macs(subject.module, size) == whole_count(model, size)[1] - macs > 0
    assert model not in WHOLE or any(WHOLE[model] in note for note in subject.notes)
    assert all(note.endswith(".") for note in subject.notes)
