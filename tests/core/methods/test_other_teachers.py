"""Another model's checkpoint as the teacher: whose answers are learned, what identifies the run, and what is missing."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from core import engine, zoo
from core.errors import NotHere
from core.home import ASSETS
from core.methods.apply import apply
from core.methods.distill import Distill
from core.recipe import Recipe
from core.work import Work
from tests import five_layers

TEACHER = "squeezenet1_1"


def distilled(model: str, teacher: str, dataset: str = "digits", **given) -> Work:
    step = {"step": "distill", "teacher": teacher, "images": 200} | given
    return Work(model, dataset, Recipe.from_json({"steps": [step]}), latency=False)


def test_the_answers_are_the_other_checkpoints_own(context):
    found = context.teacher_answers(TEACHER, 150)
    module = zoo.checkpoint(TEACHER, "digits").load()
    x = context.dataset.prepare(context.dataset.split("train").images[:150], 32)
    with torch.no_grad():
        for part, shown in zip(found, (x, x.flip(3)), strict=True):
            torch.testing.assert_close(part, module(shown), rtol=1e-4, atol=1e-4)
    assert not torch.equal(found, context.teacher_answers("self", 150))


def test_the_student_trains_on_them_by_the_formula(subject, context, five_layer_checkpoint):
    from core.weights import Compressed

    other = Compressed.of(five_layer_checkpoint.load(), subject.architecture)
    step = Distill(teacher=TEACHER, images=200, temperature=2.0, alpha=0.7)
    apply(step, subject, context)
    answers = context.teacher_answers(TEACHER, 200)

    def plainly(logits, labels, numbers, mirrored):
        teacher = answers[mirrored.long(), numbers]
        taught = 4 * F.kl_div(F.log_softmax(logits / 2, 1), F.log_softmax(teacher / 2, 1), reduction="batchmean", log_target=True)
        return (1 - 0.7) * F.cross_entropy(logits, labels) + 0.7 * taught

    context.train(other, step, plainly)
    mine, theirs = subject.module.state_dict(), other.module.state_dict()
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())


def test_its_features_are_hints_by_a_regressor_to_their_width(subject, context, monkeypatch):
    """512 wide, of squeezenet1_1; 32 wide, of the five-layer model."""
    from core.weights import Compressed

    found = context.teacher_features(TEACHER, 150)
    module = zoo.checkpoint(TEACHER, "digits").load()
    x = context.dataset.prepare(context.dataset.split("train").images[:150], 32)
    with torch.no_grad():
        for part, shown in zip(found, (x, x.flip(3)), strict=True):
            torch.testing.assert_close(part, module.features(shown).mean((2, 3)), rtol=1e-4, atol=1e-4)
    assert torch.equal(context.teacher_features(TEACHER, 150), found)  # as they were kept
    trained = []
    monkeypatch.setattr(type(context), "train", lambda self, *given, train=type(context).train: trained.append(given[4:]) or train(self, *given))
    before = Compressed.of(subject.module, subject.architecture).module.state_dict()
    apply(Distill(teacher=TEACHER, images=150, hints=1.0), subject, context)
    ((regressor,),) = trained
    assert regressor.weight.shape == (512, 32)
    with torch.random.fork_rng():
        torch.manual_seed(context.seed)
        assert not torch.equal(regressor.weight, torch.nn.Linear(32, 512).weight)  # it learned
    changed = subject.module.state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in changed.values())
    assert not torch.equal(changed["features.0.weight"], before["features.0.weight"])
    without = Compressed.of(subject.module, subject.architecture)
    without.module.load_state_dict(before)
    apply(Distill(teacher=TEACHER, images=150), without, context)
    assert not torch.equal(changed["features.0.weight"], without.module.state_dict()["features.0.weight"])  # the hints made a difference


def test_a_run_by_another_teacher_is_another_run(five_layer_checkpoint):
    by_self, by_other = (engine.run(distilled(five_layers.NAME, teacher)) for teacher in ("self", TEACHER))
    assert by_self.identity != by_other.identity and by_self.work.prefix_key(1) != by_other.work.prefix_key(1)
    assert by_self.baseline == by_other.baseline and by_self.metrics["artifact_bytes"] != by_other.metrics["artifact_bytes"]
    assert by_other.metrics["top1"] > 80 and by_other.work.recipe.steps[0].teacher == TEACHER


def test_the_teachers_weights_are_part_of_the_identity(home):
    model = "shufflenet_v2_x0_5"

    def identities() -> list[tuple[str, str]]:
        return [(work.identity(), work.prefix_key(1)) for work in (distilled(model, teacher) for teacher in ("self", TEACHER))]

    (self_before, other_before), shipped = identities(), ASSETS / "checkpoints" / "digits" / f"{TEACHER}.safetensors"
    own = home / "checkpoints" / "digits" / shipped.name
    own.parent.mkdir(parents=True)
    own.with_suffix(".json").write_text(json.dumps(zoo.checkpoint(TEACHER, "digits").card))
    own.write_bytes(shipped.read_bytes())
    assert identities() == [self_before, other_before]  # the same bytes are the same teacher, wherever they lie
    own.write_bytes(shipped.read_bytes()[:-2] + b"\x00\x01")
    self_after, other_after = identities()
    assert self_after == self_before and not set(other_after) & set(other_before)


def test_a_teacher_without_a_checkpoint_is_refused_before_any_work(five_layer_checkpoint):
    with pytest.raises(NotHere, match=r"A checkpoint of resnet50 on digits is not here.*core train --model resnet50 --dataset digits"):
        distilled(five_layers.NAME, "resnet50").check()
