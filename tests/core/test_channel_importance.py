"""What makes a channel worth keeping: each importance against a plain second implementation, and thresholds of it."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from core.arithmetic import channels
from core.datasets import load
from core.methods.apply import Context, apply
from core.methods.channel_prune import ChannelPrune, _measure_taylor
from core.models.architecture import Architecture
from core.recipe import Recipe
from core.weights import Compressed
from core.work import Work
from tests.core.test_channel_prune import context, fresh, lively


def test_taylor_is_the_slope_of_the_loss_as_a_channel_fades():
    """Against finite differences: scale what reads a channel by 1 ± h."""
    module = lively(Architecture.plain("mobilenet_v3_small", 10, 32).build())
    group = channels.groups(module, 32)[4]
    module.double()
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(16, 3, 32, 32, dtype=torch.float64, generator=generator), torch.randint(10, (16,), generator=generator)
    source = SimpleNamespace(batches=lambda split, size, batch, count: [(x, labels)])
    (score,) = _measure_taylor([group], module, Context(SimpleNamespace(input_size=32), source), 16)
    for unit in (0, group.units - 1):
        losses = []
        for scale in (1 + 1e-5, 1 - 1e-5):
            faded = copy.deepcopy(module)
            for part in group.readers():
                layer = faded.get_submodule(part.layer)
                with torch.no_grad():
                    layer.weight[:, part.channels[part.units == unit]] *= scale
            losses.append(float(nn.functional.cross_entropy(faded(x), labels).detach()))
        assert float(score[unit]) == pytest.approx(((losses[0] - losses[1]) / 2e-5) ** 2, rel=1e-3)


def test_taylor_reads_no_more_pictures_than_a_preview_allows():
    seen = []
    digits = load("digits")
    source = SimpleNamespace(
        fingerprint="counting", split=digits.split, batches=lambda split, *rest: seen.append((split, rest[-1])) or digits.batches(split, *rest)
    )
    subject = fresh("squeezenet1_1")
    apply(ChannelPrune(importance="taylor"), subject, Context(SimpleNamespace(input_size=32), source, images_at_most=40))
    assert seen == [("calibration", 40)]
    apply(ChannelPrune(importance="taylor", sparsity=0.4), fresh("squeezenet1_1"), Context(SimpleNamespace(input_size=32), source, images_at_most=40))
    assert len(seen) == 1  # the ranking was remembered


def plain_taylor(module, x, labels) -> torch.Tensor:
    """The first convolution's channels: the mean over batches of 32 of (dL/dg)², g what the next convolution reads of a channel is multiplied by."""
    gate = torch.ones(8, requires_grad=True)
    hook = module.features[3].register_forward_pre_hook(lambda layer, read: (read[0] * gate.view(1, -1, 1, 1),))
    slopes = [torch.autograd.grad(nn.functional.cross_entropy(module(part), of), gate)[0] for part, of in zip(x.split(32), labels.split(32), strict=True)]
    hook.remove()
    return torch.stack(slopes).square().mean(0)


def plain_entropy(module, x) -> torch.Tensor:
    """The bits of the first convolution's filters, by numpy's histogram."""
    with torch.no_grad():
        fired = module.features[1](module.features[0](x)).clamp_min(0).mean((2, 3)).double().numpy()  # (n, 8)
    shares = [np.histogram(column, 100)[0] / len(column) for column in fired.T]
    return torch.tensor([-sum(share * np.log2(share) for share in of_filter if share) for of_filter in shares])


def plain_worth(importance, module, x, labels) -> torch.Tensor:
    """What each channel of the first convolution is worth, by plain sums over the weights that make and read it."""
    if importance == "taylor":
        return plain_taylor(module, x, labels)
    if importance == "entropy":
        return plain_entropy(module, x)
    first, norm, second = (module.features[place].weight.detach().abs() for place in (0, 1, 3))
    if importance == "bn_scale":
        return norm
    power = 2 if importance == "l2" else 1
    return (first**power).sum((1, 2, 3)) + (second**power).sum((0, 2, 3))


def halving(worth) -> float:
    """A threshold that four of eight channels are below."""
    return float(worth.sort().values[3:5].mean())


@pytest.mark.parametrize("pictures", [40, 64])
def test_taylor_is_the_mean_over_batches_however_many_and_unequal(pictures, subject):
    digits = load("digits")
    ((x, labels),) = digits.batches("calibration", 32, pictures, pictures)
    (group,) = (group for group in channels.groups(subject.module, 32) if group.layer == "features.0")
    (score,) = _measure_taylor([group], subject.module, context(), pictures)
    torch.testing.assert_close(score.float(), plain_taylor(subject.module, x, labels), rtol=1e-3, atol=1e-10)


@pytest.mark.parametrize("importance", ["l1", "l2", "bn_scale", "taylor", "entropy"])
def test_with_a_threshold_channels_of_less_importance_leave(importance, subject):
    """The first convolution's channels."""
    ((x, labels),) = load("digits").batches("calibration", 32, 64, 64)
    worth = plain_worth(importance, subject.module, x, labels)
    threshold = halving(worth)
    expected = subject.value("features.0.weight")[worth >= threshold]
    apply(ChannelPrune(importance=importance, threshold=threshold, layers="features.0", round_to=1, images=64), subject, context())
    assert len(expected) == 4 and torch.equal(subject.value("features.0.weight"), expected)
    apply(ChannelPrune(importance=importance, threshold=1e4, round_to=1, images=64), subject, context())
    assert len(subject.value("features.0.weight")) == 1  # one stays


@pytest.mark.parametrize("importance", ["taylor", "entropy"])
def test_a_threshold_means_the_same_channels_however_often_the_pictures_repeat(importance, subject, five_layer_checkpoint):
    ((x, labels),) = load("digits").batches("calibration", 32, 64, 64)
    again = x.repeat(4, 1, 1, 1), labels.repeat(4)
    source = SimpleNamespace(
        fingerprint="repeating", split=lambda name: range(256),
        batches=lambda split, size, batch, count: zip(*(part[:count].split(batch) for part in again), strict=True),
    )  # fmt: skip
    worth = plain_worth(importance, subject.module, x, labels)
    step = ChannelPrune(importance=importance, threshold=halving(worth), layers="features.0", round_to=1)
    expected = subject.value("features.0.weight")[worth >= step.threshold]
    for images_at_most in (64, 128, None):
        pruned = Compressed.of(five_layer_checkpoint.load(), subject.architecture)
        apply(step, pruned, Context(SimpleNamespace(input_size=32), source, images_at_most=images_at_most))
        assert torch.equal(pruned.value("features.0.weight"), expected)


def test_a_threshold_of_taylor_is_not_taken_for_one_of_a_sum():
    assert ChannelPrune(threshold=0.1).edition and Work("mobilenet_v3_small", "digits", Recipe((ChannelPrune(threshold=0.1),)))._ground("cpu").count(
        "mean over batches"
    )
    assert ChannelPrune().edition == ChannelPrune(importance="l1", threshold=0.1).edition == ChannelPrune(importance="entropy", threshold=0.1).edition == ""
