"""Activations computed again: the same training to the last digits that matter, in less memory."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core import zoo
from core.datasets import load
from core.errors import BadInput
from core.memory import cuts as cuts_module
from core.memory.cuts import Piece, Places
from core.memory.recompute import Recomputed, TooLittle, held, within
from core.memory.saved import own, pictures
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


def updated(model: str, size: int, trained_by) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """The gradients and the state after one update; `trained_by` gives what is trained in place of the network."""
    module = network(model, size).train()
    x = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=torch.channels_last)
    found = gradients(trained_by(module).train(), module, x)
    torch.optim.SGD(module.parameters(), lr=0.01).step()
    return found, module.state_dict()


@pytest.mark.parametrize(
    "model",
    ["mobilenet_v3_small", "shufflenet_v2_x0_5", *(pytest.param(model, marks=pytest.mark.slow) for model in ("densenet121", "googlenet", "inception_v3"))],
)
def test_wherever_the_cuts_are_the_bits_are_the_same(model):
    """Also of networks where a value has three readers or more: gradients are added in the order of the graph as it was recorded, which cuts do not change."""
    size = zoo.models()[model]["smallest_input"]
    expected, state = updated(model, size, lambda module: module)

    def half(module: nn.Module) -> Recomputed:
        _recomputed, found = within(None, module, size, 8)
        halved, _found = within(max(found.plain / 2, found.most), module, size, 8)
        assert 0 < len(halved.forgotten) < len(halved.segments)
        return halved

    for trained_by in (lambda module: Recomputed(module, size, 8), half):
        found, after = updated(model, size, trained_by)
        assert len(found) == len(expected) and all(map(torch.equal, found, expected))
        assert after.keys() == state.keys() and all(torch.equal(after[name], tensor) for name, tensor in state.items())


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


def test_looking_for_segments_and_measuring_changes_neither_the_network_nor_the_random_numbers():
    module = network("mobilenet_v3_small")
    module.features[3].train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes, state = [layer.training for layer in module.modules()], torch.get_rng_state()
    within(8e6, module, 32, 64)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert [layer.training for layer in module.modules()] == modes and torch.equal(torch.get_rng_state(), state)
    assert all(norm.momentum > 0 for norm in module.modules() if isinstance(norm, nn.BatchNorm2d))


def test_evaluated_it_is_the_module_itself():
    module = network("squeezenet1_1")
    x, recomputed = torch.randn(2, 3, 32, 32), Recomputed(module, 32).eval()
    with torch.inference_mode():
        assert torch.equal(recomputed(x), module(x))


def kept_by(output: torch.Tensor, outside: set[int]) -> int:
    """Bytes of what the nodes behind `output` say that they saved; no hooks are asked."""
    found: dict[int, int] = {}
    nodes, seen = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _number in node.next_functions]
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_") or name == "saved_tensors"]
        for tensor in tree_leaves(saved):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in outside:
                found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(found.values())


class Live(TorchDispatchMode):
    """The most bytes of tensors that exist at any moment, saved or not, and the largest single one."""

    def __init__(self, outside: list[torch.Tensor]):
        super().__init__()
        self.outside = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in outside}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in [leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]:
            reference = StorageWeakRef(tensor.untyped_storage())
            if reference.cdata not in self.outside:
                self.alive.setdefault(reference.cdata, (reference, tensor.untyped_storage().nbytes()))
        self.alive = {number: entry for number, entry in self.alive.items() if not entry[0].expired()}
        self.most = max(self.most, sum(size for _reference, size in self.alive.values()))
        return made


def live(module: nn.Module, trained: nn.Module, x: torch.Tensor) -> int:
    """The most that exists in one pass there and back; gradients of parameters are let go as they come."""
    hooks = [parameter.register_post_accumulate_grad_hook(lambda owner: setattr(owner, "grad", None)) for parameter in module.parameters()]
    with Live([x, *own(module)]) as found:
        nn.functional.cross_entropy(trained(x), torch.arange(len(x)) % 10).backward()
    for hook in hooks:
        hook.remove()
    return found.most


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_what_is_measured_on_a_few_pictures_is_what_a_whole_batch_takes(model):
    """Everything kept: as the graph itself says. Computed again: nothing is freed too late, as everything that exists says."""
    module, x = network(model).train(), pictures(24, 32)
    recomputed, found = within(None, module, 32, 24)
    assert kept_by(module(x), {tensor.untyped_storage().data_ptr() for tensor in (x, *own(module))}) == found.plain
    spare = live(module, module, x) - found.plain  # gradients of values and weights, and what no way back needs
    assert 0 <= live(module, recomputed.train(), x) - found.most <= spare + 2e6


@pytest.mark.parametrize("model,share", [("resnet18", 0.4), ("mobilenet_v3_small", 0.2), ("squeezenet1_1", 0.35), ("shufflenet_v2_x0_5", 0.35)])
def test_the_least_and_a_limit_are_held(model, share):
    module = network(model)
    _least, least = within(None, module, 32, 64)
    print(f"{model}: {least.plain / 1e6:.1f} MB, computed again {least.most / 1e6:.1f}")
    assert least.most <= share * least.plain
    half, found = within(least.plain / 2, module, 32, 64)
    print(f"  within {least.plain / 2e6:.1f} MB: {found.most / 1e6:.1f}")
    assert 0.9 * least.plain / 2 <= found.most <= least.plain / 2 and found.plain == least.plain and half.forgotten
    assert held(half, 32, 64) == found
    whole, found = within(2 * least.plain, module, 32, 64)
    assert not whole.forgotten and found.most == found.plain == least.plain
    with pytest.raises(TooLittle, match=r"cannot be .* MB; training takes at least .* MB\.$"):
        within(0.99 * least.most, module, 32, 64)


def test_within_a_limit_the_gradients_stay_too():
    module = network("mobilenet_v3_small").train()
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = gradients(module, module, x)
    recomputed, _found = within(0.5 * held(Recomputed(module, 32, 4), 32, 4).plain, module, 32, 4)
    assert 0 < len(recomputed.forgotten) < len(recomputed.segments) - 1
    torch.testing.assert_close(gradients(recomputed.train(), module, x), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES)
def test_every_family_keeps_to_a_limit(model):
    size = zoo.models()[model]["smallest_input"]
    module = network(model, size)
    _least, least = within(None, module, size, 8)
    goal = (least.most + least.plain) / 2
    assert within(goal, module, size, 8)[1].most <= goal


def test_the_cuts_are_those_of_trying_all():
    """Against brute force, over every way to cut six places and to forget what lies between, with the bytes counted piece by piece."""
    draw = random.Random(3)
    for _ in range(30):
        pieces = []
        for _piece in range(10):
            made = draw.randrange(6)
            saved = draw.choice([None, draw.randrange(made, 6), made])
            pieces.append(Piece(draw.randrange(1, 20), made, saved, draw.randrange(made if saved is None else saved, 6)))
        work = [draw.randrange(1, 9) for _ in range(6)]
        found = Places(list(range(6)), pieces, work)
        ways = [way(cuts, forgotten, pieces, work) for cuts in range(32) for forgotten in range(1 << cuts.bit_count())]
        least = min(most for most, _work in ways)
        assert found.most(found.least()) == pytest.approx(least, rel=2 * cuts_module.NEAR)
        assert found.tightest(least) and not found.tightest(least - 0.5)
        for limit in (least, 1.3 * least, 2 * least, found.total):
            chosen = found.within(limit)
            again = sum(work[at] for at in range(6) if [segment for segment in chosen if segment.start <= at][-1].forgotten)
            assert found.most(chosen) <= limit * (1 + 1e-9)
            best = [min(work for most, work in ways if most <= share * limit) for share in (0.99, 1) if least <= share * limit]
            assert best[-1] <= again <= best[0] or limit == least  # bytes are rounded up a little


def way(cuts: int, forgotten: int, pieces: list[Piece], work: list[int]) -> tuple[int, int]:
    """The most that is held, and the work that is done again; bit k of `cuts`: a segment starts at k + 1, bit k of `forgotten`: the k-th is forgotten."""
    starts = [0, *(place + 1 for place in range(5) if cuts >> place & 1), 6]
    most, kept, again = 0, 0, 0
    for number, (start, end) in enumerate(pairwise(starts)):
        here = [piece for piece in pieces if start <= piece.made < end]
        most = max(most, kept + sum(piece.size for piece in here if piece.saved is not None and piece.saved < end))
        if forgotten >> number & 1:
            kept += sum(piece.size for piece in here if piece.read >= end)
            again += sum(work[start:end])
        else:
            kept += sum(piece.size for piece in here if piece.saved is not None or piece.read > piece.made)
    return most, again


def test_a_network_that_cannot_be_followed_is_refused():
    class Choosing(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(BadInput, match=r"Choosing cannot be read as a graph .* checkpoint_activations off\.$"):
        Recomputed(Choosing(), 8)
