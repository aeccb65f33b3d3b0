"""Five-layer and real models in random states: any mix of masks and grids. And what it means that one came back."""

from __future__ import annotations

import torch

from core.arithmetic.grids import Uniform
from core.models.architecture import Architecture
from core.weights import Compressed, Weight
from tests import five_layers

five_layers.register()
FIVE = Architecture(five_layers.NAME, 10, 28)
# Every layer one channel wide: a 1×1 convolution and a linear layer of a single number.
ONE = Architecture(
    five_layers.NAME, 1, 28,
    {f"features.{layer}.weight": shape for layer, shape in ((0, [1, 3, 3, 3]), (3, [1, 1, 3, 3]), (6, [1, 1, 3, 3]), (9, [1, 1, 1, 1]))}
    | {f"features.{layer}.{kind}": [1] for layer in (1, 4, 7, 10) for kind in ("weight", "bias")} | {"fc.weight": [1, 1]},
)  # fmt: skip


def random_subject(architecture: Architecture, seed: int = 0) -> Compressed:
    """A fresh state whose every number is random: weights normal, batch norm and buffers too, counters whole."""
    generator = torch.Generator().manual_seed(seed)
    module = architecture.build()
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            numbers = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(numbers.abs() if name.endswith("running_var") else numbers)
        else:
            tensor.fill_(1000 + seed)
    return Compressed.of(module, architecture)


def random_mask(shape, density: float, seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def grid_of(latent: torch.Tensor, bits: int, symmetric: bool, granularity: str, scale: float = 3.0) -> Uniform:
    """A grid that reaches `scale` deviations, with a scale a channel, a tensor, or 1 for the whole model."""
    rows = (latent.shape[0],) + (1,) * (latent.dim() - 1) if granularity == "channel" else (1,) * latent.dim()
    reach = torch.ones(rows) if granularity == "model" else latent.abs().reshape(rows[0], -1).mean(1).view(rows) + 0.01
    zero_point = torch.zeros(rows, dtype=torch.int16)
    if not symmetric:
        zero_point = (torch.arange(zero_point.numel()) % 3 - 1).view(rows).to(torch.int16)
    return Uniform(torch.empty(0), reach * scale / 2 ** (bits - 1), zero_point, bits, symmetric).round(latent)


def set_states(subject: Compressed, states: list, seed: int) -> Compressed:
    for place, (name, (density, grid)) in enumerate(zip(subject.weights, states, strict=True)):
        latent = subject.weights[name].latent.clone()
        mask = None if density is None else random_mask(latent.shape, density, seed + place)
        subject.set(name, Weight(latent, mask, None if grid is None else grid_of(latent, *grid)))
    return subject


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal shapes, types and bits: tells −0.0 from 0.0, and takes a NaN for itself."""
    as_bits = [tensor.contiguous().view(torch.int32) if tensor.dtype == torch.float32 else tensor for tensor in (first, second)]
    return first.dtype == second.dtype and torch.equal(*as_bits)


def check_same(found: Compressed, written: Compressed) -> None:
    """Everything that a packed file promises to keep."""
    assert found.architecture == written.architecture
    assert found.activations == written.activations
    assert list(found.weights) == list(written.weights)
    own, others = written.module.state_dict(), found.module.state_dict()
    assert list(own) == list(others)
    for name, tensor in others.items():
        assert same_bits(tensor, written.weights[name].value() if name in written.weights else own[name]), name
    for name, weight in found.weights.items():
        _check_same_state(weight, written.weights[name])


def _check_same_state(found: Weight, written: Weight) -> None:
    assert same_bits(found.value(), written.value()) and same_bits(found.latent, written.value())
    assert (found.mask is None) == (written.mask is None) and (found.grid is None) == (written.grid is None)
    kept = written.value() != 0
    if written.grid is not None:
        codes, zero_point = written.grid.codes, written.grid.zero_point
        kept = codes != zero_point
        assert same_bits(found.grid.codes, codes if written.mask is None else torch.where(written.mask, codes, zero_point))
        assert same_bits(found.grid.scale, written.grid.scale) and same_bits(found.grid.zero_point, zero_point)
        assert (found.grid.bits, found.grid.symmetric) == (written.grid.bits, written.grid.symmetric)
    if written.mask is not None:
        # What is kept and yet exactly 0 counts as pruned from here on.
        assert torch.equal(found.mask, written.mask & kept)
