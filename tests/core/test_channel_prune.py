"""Channel pruning against brute force, torch-pruning's own surgery, and the whole network with the channels ignored."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch_pruning
from torch import nn

from core import engine, zoo
from core.arithmetic import channels
from core.datasets import load
from core.errors import BadField, BadRecipe
from core.methods.apply import Context, apply
from core.methods.channel_prune import ChannelPrune, keeps_all, select
from core.methods.magnitude_prune import MagnitudePrune
from core.metrics import cost
from core.models.architecture import Architecture
from core.recipe import Recipe
from core.weights import Compressed
from core.work import Work

SHIPPED = ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"]
FAMILIES = [
    "mobilenet_v2",
    "vgg11_bn",
    *(
        pytest.param(model, marks=pytest.mark.slow)
        for model in (
            "resnet50", "resnext50_32x4d", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "regnet_y_400mf", "convnext_tiny", "swin_t",
            "vit_b_32",
        )
    ),
]  # fmt: skip
LEAST = 18.2  # summed |w| that one of eight channels of the five-layer model lies below


def lively(module):
    """Random weights and statistics, of sizes at which every channel counts."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if not tensor.is_floating_point():
                continue
            if tensor.dim() > 1 and "layer_scale" not in name:
                tensor.normal_(std=1.5 / tensor[0].numel() ** 0.5)
            elif name.endswith(("bias", "running_mean")):
                tensor.normal_(std=0.1)
            else:
                tensor.uniform_(0.5, 1.5)
    return module


def fresh(model, size=32):
    plain = Architecture.plain(model, 10, size)
    return Compressed.of(lively(plain.build()), plain)


def context(seed=0):
    return Context(SimpleNamespace(input_size=32), load("digits"), seed)


def pruned(model, **fields):
    subject = fresh(model)
    apply(ChannelPrune(**{"importance": "l2"} | fields), subject, context(fields.pop("seed", 0)))
    return subject


