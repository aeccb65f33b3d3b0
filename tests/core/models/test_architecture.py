"""Architectures as data: what from_json refuses, and that build gives back the very network that was described."""

import copy
import json

import pytest
import torch
import torch_pruning
from torch import nn

from core.errors import BadArtifact
from core.models.architecture import Architecture, probe, replaceable

SQUEEZENET = Architecture.plain("squeezenet1_1", 10, 32)


def described(**changes):
    return {"model": "squeezenet1_1", "classes": 10, "input_size": 32, "shapes": {}} | changes


def randomised(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1)
    return module


def halved(architecture):
    """A module whose channels were removed by torch-pruning, with random weights."""
    module = randomised(architecture.build())
    x = torch.randn(1, 3, architecture.input_size, architecture.input_size)
    kept = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if architecture.model.startswith("squeezenet"):
        kept = [module.classifier[1]]
    torch_pruning.pruner.MetaPruner(module, x, importance=torch_pruning.importance.MagnitudeImportance(p=1), pruning_ratio=0.5, ignored_layers=kept).step()
    return module


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "resnext50_32x4d"])
def test_a_pruned_network_comes_back_bit_for_bit(model):
    plain = Architecture.plain(model, 10, 32)
    pruned = halved(plain)
    architecture = plain.of(pruned)
    assert architecture.shapes
    again = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
    assert again == architecture
    module = again.build()
    module.load_state_dict(pruned.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(module(x), pruned.to(memory_format=torch.channels_last)(x))
    for (name, layer), other in zip(module.named_modules(), pruned.modules(), strict=True):
        for attribute in ("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features"):
            assert getattr(layer, attribute, None) == getattr(other, attribute, None), f"{name}.{attribute}"


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small", "swin_t", "vit_b_32", "googlenet"])
def test_a_plain_build_is_torchvisions_own_network(model):
    from core import zoo

    own = zoo.construct(model, 7, 224).eval()
    state = torch.random.get_rng_state()
    built = Architecture.plain(model, 7, 224).build()
    assert torch.equal(state, torch.random.get_rng_state())
    assert not built.training and repr(built) == repr(own)
    assert all(not parameter.is_meta and parameter.requires_grad for parameter in built.parameters())
    assert all(torch.equal(a, b) for a, b in zip(built.buffers(), own.buffers(), strict=True))
    built.load_state_dict(own.state_dict())
    assert Architecture.plain(model, 7, 224).of(built).shapes == {}
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(built(x), own(x), rtol=1e-4, atol=1e-4)


def test_probe_leaves_the_module_alone():
    module = SQUEEZENET.build()
    before = copy.deepcopy(module.state_dict())
    assert tuple(probe(module, 64, batch=3).shape) == (3, 10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(
    "value",
    [
        None, [], "resnet18", 3, {}, {"model": "squeezenet1_1"}, described(more=1),
        described(model="resnet19"), described(model=["x"]), described(model=None),
        described(classes=0), described(classes=100_001), described(classes=True), described(classes=10.0), described(classes="10"),
        described(input_size=0), described(input_size=31), described(input_size=100_000), described(input_size=None), described(input_size=float("nan")),
        described(shapes=None), described(shapes=[]), described(shapes={"nothing.weight": [1]}), described(shapes={3: [1]}),
        described(shapes={"features.0.weight": 3}), described(shapes={"features.0.weight": [64, 3, 3]}),
        described(shapes={"features.0.weight": [0, 3, 3, 3]}), described(shapes={"features.0.weight": [65, 3, 3, 3]}),
        described(shapes={"features.0.weight": [-1, 3, 3, 3]}), described(shapes={"features.0.weight": [True, 3, 3, 3]}),
        described(shapes={"features.0.weight": [1.0, 3, 3, 3]}), described(shapes={"features.0.weight": [10**30, 3, 3, 3]}),
    ],
)  # fmt: skip
def test_what_is_no_architecture_is_refused_in_one_sentence(value):
    with pytest.raises(BadArtifact) as caught:
        Architecture.from_json(value)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "shapes",
    [
        {"features.0.weight": [32, 3, 3, 3]},  # its bias still has 64 numbers
        {"features.0.weight": [32, 3, 3, 3], "features.0.bias": [32]},  # the next layer still wants 64 channels
        {"features.0.weight": [64, 3, 1, 1]},  # kernels keep their size
        {"features.0.weight": [64, 2, 3, 3]},  # pictures have three channels
        {"classifier.1.weight": [5, 512, 1, 1], "classifier.1.bias": [5]},  # ten classes were promised
    ],
)
def test_shapes_that_do_not_fit_each_other_are_refused(shapes):
    architecture = Architecture.from_json(described(shapes=shapes))
    with pytest.raises(BadArtifact):
        architecture.build()


def test_depthwise_convolutions_stay_depthwise():
    shapes = halved(Architecture.plain("mobilenet_v3_small", 10, 32))
    built = Architecture.plain("mobilenet_v3_small", 10, 32).of(shapes).build()
    depthwise = [layer for layer in built.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    assert len(depthwise) == 11 and all(layer.groups == layer.in_channels == layer.out_channels for layer in depthwise)


def factored(path, form):
    return described(factors={"features.0": ["svd", 8]} | {path: form})


@pytest.mark.parametrize(
    "value",
    [
        described(factors=None), described(factors=[]), described(factors=[["features.0", "svd", 8]]),
        factored("nothing", ["svd", 8]), factored("features", ["svd", 8]), factored("", ["svd", 8]), factored(3, ["svd", 8]),
        factored("features.0.0", ["svd", 1]),  # a factor has no factors
        factored("features.0.weight", ["svd", 1]),
        factored("features.0", None), factored("features.0", []), factored("features.0", "svd"), factored("features.0", {"svd": 8}),
        factored("features.0", [["svd"], 8]), factored("features.0", ["cp", 8]), factored("features.0", ["svd"]), factored("features.0", ["svd", 8, 8]),
        factored("features.0", ["svd", 0]), factored("features.0", ["svd", -1]), factored("features.0", ["svd", True]), factored("features.0", ["svd", 8.0]),
        factored("features.0", ["svd", float("nan")]), factored("features.0", ["svd", 10**30]), factored("features.0", ["svd", 19]),  # 19·(27 + 64) > 27·64
        factored("features.0", ["tucker", 8]), factored("features.0", ["tucker", 3, 64]), factored("features.0", ["tucker", 10**30, 1]),
        factored("features.3.squeeze", ["tucker", 4, 4]),  # 1×1
        factored("features.3.expand3x3", ["tucker", 4, None]),
        {**factored("features.0", ["svd", 8]), "shapes": {"features.0.weight": [32, 3, 3, 3]}},  # that weight is gone
        {**factored("features.0", ["svd", 8]), "shapes": {"features.0.0.weight": [9, 3, 3, 3]}},
        {**factored("features.0", ["svd", 8]), "shapes": {"features.0.1.bias": [65]}},
    ],
)  # fmt: skip
def test_factors_that_cannot_be_are_refused_in_one_sentence(value):
    with pytest.raises(BadArtifact) as caught:
        Architecture.from_json(value)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_shapes_that_do_not_fit_between_factors_are_refused():
    shapes = {"features.0.0.weight": [4, 3, 3, 3]}  # the next factor still wants 8 channels
    with pytest.raises(BadArtifact, match="do not fit each other"):
        Architecture.from_json({**factored("features.0", ["svd", 8]), "shapes": shapes}).build()
    Architecture.from_json({**factored("features.0", ["svd", 8]), "shapes": shapes | {"features.0.1.weight": [64, 4, 1, 1]}}).build()


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "vit_b_32"])
def test_a_factored_and_pruned_network_comes_back_bit_for_bit(model):
    plain = Architecture.plain(model, 10, 32)
    layers = replaceable(plain.build(), 32)
    forms = {
        path: ["tucker", 1 + shape[1] // 8, 2 + shape[0] // 8] if shape[2:] == (3, 3) else ["svd", 1 + min(shape[:2]) // 4] for path, shape in layers.items()
    }
    description = Architecture.from_json(plain.to_json() | {"factors": forms})
    state = torch.random.get_rng_state()
    module = description.build()
    assert torch.equal(state, torch.random.get_rng_state())
    assert plain.factored(module, forms) == description and description.shapes == {}
    if not model.startswith("vit"):
        module = halved(description)
    architecture = description.of(module)
    again = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
    assert again == architecture
    built = again.build()
    built.load_state_dict(module.state_dict())
    assert repr(built) == repr(module)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(built(x), module.to(memory_format=torch.channels_last)(x))


def test_attention_and_grouped_convolutions_cannot_be_replaced():
    assert not [path for path in replaceable(Architecture.plain("vit_b_32", 10, 32).build(), 32) if "self_attention" in path]
    assert not [path for path in replaceable(Architecture.plain("swin_t", 10, 32).build(), 32) if path.endswith(("qkv", "proj"))]
    resnext = Architecture.plain("resnext50_32x4d", 10, 32).build()
    assert set(replaceable(resnext, 32)) == {
        path for path, layer in resnext.named_modules() if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    }


def test_a_network_without_factors_is_described_as_before():
    assert sorted(SQUEEZENET.to_json()) == ["classes", "input_size", "model", "shapes"]
    assert Architecture.from_json(described(factors={})) == Architecture.from_json(described())
