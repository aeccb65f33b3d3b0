"""Fine-tuning and distillation: the loss against torch's own, masks and grids through training, hints, less memory."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F

from core.methods.apply import apply
from core.methods.calibrate_batchnorm import CalibrateBatchnorm
from core.methods.channel_prune import ChannelPrune
from core.methods.distill import Distill, Distillation, hinted
from core.methods.finetune import Finetune
from core.methods.magnitude_prune import MagnitudePrune
from core.methods.quantize import Quantize
from core.recipe import Recipe
from core.work import Work


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
    torch.testing.assert_close(Distillation(answers, temperature, alpha, "soft")(logits, labels, numbers, mirrored), wanted, rtol=1e-5, atol=1e-4)


def test_hard_loss_is_cross_entropy_to_the_teachers_label():
    logits, answers, labels = logits_and_answers()
    numbers, mirrored = torch.arange(6), torch.zeros(6, dtype=torch.bool)
    wanted = 0.5 * F.cross_entropy(logits, labels) + 0.5 * F.cross_entropy(logits, answers[0, :6].argmax(1))
    torch.testing.assert_close(Distillation(answers, 4.0, 0.5, "hard")(logits, labels, numbers, mirrored), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_confidence_weighs_every_picture_by_the_teachers_best_probability(targets):
    logits, answers, labels = logits_and_answers()
    total = 0.0
    for row in range(6):
        teacher = answers[0, row]
        alpha = 0.8 * float(teacher.exp().max() / teacher.exp().sum())
        own = -float(logits[row].log_softmax(0)[labels[row]])
        p, q = (teacher / 2).softmax(0), (logits[row] / 2).softmax(0)
        taught = 4 * float((p * (p / q).log()).sum()) if targets == "soft" else -float(logits[row].log_softmax(0)[teacher.argmax()])
        total += (1 - alpha) * own + alpha * taught
    objective = Distillation(answers, 2.0, 0.8, targets, "confidence")
    assert float(objective(logits, labels, torch.arange(6), torch.zeros(6, dtype=torch.bool))) == pytest.approx(total / 6, rel=1e-5)


def test_linear_falls_from_alpha_to_nothing():
    logits, answers, labels = logits_and_answers()
    given = logits, labels, torch.arange(6), torch.ones(6, dtype=torch.bool)
    falling = Distillation(answers, 4.0, 0.8, "soft", "linear")
    for done, alpha in ((0.0, 0.8), (0.25, 0.6), (0.5, 0.4), (1.0, 0.0)):
        falling.at(done)
        torch.testing.assert_close(falling(*given), Distillation(answers, 4.0, alpha)(*given))


def test_the_schedule_is_told_the_share_done_before_every_update(subject, context, monkeypatch):
    told = []
    monkeypatch.setattr(Distillation, "at", lambda self, done: told.append(done))
    apply(Distill(images=300, epochs=2, alpha_schedule="linear"), subject, context)
    assert told == [update / 10 for update in range(10)]  # 300 pictures are five batches of 64


def test_the_defaults_train_as_the_formula_alone_does(subject, context, five_layer_checkpoint):
    """Bit for bit, against the loss written as it always was."""
    from core.weights import Compressed

    other = Compressed.of(five_layer_checkpoint.load(), subject.architecture)
    step = Distill(images=300)
    apply(step, subject, context)
    answers = context.teacher_answers("self", 300)

    def plainly(logits, labels, numbers, mirrored):
        teacher = answers[mirrored.long(), numbers]
        taught = 16 * F.kl_div(F.log_softmax(logits / 4, 1), F.log_softmax(teacher / 4, 1), reduction="batchmean", log_target=True)
        return (1 - 0.9) * F.cross_entropy(logits, labels) + 0.9 * taught

    context.train(other, step, plainly)
    mine, theirs = subject.module.state_dict(), other.module.state_dict()
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())


def features_of(module, dataset, count: int) -> torch.Tensor:
    """What the five-layer model's classifier reads, (n, 32), computed layer by layer."""
    x = dataset.prepare(dataset.split("train").images[:count], 32)
    with torch.no_grad():
        return module.eval().pool(module.features(x)).flatten(1)


def test_a_teachers_features_are_what_its_classifier_reads(context, five_layer_checkpoint):
    found = context.teacher_features("self", 150)
    expected = features_of(five_layer_checkpoint.load(), context.dataset, 150)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)
    assert found.shape == (2, 150, 32) and not torch.equal(found[0], found[1])
    assert torch.equal(context.teacher_features("self", 150), found)  # as they were kept


