"""Fine-tuning and distillation: the loss against torch's own, masks and grids through training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from core.methods.apply import apply
from core.methods.calibrate_batchnorm import CalibrateBatchnorm
from core.methods.distill import Distill, distillation
from core.methods.finetune import Finetune
from core.methods.magnitude_prune import MagnitudePrune
from core.methods.quantize import Quantize


def logits_and_answers():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(6, 10, generator=generator), torch.randn(2, 9, 10, generator=generator), torch.randint(10, (6,), generator=generator)


@pytest.mark.parametrize("temperature,alpha", [(1.0, 1.0), (4.0, 0.9), (20.0, 0.3)])
def test_soft_loss_equals_the_formula_written_out(temperature, alpha):
    logits, answers, labels = logits_and_answers()
    numbers, mirrored = torch.tensor([0, 3, 8, 1, 2, 2]), torch.tensor([True, False, True, False, False, True])
    teacher = torch.stack([answers[int(m), n] for m, n in zip(mirrored, numbers)])
    p, q = (teacher / temperature).softmax(1), (logits / temperature).softmax(1)
    kl = (p * (p.log() - q.log())).sum(1).mean()
    wanted = (1 - alpha) * F.cross_entropy(logits, labels) + alpha * temperature**2 * kl
    torch.testing.assert_close(distillation(answers, temperature, alpha, "soft")(logits, labels, numbers, mirrored), wanted, rtol=1e-5, atol=1e-4)


def test_hard_loss_is_cross_entropy_to_the_teachers_label():
    logits, answers, labels = logits_and_answers()
    numbers, mirrored = torch.arange(6), torch.zeros(6, dtype=torch.bool)
    wanted = 0.5 * F.cross_entropy(logits, labels) + 0.5 * F.cross_entropy(logits, answers[0, :6].argmax(1))
    torch.testing.assert_close(distillation(answers, 4.0, 0.5, "hard")(logits, labels, numbers, mirrored), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("step", [Finetune(images=300), Distill(images=300)])
def test_training_keeps_masks_and_grids(step, subject, context):
    apply(MagnitudePrune(sparsity=0.8), subject, context)
    apply(Quantize(weight_bits=4), subject, context)
    before = dict(subject.weights)
    apply(step, subject, context)
    for name, weight in subject.weights.items():
        assert torch.equal(weight.mask, before[name].mask) and torch.equal(weight.grid.scale, before[name].grid.scale)
        assert not weight.value()[~weight.mask].any()
        assert not torch.equal(weight.latent, before[name].latent)
        assert torch.equal(weight.grid.codes, weight.grid.round(weight.latent).codes)
    assert not any(hasattr(layer, "parametrizations") for layer in subject.module.modules())


def test_sixteen_bits_beside_a_zero_point_do_not_overflow(subject, context):
    before = {name: weight.value().clone() for name, weight in subject.weights.items()}
    apply(Quantize(weight_bits=16, symmetric=False), subject, context)
    apply(Finetune(images=128, learning_rate=0.0001), subject, context)
    for name, weight in subject.weights.items():
        torch.testing.assert_close(weight.value(), before[name], atol=0.01, rtol=0.01)


def test_training_rounds_activations_as_they_will_run(subject, context, monkeypatch):
    from core import activations

    apply(Quantize(weight_bits=8, activation_bits=4), subject, context)
    before, seen = dict(subject.activations), []
    rounding = activations.rounded
    monkeypatch.setattr(activations.simulated, "__defaults__", (lambda *given: seen.append(torch.is_grad_enabled()) or rounding(*given),))
    apply(Finetune(images=128), subject, context)
    assert seen.count(True) >= len(before) and subject.activations == before
    assert not any(hasattr(layer, "parametrizations") for layer in subject.module.modules())


def test_partial_quantization_rounds_only_around_its_layers(subject, context):
    apply(Quantize(weight_bits=8, activation_bits=8, layers="inner"), subject, context)
    partial = set(subject.activations)
    apply(Quantize(weight_bits=8, activation_bits=8), subject, context)
    assert partial < set(subject.activations)


def test_recovery_lowers_the_loss(subject, context):
    apply(MagnitudePrune(sparsity=0.9), subject, context)
    losses = []
    context.report = lambda event: losses.append(event["curve"]["loss"]) if "curve" in event else None
    apply(Finetune(epochs=4, images=900, learning_rate=0.05), subject, context)
    assert losses[-1] < losses[0]


def test_batch_norm_statistics_equal_torchs_own(subject, context):
    reference = subject.module
    pictures = list(context.calibration(97, batch_size=100))
    apply(CalibrateBatchnorm(images=100), subject, context)
    mine = {name: buffer.clone() for name, buffer in reference.named_buffers() if "running" in name}
    torch.optim.swa_utils.update_bn(pictures, reference)
    assert all(torch.equal(mine[name], buffer) for name, buffer in reference.named_buffers() if "running" in name)


def test_a_model_without_batch_norm_says_so(subject, context):
    for path, layer in list(subject.module.named_modules()):
        if isinstance(layer, torch.nn.BatchNorm2d):
            owner, _, name = path.rpartition(".")
            setattr(subject.module.get_submodule(owner), name, torch.nn.Identity())
    apply(CalibrateBatchnorm(), subject, context)
    assert "no batch norm" in subject.notes[0]
