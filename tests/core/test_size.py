"""Three figures for size, each against numbers worked out by hand or by scipy."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import entropy

from core import artifact
from core.arithmetic.grids import Uniform
from core.metrics.size import artifact_bytes, dense_bytes, paper_bytes
from core.models.architecture import Architecture
from core.weights import Compressed, Weight
from tests import five_layers

five_layers.register()
WEIGHTS = 3 * 8 * 9 + 8 * 16 * 9 + 16 * 9 + 16 * 32 + 32 * 10
OTHERS = 4 * (8 + 16 + 16 + 32) + 10  # batch norm's four numbers a channel, and the last layer's biases


@pytest.fixture
def subject() -> Compressed:
    architecture = Architecture(five_layers.NAME, 10, 28)
    fresh = Compressed.of(architecture.build(), architecture)
    for name in list(fresh.weights):
        fresh.set(name, Weight(torch.randn(fresh.weights[name].latent.shape, generator=torch.Generator().manual_seed(0))))
    return fresh


def half_masked(weight: torch.Tensor) -> torch.Tensor:
    return (torch.arange(weight.numel()) % 4 == 0).view(weight.shape)


def grid(latent: torch.Tensor, bits: int, zero: int = 0) -> Uniform:
    rows = (len(latent),) + (1,) * (latent.dim() - 1)
    return Uniform(torch.empty(0), torch.full(rows, 0.01), torch.full(rows, zero, dtype=torch.int16), bits, not zero).round(latent)


def test_a_dense_model_is_the_same_on_paper(subject):
    assert dense_bytes(subject) == dense_bytes(subject.module) == paper_bytes(subject) == 4 * (WEIGHTS + OTHERS)


def test_dense_bytes_count_what_torchvision_counts():
    """11,181,642 parameters, torchvision's own count for ten classes, and a mean and a variance for 4,800 channels."""
    assert dense_bytes(Architecture("resnet18", 10, 32).build()) == 4 * (11_181_642 + 2 * 4_800)


def test_masked_weights_pay_for_values_and_positions(subject):
    weight = subject.weights["features.3.weight"]
    subject.set("features.3.weight", weight.pruned(half_masked(weight.latent)))
    numbers = weight.latent.numel()
    positions = numbers * float(entropy([0.25, 0.75], base=2)) / 8
    assert paper_bytes(subject) == pytest.approx(dense_bytes(subject) - 4 * numbers * 0.75 + positions, abs=1)


@pytest.mark.parametrize(("bits", "zero", "each"), [(4, 0, 4.0), (8, 0, 4.0), (8, 5, 5.0)])
def test_a_grid_pays_for_codes_and_scales(subject, bits, zero, each):
    """Scales are float32; a zero point takes as many bits as a code."""
    latent = subject.weights["fc.weight"].latent
    subject.set("fc.weight", Weight(latent, None, grid(latent, bits, zero)))
    assert paper_bytes(subject) == pytest.approx(dense_bytes(subject) - 4 * 320 + 320 * bits / 8 + each * 10, abs=1)


def test_a_masked_grid_pays_for_what_is_not_zero(subject):
    """Codes that round to 0 are pruned in effect, and counted so."""
    latent = subject.weights["fc.weight"].latent.clone()
    latent[0] = 0.001  # rounds to code 0
    mask = half_masked(latent)
    subject.set("fc.weight", Weight(latent, mask, grid(latent, 4)))
    kept = int(((subject.module.fc.weight != 0) & mask).sum())
    assert kept < int(mask.sum())
    expected = kept * 4 / 8 + 320 * float(entropy([kept, 320 - kept], base=2)) / 8 + 4 * 10
    assert paper_bytes(subject) == pytest.approx(dense_bytes(subject) - 4 * 320 + expected, abs=1)


@pytest.mark.parametrize("kept", [True, False])
def test_masks_that_keep_all_or_nothing_need_no_positions(subject, kept):
    latent = subject.weights["fc.weight"].latent
    subject.set("fc.weight", Weight(latent, torch.full(latent.shape, kept)))
    assert paper_bytes(subject) == dense_bytes(subject) - (0 if kept else 4 * 320)


def test_artifact_bytes_are_those_of_the_file(subject, tmp_path):
    assert artifact_bytes(subject) == artifact.write(subject, tmp_path / "file").size == (tmp_path / "file").stat().st_size