def half_of_each(groups):
    generator = torch.Generator().manual_seed(3)
    return [(group, torch.randperm(group.units, generator=generator)[: group.units // 2]) for group in groups]


def test_a_chain_of_layers_by_brute_force():
    torch.manual_seed(1)
    chain = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5)).double().eval()
    first, second, last = (chain[i].weight.detach().numpy() for i in (0, 2, 5))
    by_hand = [
        [np.abs(first[c]).sum() + np.abs(second[:, c]).sum() for c in range(6)],
        [np.abs(second[c]).sum() + np.abs(last[:, c * 16 : (c + 1) * 16]).sum() for c in range(4)],
    ]
    groups = channels._trace(copy.deepcopy(chain).float(), 8)
    assert [group.layer for group in groups] == ["0", "2"]
    sizes = {path: chain.get_submodule(path).weight.detach().abs() for path in ("0", "2", "5")}
    scores = [channels.sums(group, group.weights(), sizes, chain) for group in groups]
    for score, expected in zip(scores, by_hand, strict=True):
        np.testing.assert_allclose(score.numpy(), expected)

    gone = select(ChannelPrune(sparsity=0.5, scope="layer", round_to=1), [score.tolist() for score in scores], [1, 1])
    assert gone == [sorted(np.argsort(of_layer)[: len(of_layer) // 2].tolist()) for of_layer in by_hand]
    silenced = copy.deepcopy(chain)  # the whole network, the outputs of the lost channels set to zero
    with torch.no_grad():
        for layer, lost in ((silenced[0], gone[0]), (silenced[2], gone[1])):
            layer.weight[lost] = 0
            layer.bias[lost] = 0
    channels.remove(chain, [(group, torch.tensor(units)) for group, units in zip(groups, gone, strict=True)])
    assert [tuple(chain[i].weight.shape) for i in (0, 2, 5)] == [(3, 3, 3, 3), (2, 3, 3, 3), (5, 32)]
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(chain(x), silenced(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("model", SHIPPED + FAMILIES)
def test_what_stays_computes_what_the_whole_network_does_when_nothing_reads_the_rest(model):
    module = Architecture.plain(model, 10, 32).build()
    if model.startswith("vgg"):  # whose hidden layers of 4,096 take gigabytes in float64
        module.classifier[0], module.classifier[3], module.classifier[6] = nn.Linear(512 * 49, 64), nn.Linear(64, 64), nn.Linear(64, 10)
    groups = channels.groups(lively(module), 32)
    chosen = half_of_each(groups)
    whole, smaller = module.double(), copy.deepcopy(module)
    before = cost.parameters(smaller)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        untouched = whole(x)
        channels.disconnect(whole, chosen)
        channels.remove(smaller, chosen)
        expected, found = whole(x), smaller(x)
    assert cost.parameters(smaller) < 0.7 * before
    assert (expected - untouched).abs().max() > 1e-3 * untouched.std()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.std()))


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", pytest.param("densenet121", marks=pytest.mark.slow)])
def test_the_surgery_is_torch_prunings_own(model):
    ours = lively(Architecture.plain(model, 10, 32).build())
    theirs = copy.deepcopy(ours)
    chosen = half_of_each(channels.groups(ours, 32))
    channels.remove(ours, chosen)
    x = torch.zeros(1, 3, 32, 32)
    graph = torch_pruning.DependencyGraph().build_dependency(theirs, x)
    for group, units in chosen:
        root = theirs.get_submodule(group.layer)
        graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, units.tolist()).prune()
    for (name, own), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(own, other), name
    macs, parameters = torch_pruning.utils.count_ops_and_params(theirs, x)
    assert (macs, parameters) == torch_pruning.utils.count_ops_and_params(ours, x)
    assert cost.parameters(ours) == parameters


@pytest.mark.parametrize(
    ("model", "sparsity"), [*((model, 0.5) for model in SHIPPED), ("mobilenet_v3_small", 0.9), pytest.param("resnext50_32x4d", 0.5, marks=pytest.mark.slow)]
)
def test_a_pruned_model_comes_back_from_its_description_bit_for_bit(model, sparsity):
    subject = pruned(model, sparsity=sparsity)
    architecture = Architecture.from_json(json.loads(json.dumps(subject.architecture.to_json())))
    again = architecture.build()
    again.load_state_dict(subject.module.state_dict())
    x = torch.randn(3, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert torch.equal(again(x), subject.module(x))
    assert set(subject.weights) == set(fresh(model).weights)
    assert all(torch.equal(weight.value(), subject.module.get_parameter(name)) for name, weight in subject.weights.items())


@pytest.mark.parametrize("model", ["mobilenet_v3_small", "squeezenet1_1"])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("round_to", [1, 8])
def test_the_share_is_about_what_was_asked_and_channels_are_multiples(model, scope, round_to):
    subject = fresh(model)
    groups = channels.groups(subject.module, 32)
    apply(ChannelPrune(sparsity=0.5, importance="l2", scope=scope, round_to=round_to), subject, context())
    kept = [len(subject.module.get_submodule(group.layer).weight) for group in groups]
    whole = [group.units * group.width for group in groups]
    assert all(left == full or left % round_to == 0 for left, full in zip(kept, whole, strict=True))
    assert all(left >= min(full, round_to) for left, full in zip(kept, whole, strict=True))
    assert sum(kept) / sum(whole) == pytest.approx(0.5, abs=0.03 if round_to == 1 else 0.08)


def test_every_layer_keeps_a_channel_and_the_classifier_its_classes():
    for model in SHIPPED[1:]:
        subject = pruned(model, sparsity=0.9, round_to=1)
        assert all(min(parameter.shape) >= 1 for parameter in subject.module.parameters())
        assert tuple(subject.module(torch.zeros(2, 3, 32, 32)).shape) == (2, 10)


def test_nothing_changes_at_no_sparsity():
    subject = fresh("squeezenet1_1")
    before = copy.deepcopy(subject.module.state_dict())
    apply(ChannelPrune(sparsity=0.0), subject, context())
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.module.state_dict().items())
    assert subject.architecture.shapes == {} and subject.notes == []


@pytest.mark.parametrize("importance", ["taylor", "l1", "l2", "bn_scale", "entropy", "random"])
def test_the_same_seed_removes_the_same_channels(importance):
    def state(seed):
        subject = fresh("mobilenet_v3_small")
        apply(ChannelPrune(sparsity=0.3, importance=importance, images=64), subject, context(seed))
        return subject.module.state_dict()

    first, second, other = state(1), state(1), state(2)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    differs = any(tensor.shape != other[name].shape or not torch.equal(tensor, other[name]) for name, tensor in first.items())
    assert differs == (importance == "random")


def test_zeros_of_an_earlier_prune_are_found_again():
    subject = fresh("squeezenet1_1")
    apply(MagnitudePrune(sparsity=0.5), subject, context())
    apply(ChannelPrune(sparsity=0.3, importance="l1"), subject, context())
    for weight in subject.weights.values():
        assert weight.mask is not None and torch.equal(weight.mask, weight.latent != 0)
    assert cost.nonzero(subject.module) < cost.parameters(subject.module)


def test_only_the_chosen_layers_get_narrower():
    subject = pruned("resnet18", sparsity=0.5, layers="layer4.*.conv1")
    assert set(subject.architecture.shapes) == {
        f"layer4.{block}.{name}" for block in (0, 1) for name in ("conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight")
    }


def test_shuffled_channels_are_left_and_a_note_says_so():
    subject = pruned("shufflenet_v2_x0_5", sparsity=0.5)
    assert len(subject.notes) == 1 and "shuffled" in subject.notes[0]
    assert not any(name.startswith("stage2.1.branch2.5") and name.endswith("bias") for name in subject.architecture.shapes)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("squeezenet1_1", {"importance": "bn_scale"}),  # has no batch norm
        ("resnet18", {"layers": "fc"}),  # the classifier keeps its classes
        ("resnet18", {"layers": "layer1.0.conv2"}),  # its channels are added to those of conv1 and layer1.1
    ],
)
def test_what_cannot_be_pruned_is_refused_in_a_sentence(model, fields):
    subject = fresh(model)
    with pytest.raises(BadRecipe) as caught:
        apply(ChannelPrune(sparsity=0.3, **{"importance": "l2"} | fields), subject, context())
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert subject.architecture.shapes == {}


def test_a_model_that_the_list_calls_unprunable_is_refused_before_any_work(monkeypatch):
    monkeypatch.setitem(zoo.models(), "squeezenet1_1", {"name": "squeezenet1_1", "channel_prunable": "it is knitted"})
    with pytest.raises(BadRecipe, match="cannot prune squeezenet1_1: it is knitted"):
        ChannelPrune().check_model("squeezenet1_1")


@pytest.mark.parametrize(
    "fields", [{"sparsity": 0.95}, {"sparsity": -0.05}, {"sparsity": float("nan")}, {"round_to": 3}, {"importance": "magic"}, {"images": 0}]
)
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(BadField):
        ChannelPrune(**fields)


def test_structure_cannot_follow_a_grid_and_the_recipe_reads_from_json():
    recipe = Recipe.from_json({"steps": [{"step": "channel_prune", "sparsity": 0.5}]})
    assert recipe.steps[0] == ChannelPrune(sparsity=0.5)
    with pytest.raises(BadRecipe, match="before quantize"):
        Recipe.from_json({"steps": [{"step": "quantize"}, {"step": "channel_prune"}]})


@pytest.mark.parametrize(
    ("kept", "units", "width", "multiple", "expected"),
    [
        (5, 16, 1, 8, 8), (12, 16, 1, 8, 16), (11, 16, 1, 8, 8), (1, 6, 1, 8, 6), (3, 10, 1, 1, 3), (0, 10, 1, 1, 1), (2, 4, 32, 8, 2),
        (10, 10, 1, 8, 10), (1, 12, 2, 8, 4),
    ],
)  # fmt: skip
def test_rounding_keeps_the_nearest_multiple_or_everything(kept, units, width, multiple, expected):
    assert channels.nearest(kept, units, width, multiple) == expected


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sparsity": 0.05, "round_to": 16}, "5 % of them rounds to none where a layer keeps a multiple of 16"),
        ({"sparsity": 0.05, "round_to": 1, "scope": "layer", "layers": "features.0"}, "5 % of them rounds to none"),
        ({"threshold": 0.0}, "none is of less importance than 0"),
        ({"threshold": LEAST, "layers": "features.0"}, f"those of less importance than {LEAST:g} round to none where a layer keeps a multiple of 8"),
    ],
)
def test_channels_of_which_none_leaves_are_noted(fields, said, subject, five_layer_checkpoint):
    step = ChannelPrune(importance="l1", **fields)
    apply(step, subject, context())
    assert subject.notes == [f"channel_prune removed no channels, because {said}."]
    assert all(torch.equal(value, subject.module.state_dict()[name]) for name, value in five_layer_checkpoint.load().state_dict().items())
    apply(ChannelPrune(sparsity=0.5, importance="l1", round_to=1), subject, context())
    assert len(subject.notes) == 1


def test_a_share_that_is_said_to_remove_nothing_does_so_however_channels_rank():
    generator, said = np.random.default_rng(0), []
    for _ in range(300):
        count = int(generator.integers(1, 6))
        units, widths = generator.integers(1, 40, count).tolist(), generator.integers(1, 4, count).tolist()
        share, multiple, scope = round(float(generator.uniform(0.01, 0.4)), 2), int(generator.choice([1, 4, 8, 16])), str(generator.choice(["global", "layer"]))
        step = ChannelPrune(sparsity=share, round_to=multiple, scope=scope)
        removed = [any(select(step, [generator.random(each).tolist() for each in units], widths)) for _ in range(5)]
        said.append(keeps_all(step, units, widths))
        assert not (said[-1] and any(removed)) and (scope == "global" or said[-1] == (not any(removed)))
    assert 30 < sum(said) < 270


def test_the_note_that_none_leaves_comes_with_the_run(five_layer_checkpoint):
    step = ChannelPrune(sparsity=0.05, importance="l1", round_to=16)
    result = engine.run(Work(five_layer_checkpoint.model, "digits", Recipe((step,)), images=50, latency=False))
    assert any("channel_prune removed no channels" in note for note in result.metrics["notes"])