def test_hints_are_the_mean_squared_error_of_features():
    logits, answers, labels = logits_and_answers()
    generator = torch.Generator().manual_seed(1)
    own, features = torch.randn(6, 4, generator=generator), torch.randn(2, 9, 3, generator=generator)
    numbers, mirrored = torch.tensor([0, 3, 8, 1, 2, 2]), torch.tensor([True, False, True, False, False, True])
    regressor, base = torch.nn.Linear(4, 3).requires_grad_(False), Distillation(answers, 4.0, 0.9)
    squares = 0.0
    for row, (number, flipped) in enumerate(zip(numbers, mirrored, strict=True)):
        for column in range(3):
            guess = sum(float(own[row, k] * regressor.weight[column, k]) for k in range(4)) + float(regressor.bias[column])
            squares += (guess - float(features[int(flipped), number, column])) ** 2
    found = hinted(base, [own], features, 0.7, regressor)(logits, labels, numbers, mirrored)
    assert float(found) == pytest.approx(float(base(logits, labels, numbers, mirrored)) + 0.7 * squares / 18, rel=1e-5)


def test_hints_bring_the_features_nearer_to_the_teachers(subject, context, five_layer_checkpoint):
    from core.weights import Compressed

    apply(MagnitudePrune(sparsity=0.7), subject, context)
    other = Compressed.of(subject.module, subject.architecture)
    wanted = features_of(five_layer_checkpoint.load(), context.dataset, 300)
    distances = []
    for state, hints in ((subject, 0.0), (other, 3.0)):
        apply(Distill(images=300, epochs=6, learning_rate=0.05, hints=hints), state, context)
        distances.append(float((features_of(state.module, context.dataset, 300) - wanted).square().mean()))
    assert distances[1] < 0.8 * distances[0]
    assert not any(layer._forward_pre_hooks for layer in other.module.modules())


@pytest.mark.parametrize("recomputing", [False, True])
def test_hints_reach_networks_of_other_widths_by_a_regressor_that_is_trained_too(recomputing, subject, context, monkeypatch):
    apply(ChannelPrune(sparsity=0.5, importance="l2", scope="layer", round_to=1), subject, context)
    assert subject.module.fc.in_features == 16
    trained = []
    monkeypatch.setattr(type(context), "train", lambda self, *given, train=type(context).train: trained.append(given[4]) or train(self, *given))
    apply(Distill(images=300, hints=1.0, checkpoint_activations=recomputing), subject, context)
    with torch.random.fork_rng():
        torch.manual_seed(context.seed)
        fresh = torch.nn.Linear(16, 32)
    assert not torch.equal(trained[0].weight, fresh.weight) and not torch.equal(trained[0].bias, fresh.bias)
    assert torch.isfinite(subject.module(torch.zeros(1, 3, 32, 32))).all()
    assert any(note.startswith("distill held at most") for note in subject.notes) == recomputing


def held_by(note: str) -> tuple[float, float]:
    """MB computed again, and instead of what."""
    most, instead = re.match(r"\w+ held at most ([\d.,]+) MB of .* instead of ([\d.,]+) MB, measured", note).groups()
    return float(most), float(instead)


def test_a_memory_limit_is_held_and_named(subject, context):
    apply(Finetune(images=300, checkpoint_activations=True), subject, context)
    least, plain = held_by(subject.notes[-1])
    limit = (least + plain) / 2
    apply(Finetune(images=300, checkpoint_activations=True, memory_limit=limit), subject, context)
    most, instead = held_by(subject.notes[-1])
    assert most <= limit and instead == plain and f"of activations at a time, within its limit of {limit:g} MB, instead" in subject.notes[-1]
    apply(Finetune(images=300, checkpoint_activations=True, memory_limit=1000), subject, context)
    assert subject.notes[-1].startswith(f"finetune held {plain} MB of activations at a time, within its limit of 1,000 MB, and computed none again, ")


def test_what_rounds_is_measured_as_it_is_trained(subject, context):
    apply(Finetune(images=300, checkpoint_activations=True), subject, context)
    apply(Quantize(weight_bits=4, activation_bits=4), subject, context)
    apply(Finetune(images=300, checkpoint_activations=True), subject, context)
    plain, rounded = (held_by(note) for note in subject.notes if note.startswith("finetune"))
    assert rounded[0] > plain[0] and rounded[1] > plain[1] and "MB of activations, roundings and masks at a time" in subject.notes[-1]


