"""Activations computed again: the same training to the last digits that matter, in less memory."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from core import recompute, zoo
from core.datasets import load
from core.errors import BadInput
from core.recompute import Recomputed
from core.training import Plan, cross_entropy, fit

FAMILIES = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "regnet_y_400mf",
    "resnet18", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32",
)  # fmt: skip


def network(model: str, size: int = 32) -> nn.Module:
    torch.manual_seed(0)
    return zoo.build(model, 10, size)


def gradients(module: nn.Module, shared: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Of the parameters of `shared`, after one pass of `module` while training."""
    shared.zero_grad(set_to_none=True)
    torch.manual_seed(7)  # dropout and stochastic depth
    nn.functional.cross_entropy(module(x), torch.arange(len(x)) % 10).backward()
    return [parameter.grad.clone() for parameter in shared.parameters() if parameter.grad is not None]


def check_gradients(model: str, size: int = 32) -> None:
    module = network(model, size).train()
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    recomputed = Recomputed(module, size).train()
    assert len(recomputed.segments) > 1
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    expected = gradients(module, module, x)
    once = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(before[name])
    found = gradients(recomputed, module, x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    after = dict(module.named_buffers())
    assert after.keys() == once.keys()
    for name, buffer in once.items():
        torch.testing.assert_close(after[name], buffer, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", ["squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_gradients_and_running_statistics_are_those_of_one_pass(model):
    check_gradients(model)


@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES)
def test_every_family_can_be_trained_so(model):
    check_gradients(model, zoo.models()[model]["smallest_input"])


def test_training_gives_the_same_network():
    trained = []
    for recomputing in (False, True):
        module = network("mobilenet_v3_small")
        plan = Plan(epochs=1, learning_rate=0.02, images=128, batch_size=32, flip=False)
        fit(Recomputed(module, 32) if recomputing else module, load("digits"), 32, plan, cross_entropy())
        assert not any(layer.training for layer in module.modules())
        trained.append(module.state_dict())
    plain, again = trained
    for name, tensor in plain.items():
        if name.endswith("num_batches_tracked"):
            assert again[name] == tensor == 4
        torch.testing.assert_close(again[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_looking_for_segments_changes_neither_the_network_nor_the_random_numbers():
    module = network("mobilenet_v3_small")
    module.features[3].train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes, state = [layer.training for layer in module.modules()], torch.get_rng_state()
    Recomputed(module, 32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert [layer.training for layer in module.modules()] == modes and torch.equal(torch.get_rng_state(), state)
    assert all(norm.momentum > 0 for norm in module.modules() if isinstance(norm, nn.BatchNorm2d))


def test_evaluated_it_is_the_module_itself():
    module = network("squeezenet1_1")
    x, recomputed = torch.randn(2, 3, 32, 32), Recomputed(module, 32).eval()
    with torch.inference_mode():
        assert torch.equal(recomputed(x), module(x))


@contextlib.contextmanager
def saved(module: nn.Module):
    """Bytes of what autograd saves for the way back, by the memory it lies in; parameters and statistics are there anyway."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in own:
            found[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def most_held(module: nn.Module, x: torch.Tensor, monkeypatch) -> tuple[int, int, Recomputed]:
    """The most bytes of activations that autograd holds at any moment of one pass there and back: plain, and with them computed again.

    By autograd's own hooks. While a segment is there again, what was kept up to its start is there too.
    """
    with saved(module) as plain:
        logits = module(x)
    del logits
    recomputed, moments = Recomputed(module, x.shape[2]).train(), []
    original = recompute.checkpoint

    def counting(part, *values, **options):
        with saved(module) as inside:
            part(*values)
        result = original(part, *values, **options)
        moments.append(sum(inside.values()) + sum(kept.values()))
        return result

    monkeypatch.setattr(recompute, "checkpoint", counting)
    with saved(module) as kept:
        logits = recomputed(x)
    assert logits.requires_grad and len(moments) == len(recomputed.segments) - 1 >= 1
    return sum(plain.values()), max(*moments, sum(kept.values())), recomputed


@pytest.mark.parametrize("model,share", [("resnet18", 0.5), ("mobilenet_v3_small", 0.5)])
def test_at_most_half_of_the_activations_are_ever_held(model, share, monkeypatch):
    module = network(model).train()
    plain, again, recomputed = most_held(module, torch.randn(16, 3, 32, 32).contiguous(memory_format=torch.channels_last), monkeypatch)
    print(f"{model}: {plain:,} bytes, computed again {again:,}")
    assert again <= share * plain
    assert recomputed.most_bytes / recomputed.plain_bytes == pytest.approx(again / plain, abs=0.15)  # what a run is told


def test_the_cuts_are_those_of_trying_all():
    """Against brute force, over every way to cut six places."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        held = [0, *torch.randint(1, 20, (7,), generator=generator).cumsum(0).tolist()]
        crossing = [0, *torch.randint(1, 9, (6,), generator=generator).tolist()]
        for limit in (4, 12, 20, 35, 200):
            ways = [[place for place in range(1, 7) if chosen >> place & 1] for chosen in range(0, 128, 2)]
            costs = []
            for cuts in ways:
                kept = [sum(crossing[cut] for cut in cuts[:count]) for count in range(len(cuts) + 1)]
                sizes = [held[end] - held[start] for start, end in zip([0, *cuts], [*cuts, 7], strict=True)]
                if all(before + size <= limit for before, size in zip(kept, sizes, strict=True)):
                    costs.append(kept[-1])
            found = recompute._within(limit, held, crossing)
            assert found is None or recompute._most(found, held, crossing) <= limit
            assert (found is None) == (not costs)
            assert found is None or found in ways and sum(crossing[cut] for cut in found) == min(costs)


def test_a_network_that_cannot_be_followed_is_refused():
    class Choosing(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(BadInput, match=r"Choosing cannot be read as a graph .* checkpoint_activations off\.$"):
        Recomputed(Choosing(), 8)
