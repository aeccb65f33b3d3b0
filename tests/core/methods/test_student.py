"""Students: their shapes, their initialisation, their place in a recipe, and who teaches them."""

from __future__ import annotations

import math

import pytest
import torch

from core import artifact, engine, zoo
from core.errors import BadField, BadRecipe
from core.keeping import teachers
from core.methods import student
from core.methods.apply import apply
from core.methods.calibrate_batchnorm import CalibrateBatchnorm
from core.methods.channel_prune import ChannelPrune
from core.methods.distill import Distill
from core.methods.finetune import Finetune
from core.methods.magnitude_prune import MagnitudePrune
from core.methods.student import Student
from core.metrics import cost
from core.models.architecture import Architecture
from core.recipe import Recipe
from core.weights import weights_of
from core.work import Work
from tests import five_layers


def made(subject, context, **fields):
    student._LAST.clear()
    apply(Student(**fields), subject, context)
    return subject


def eighths(channels: int, width: float) -> int:
    """The multiple of eight that is nearest to this share of the channels, the larger of two; all of them count as one."""
    allowed = [*range(8, channels, 8), channels]
    wanted = channels - round((1 - width) * channels)
    return max(size for size in allowed if abs(size - wanted) == min(abs(other - wanted) for other in allowed))


@pytest.mark.parametrize("width", [0.25, 0.5, 0.7])
def test_every_layer_keeps_its_share_of_the_channels(width, subject, context):
    whole = zoo.build("resnet18", 10, 32)
    made(subject, context, model="resnet18", width=width)
    for (name, before), (other, after) in zip(weights_of(whole), weights_of(subject.module), strict=True):
        assert name == other and after.shape[2:] == before.shape[2:]
        assert after.shape[0] == (10 if name == "fc.weight" else eighths(before.shape[0], width))
        assert after.shape[1] == (3 if name == "conv1.weight" else eighths(before.shape[1], width))
    assert cost.macs(subject.module, 32) < (width + 0.1) * cost.macs(whole, 32)
    assert subject.module(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_at_full_width_it_is_torchvisions_own_initialisation(subject, context):
    context.seed = 11
    made(subject, context, model="squeezenet1_1", width=1.0)
    torch.manual_seed(11)
    expected = zoo.build("squeezenet1_1", 10, 32).state_dict()
    found = subject.module.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert subject.architecture == Architecture.plain("squeezenet1_1", 10, 32) and not subject.activations


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_narrow_layers_sum_to_the_variance_of_whole_ones(model, subject, context):
    """n · Var(W), of layers with weights enough to measure it on."""
    whole = dict(weights_of(zoo.build(model, 10, 32)))
    made(subject, context, model=model, width=0.5)
    compared = 0
    for name, weight in weights_of(subject.module):
        if weight.numel() >= 4000:
            before, after = (tensor[0].numel() * float(tensor.detach().square().mean()) for tensor in (whole[name], weight))
            assert after == pytest.approx(before, rel=0.12), name
            compared += 1
    assert compared >= 5


@pytest.mark.slow
def test_answers_of_a_narrow_network_without_batch_norm_vary_as_those_of_the_whole(subject, context):
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(context.seed)
    whole = zoo.build("vgg11", 10, 32)
    made(subject, context, model="vgg11", width=0.5)
    with torch.inference_mode():
        spread = [float(module.features(x).square().mean().sqrt()) for module in (whole, subject.module)]
    assert spread[1] / spread[0] == pytest.approx(1, abs=0.4)  # without the scaling it is 0.09


def test_the_seed_decides_and_nothing_else(subject, context):
    states = []
    for seed in (5, 5, 6):
        torch.rand(3)
        context.seed = seed
        before = torch.get_rng_state()
        states.append(made(subject, context, width=0.5).module.state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    first, again, other = states
    assert all(torch.equal(first[name], tensor) for name, tensor in again.items())
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_a_remembered_student_is_not_changed_by_what_follows(subject, context):
    made(subject, context, width=0.5)
    fresh = {name: tensor.clone() for name, tensor in subject.module.state_dict().items()}
    apply(Finetune(images=200), subject, context)
    apply(Student(width=0.5), subject, context)
    assert all(torch.equal(subject.module.state_dict()[name], tensor) for name, tensor in fresh.items())


@pytest.mark.parametrize("steps", [(MagnitudePrune(), Student()), (Student(), Student()), (Distill(), MagnitudePrune(), Student())])
def test_it_stands_first_or_is_refused(steps):
    with pytest.raises(BadRecipe, match=rf"^student cannot follow {steps[0].name}, .*; put student first, and only once\.$"):
        Recipe(steps)
    Recipe((Student(), ChannelPrune(), Distill()))


def test_what_cannot_be_is_refused_in_a_sentence(subject, context, monkeypatch):
    with pytest.raises(BadField, match=r"^student\.model cannot be 'resnet17'; .* torchvision model\.$"):
        Student(model="resnet17")
    monkeypatch.setitem(zoo.models(), "vgg11", zoo.models()["vgg11"] | {"channel_prunable": "it is knitted"})
    with pytest.raises(BadRecipe, match=r"student cannot make vgg11 narrower: it is knitted; take a width of 1\."):
        apply(Student(model="vgg11"), subject, context)
    Student(model="vgg11", width=1.0).check_model("resnet18")
    with pytest.raises(BadRecipe, match=r"alexnet cannot be the student, because the pictures are 32×32, .* 64×64\."):
        apply(Student(model="alexnet"), subject, context)
    with pytest.raises(BadRecipe, match="alexnet cannot be the student"):
        work(Student(model="alexnet")).check()


def work(*steps, **given) -> Work:
    return Work(five_layers.NAME, "digits", Recipe(steps), latency=given.pop("latency", False), **given)


@pytest.fixture
def _registered(five_layer_checkpoint):
    """The engine finds the five-layer checkpoint by name."""


@pytest.mark.usefixtures("_registered")
def test_later_steps_are_checked_against_the_students_model():
    work(Student(model="squeezenet1_1"), MagnitudePrune(layers="classifier.*"))
    with pytest.raises(BadField, match=r"classifier\.1"):
        work(Student(model="squeezenet1_1"), MagnitudePrune(layers="fc"))
    with pytest.raises(BadRecipe, match="squeezenet1_1 by bn_scale"):
        work(Student(model="squeezenet1_1"), ChannelPrune(importance="bn_scale"))


@pytest.mark.usefixtures("_registered")
def test_a_run_teaches_another_model_by_the_checkpoint_and_packs_it(monkeypatch, tmp_path, five_layer_checkpoint):
    asked: list[str] = []
    original = teachers.answers
    monkeypatch.setattr(teachers, "answers", lambda checkpoint, *given: asked.append(checkpoint.hash) or original(checkpoint, *given))
    taught = work(Student(model="shufflenet_v2_x0_5"), Distill(images=200), images=100)
    result = engine.run(taught, artifact=tmp_path / "student.psc")
    assert asked == [five_layer_checkpoint.hash]
    assert result.metrics["parameters"] != result.baseline["parameters"] and math.isfinite(result.metrics["top1"])
    assert not any("no training follows" in note for note in result.metrics["notes"])
    packed = artifact.read(tmp_path / "student.psc")
    assert packed.architecture.model == "shufflenet_v2_x0_5" and packed.architecture.shapes
    kept = engine.compress(taught).module.state_dict()  # from the kept prefix
    assert all(torch.equal(packed.module.state_dict()[name], tensor) for name, tensor in kept.items())
    assert cost.macs(packed.module, 32) == result.metrics["macs"]


@pytest.mark.usefixtures("_registered")
def test_without_training_a_note_says_so():
    found = engine.preview(work(Student()))
    assert any("no training follows" in note for note in found["metrics"]["notes"]) and not found["before_recovery"]
    assert engine.preview(work(Student(), Finetune()))["before_recovery"]


@pytest.mark.parametrize(("model", "said"), [("mobilenet_v3_small", True), ("shufflenet_v2_x0_5", False), ("squeezenet1_1", False)])
def test_batch_norms_that_average_over_many_updates_are_told_of(model, said, subject, context):
    made(subject, context, model=model)
    assert any("about 100 updates" in note for note in subject.notes) == said


def test_self_is_still_the_checkpoint_for_a_student(subject, context, five_layer_checkpoint):
    made(subject, context, model="shufflenet_v2_x0_5")
    answers = context.teacher_answers("self", 100)
    x = context.dataset.prepare(context.dataset.split("train").images[:100], 32)
    with torch.inference_mode():
        torch.testing.assert_close(answers[0], five_layer_checkpoint.load()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_narrow_student_learns_alone_and_from_its_teacher():
    """mobilenet_v3_small at half width on digits, with hints across widths; `pytest -s` shows the figures.

    Batch norm is repaired, because that model's averages over a hundred updates and starts with nothing.
    """
    checkpoint = zoo.checkpoint("mobilenet_v3_small", "digits")
    found = {}
    recipes = {
        "alone": Finetune(epochs=8, images=900, learning_rate=0.05),
        "distilled": Distill(epochs=8, images=900, learning_rate=0.05),
        "with hints": Distill(epochs=8, images=900, learning_rate=0.05, hints=1.0),
    }
    for name, step in recipes.items():
        result = engine.run(Work("mobilenet_v3_small", "digits", Recipe((Student(), step, CalibrateBatchnorm())), latency=False))
        found[name] = result.metrics["top1"]
        assert result.metrics["parameters"] < 0.4 * result.baseline["parameters"] and math.isfinite(found[name])
    print(f"\nbaseline {checkpoint.card['validation']['top1']:.1f} %, " + ", ".join(f"{name} {top1:.1f} %" for name, top1 in found.items()))
    assert min(found.values()) > 80


@pytest.mark.slow
def test_a_students_latency_is_measured_against_the_baseline():
    found = engine.timed(Work("mobilenet_v3_small", "digits", Recipe((Student(),))))
    assert found["deployed_bytes"] and all(entry["ratio"] > 0 for entry in found["latencies"])