@pytest.mark.parametrize("step", [Finetune, Distill])
def test_a_limit_below_the_least_is_refused_before_anything_is_trained(step, subject, context, monkeypatch):
    from core.errors import BadField
    from core.keeping import teachers
    from core.methods.apply import check_fits

    monkeypatch.setattr(teachers, "answers", None)
    tight = step(images=300, checkpoint_activations=True, memory_limit=1)
    before = {name: tensor.clone() for name, tensor in subject.module.state_dict().items()}
    least = r"it takes ([\d.]+) MB or more, which is the least that training five_layers in batches of 64 holds"
    sentence = rf"^{step.name}\.memory_limit cannot be 1\.0; {least}\.$"
    with pytest.raises(BadField, match=sentence) as refused:
        check_fits((Finetune(), tight), subject)
    least = float(re.match(sentence, str(refused.value)).group(1))
    check_fits((dataclasses.replace(tight, memory_limit=least),), subject)
    check_fits((dataclasses.replace(tight, checkpoint_activations=False),), subject)  # then it says nothing
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.module.state_dict().items()) and not subject.module.training
    with pytest.raises(BadField, match=sentence):
        context.train(subject, tight, None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.module.state_dict().items()) and not subject.notes


def test_a_limit_is_held_against_the_least_alone_and_without_one_nothing_is_looked_at(subject, monkeypatch):
    from core.memory import recompute
    from core.methods import apply as applying
    from core.methods.student import Student

    monkeypatch.setattr(recompute, "within", None)
    applying.check_fits((Finetune(checkpoint_activations=True, memory_limit=1000),), subject)
    looked = []
    monkeypatch.setattr(recompute, "held", lambda *_: looked.append("held"))
    monkeypatch.setitem(applying._FITS, Student, (lambda *_: looked.append("built"), lambda step: True))
    applying.check_fits((Student(), Distill(), Finetune(memory_limit=20), Distill(checkpoint_activations=True)), subject)
    assert applying.notes(Finetune(checkpoint_activations=True), subject) == [] and not looked


def test_a_limit_that_nothing_keeps_to_is_warned_of():
    said = Work("mobilenet_v3_small", "digits", Recipe((Finetune(memory_limit=20),))).warnings()
    assert said == ["finetune.memory_limit says nothing where checkpoint_activations is false; set that to true."]
    assert not Work("mobilenet_v3_small", "digits", Recipe((Finetune(memory_limit=20, checkpoint_activations=True),))).warnings()


def test_hints_that_would_not_fit_into_memory_are_refused_before_the_teacher_answers(subject, context, monkeypatch):
    from core import hints
    from core.errors import BadRecipe
    from core.keeping import teachers

    monkeypatch.setattr(hints, "LARGEST", 8 * 32 * 250)
    monkeypatch.setattr(teachers, "answers", None)
    with pytest.raises(BadRecipe, match=r"on 300 pictures take 76,800 bytes, .* take at most 200 images"):
        apply(Distill(images=300, hints=1.0), subject, context)


@pytest.mark.parametrize("grids", [{}, {"weight_bits": 4, "activation_bits": 8}])
@pytest.mark.parametrize("step", [Finetune, Distill])
def test_activations_computed_again_give_the_same_weights(step, grids, subject, context, five_layer_checkpoint):
    """Also where masks and grids are trained through, and where activations are rounded."""
    from core.weights import Compressed

    made = []
    for recomputing in (False, True):
        state = Compressed.of(five_layer_checkpoint.load(), subject.architecture)
        apply(MagnitudePrune(sparsity=0.5), state, context)
        if grids:
            apply(Quantize(**grids), state, context)
        apply(step(images=300, learning_rate=0.001, checkpoint_activations=recomputing), state, context)
        made.append(state)
    plain, again = made
    assert f"{step.name} held at most" in again.notes[-1] and "measured on 2 and 3 pictures" in again.notes[-1] and again.notes[:-1] == plain.notes
    for name, weight in plain.weights.items():
        torch.testing.assert_close(again.weights[name].latent, weight.latent, rtol=1e-3, atol=1e-4)
        assert torch.equal(again.weights[name].mask, weight.mask)
    for name, buffer in plain.module.named_buffers():
        torch.testing.assert_close(dict(again.module.named_buffers())[name], buffer, rtol=1e-3, atol=1e-4)
    assert not any(hasattr(layer, "parametrizations") or layer.training for layer in again.module.modules())


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
    from core.arithmetic import activations

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
