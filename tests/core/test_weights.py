"""Copies of networks: tensors and hooks of their own, the same answers, parts that are used twice still one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.models.architecture import Architecture
from core.weights import clone, sum_of_pictures


@pytest.mark.parametrize("model", ["squeezenet1_1", "shufflenet_v2_x0_5"])
def test_a_copy_answers_alike_and_shares_nothing_that_can_change(model):
    original = Architecture.plain(model, 10, 32).build()
    copy = clone(original)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(original(x), copy(x))
        before = original(x)
        for tensor in copy.state_dict().values():
            tensor.zero_()
        assert torch.equal(original(x), before) and list(copy.state_dict()) == list(original.state_dict())


def test_a_hook_of_the_copy_is_none_of_the_original():
    original, seen = nn.Sequential(nn.Linear(2, 2)), []
    clone(original)[0].register_forward_hook(lambda *_: seen.append(1))
    original(torch.zeros(1, 2))
    assert not seen


def test_a_part_that_is_used_twice_is_copied_once():
    part = nn.Linear(2, 2)
    copy = clone(nn.Sequential(part, nn.ReLU(), part))
    assert copy[0] is copy[2] and copy[0] is not part


def test_pictures_are_summed_whatever_their_order_in_memory():
    x = torch.randn(7, 6, 5, 4, generator=torch.Generator().manual_seed(2))
    last = x.contiguous(memory_format=torch.channels_last)
    for kind in (x, last, last[::2], last[:1].expand(7, -1, -1, -1), last[:, :3], last[:, :, 1:], last.transpose(2, 3), x[:, :1], last[..., :1, :1], x[0, 0]):
        assert torch.allclose(sum_of_pictures(kind), kind.sum(0), atol=1e-5)
