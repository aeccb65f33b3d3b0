"""run() and preview() on a real tiny checkpoint: determinism, prefix reuse, identities, cancelling."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from core import engine
from core.errors import BadField, BadRecipe, Cancelled, NotHere, UnknownName
from core.keeping import kept, prefixes
from core.recipe import Recipe
from core.work import Work
from tests import five_layers


def work(*steps, **given) -> Work:
    return Work(five_layers.NAME, "digits", Recipe.from_json({"steps": list(steps)}), latency=given.pop("latency", False), **given)


PRUNE, QUANTIZE, REPAIR = {"step": "magnitude_prune", "sparsity": 0.6}, {"step": "quantize", "weight_bits": 4}, {"step": "calibrate_batchnorm", "images": 100}
DISTILL = {"step": "distill", "images": 300, "epochs": 1}


@pytest.fixture(autouse=True)
def _checkpoint(five_layer_checkpoint):
    return five_layer_checkpoint


def without_time(result: engine.Result) -> dict:
    return {key: value for key, value in result.to_json().items() if key not in ("seconds", "date")}


def test_same_identity_same_result_bit_for_bit():
    asked = work(PRUNE, DISTILL, QUANTIZE, REPAIR)
    first = engine.run(asked)
    for path in kept.path_of("prefixes", "x").parent.iterdir():
        path.unlink()
    second = engine.run(asked)
    assert without_time(first) == without_time(second) and first.predicted == second.predicted


def test_baseline_is_measured_like_everything_else():
    result = engine.run(work())
    assert result.baseline == result.metrics and result.difference["top1"] == 0
    assert result.metrics["images"] == 400 and 0 < result.metrics["top1_low"] < result.metrics["top1"] < result.metrics["top1_high"]
    assert result.metrics["parameters"] == result.metrics["nonzero"] or result.metrics["nonzero"] > 0
    assert len(result.predicted) == 2 * 400


def test_predictions_give_the_accuracy_that_is_shown():
    from core.datasets import load

    result = engine.run(work(PRUNE, QUANTIZE))
    labels = load("digits").split("validation").labels
    assert 100 * np.mean(np.frombuffer(result.predicted, "<u2") == labels) == pytest.approx(result.metrics["top1"])


@pytest.mark.parametrize("first_look", [False, True])
def test_a_run_that_a_runtime_refuses_is_complete_without_that_latency(monkeypatch, first_look):
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    from core.metrics import latency
    from core.metrics.latency import EAGER
    from core.runtimes import onnx

    def lacking(*_given, **_settings):
        raise Fail("[ONNXRuntimeError] : 1 : FAIL : Could not find an implementation for Unheard(1)\nmore of it")

    monkeypatch.setattr(onnx, "session", lacking)
    monkeypatch.setattr(latency, "_MEMORY", latency.Memory())
    monkeypatch.setattr(latency, "measure", lambda *_, **__: {"ratio": 1.0})
    said = "Not timed in ONNX Runtime, float32: ONNX Runtime cannot run five_layers: Could not find an implementation for Unheard(1)."
    result = engine.run(work(PRUNE, latency=True), first_look=first_look)
    for metrics in (result.metrics, result.baseline):
        assert [row["runtime"] for row in metrics["latencies"]] == [EAGER] and metrics["deployed_bytes"] is None and metrics["notes"][-1] == said
    assert set(engine.timed(work(PRUNE))) == {"latencies", "deployed_bytes"}


def test_later_steps_change_without_training_again(monkeypatch):
    engine.run(work(PRUNE, DISTILL, QUANTIZE))
    from core import training

    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained again"))
    engine.run(work(PRUNE, DISTILL, {"step": "quantize", "weight_bits": 3}))


def test_a_recalled_prefix_is_the_state_that_was_kept(subject, context):
    from core.methods.apply import apply
    from core.recipe import step_from_json

    for step in (PRUNE, {"step": "quantize", "weight_bits": 5, "symmetric": False}):
        apply(step_from_json(step), subject, context)
    prefixes.keep("some-key", subject)
    back = prefixes.recall("some-key")
    assert list(back.weights) == list(subject.weights)
    for name, weight in subject.weights.items():
        other = back.weights[name]
        for ours, theirs in zip((weight.latent, weight.mask, weight.grid.codes, weight.value()), (other.latent, other.mask, other.grid.codes, other.value())):
            assert (ours == theirs).all()
    assert prefixes.recall("no-such-key") is None


def test_preview_skips_training_and_settles_on_nested_pictures():
    seen = engine.preview(work(PRUNE, {"step": "distill", "images": 250}, QUANTIZE), seconds=0.0)
    assert seen["before_recovery"] and 64 <= seen["images"] < 400
    whole = engine.preview(work(PRUNE, QUANTIZE), seconds=60)
    exact = engine.run(work(PRUNE, QUANTIZE))
    assert whole["images"] == 400 and whole["metrics"]["top1"] == exact.metrics["top1"] and whole["difference"] == exact.difference


def test_a_kept_prefix_gives_the_very_same_weights():
    """Many quantized weights tie, so which of them are pruned depends on their order in memory."""
    asked = work({"step": "quantize", "weight_bits": 3}, {"step": "finetune", "images": 200, "learning_rate": 0.01}, PRUNE)
    fresh, recalled = engine.compress(asked), engine.compress(asked)
    for name, weight in fresh.weights.items():
        assert (weight.value() == recalled.weights[name].value()).all() and (weight.mask == recalled.weights[name].mask).all()
        assert weight.value().stride() == recalled.weights[name].value().stride()


def test_timing_a_run_trains_nothing(monkeypatch):
    from core import training
    from core.metrics import latency

    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(latency, "measure", lambda *_, **__: {"ratio": 1.0})
    found = engine.timed(work(PRUNE, {"step": "distill", "images": 260}, {"step": "quantize", "weight_bits": 8, "activation_bits": 8}))
    assert [row["runtime"] for row in found["latencies"]] == ["onnxruntime-float32", "onnxruntime-int8", "pytorch-float32"]
    assert found["deployed_bytes"] > 0


def test_timing_skips_what_does_not_change_the_graph(monkeypatch):
    from core.methods import apply as methods
    from core.metrics import latency

    applied, plain = [], methods.apply
    monkeypatch.setattr(methods, "apply", lambda step, subject, context: applied.append((step.name, context.images_at_most)) or plain(step, subject, context))
    monkeypatch.setattr(latency, "measure", lambda *_, **__: {"ratio": 1.0})
    steps = [PRUNE, {"step": "contribution_prune"}, {"step": "mixed_precision"}, {"step": "round_adaptively"}, REPAIR]
    engine.timed(work({"step": "channel_prune", "sparsity": 0.31, "round_to": 1}, *steps))
    assert applied == [("channel_prune", None), ("mixed_precision", engine.PREVIEW_CALIBRATION)]


def test_the_graph_that_is_timed_is_the_runs_own_even_if_its_training_is_not_kept(monkeypatch):
    from core.metrics import latency

    timed = []
    monkeypatch.setattr(latency, "latencies", lambda subject, *_: timed.append(subject.architecture) or ([], 0, []))
    removing = {"step": "channel_prune", "sparsity": 0.4, "round_to": 1}
    asked = work({"step": "finetune", "images": 310, "learning_rate": 0.1, "epochs": 3}, removing, QUANTIZE)
    engine.timed(asked)
    assert timed[0].shapes and timed[0] == engine.compress(asked).architecture
    assert timed[0] != engine.compress(work(removing, QUANTIZE)).architecture  # training moves what matters least


def test_preview_uses_what_training_already_made():
    asked = work(PRUNE, DISTILL)
    engine.run(asked)
    assert not engine.preview(asked, seconds=0.0)["before_recovery"]


def test_cancelling_between_batches_leaves_nothing_half_done():
    @contextlib.contextmanager
    def turn():
        raise Cancelled("The run was cancelled.")
        yield

    with pytest.raises(Cancelled):
        engine.run(work({"step": "finetune", "images": 200, "learning_rate": 0.05}), turn=turn)


def test_progress_never_runs_backwards_and_carries_the_learning_curve():
    events = []
    engine.run(work(PRUNE, {"step": "finetune", "images": 300, "learning_rate": 0.03}), report=events.append)
    fractions = [event["fraction"] for event in events]
    assert fractions == sorted(fractions) and any("curve" in event for event in events)


def test_identity_depends_on_what_decides_the_figures():
    asked = work(PRUNE)
    others = [work(), work({"step": "magnitude_prune", "sparsity": 0.61}), work(PRUNE, split="test"), work(PRUNE, images=100)]
    assert len({each.identity() for each in [asked, *others]}) == 5
    assert asked.identity() == work({"step": "magnitude_prune", "sparsity": 0.60}, latency=True).identity()
    assert Work.from_json(asked.to_json()) == asked


def test_a_fresh_network_belongs_to_the_torchvision_that_draws_it(monkeypatch):
    from core import work as works

    student, plain = ({"step": "student"}, DISTILL), (PRUNE, DISTILL)
    before = [work(*steps).identity() for steps in (student, plain)], [work(*steps).prefix_key(2) for steps in (student, plain)]
    monkeypatch.setattr(works, "_version", lambda package, real=works._version: "another" if package == "torchvision" else real(package))
    after = [work(*steps).identity() for steps in (student, plain)], [work(*steps).prefix_key(2) for steps in (student, plain)]
    assert all(old[0] != new[0] and old[1] == new[1] for old, new in zip(before, after))


def test_hints_that_would_not_fit_into_memory_are_refused_before_any_work(monkeypatch):
    from core import hints

    asked = work(PRUNE, DISTILL | {"hints": 1.0})
    assert asked.check()
    monkeypatch.setattr(hints, "LARGEST", 8 * 32 * 250)
    with pytest.raises(BadRecipe, match=r"on 300 pictures take 76,800 bytes, .* take at most 200 images"):
        asked.check()
    assert work(PRUNE, DISTILL).check() and work(PRUNE, DISTILL | {"hints": 1.0, "images": 200}).check()


def test_the_artifact_that_is_written_is_the_one_that_was_measured(tmp_path):
    from core import artifact
    from core.datasets import load
    from core.metrics.accuracy import evaluate

    result = engine.run(work(PRUNE, QUANTIZE, REPAIR), artifact=tmp_path / "model.psc")
    assert (tmp_path / "model.psc").stat().st_size == result.metrics["artifact_bytes"]
    back = artifact.read(tmp_path / "model.psc")
    predicted = evaluate(back.module, load("digits"), 32).predicted
    assert predicted.astype("<u2").tobytes() == result.predicted


@pytest.mark.parametrize(
    "error,change",
    [
        (UnknownName, {"model": "resnet17"}),
        (UnknownName, {"dataset": "imagenet"}),
        (BadField, {"split": "train"}),
        (BadField, {"images": 0}),
        (BadField, {"images": 2.5}),
        (BadRecipe, {"recipe": {}}),
    ],
)
def test_bad_work_is_refused_at_once(error, change):
    with pytest.raises(error):
        Work(**({"model": five_layers.NAME, "dataset": "digits"} | change))


def test_a_missing_checkpoint_names_the_command_that_trains_one():
    with pytest.raises(NotHere, match="python -m core train --model resnet50 --dataset digits"):
        Work("resnet50", "digits").check()


def test_large_models_give_way_after_64_pictures():
    """Evaluating, watching while training, training, and asking a teacher: a waiting preview waits for one batch of these."""
    from core import training, zoo
    from core.datasets import load
    from core.keeping import teachers
    from core.methods import apply as methods
    from core.models import checkpoints
    from core.models.architecture import Architecture
    from core.weights import Compressed

    for model, pictures, batches in (("resnet50", 100, {64, 36}), ("squeezenet1_1", 300, {250, 50})):
        subject = Compressed.of(zoo.build(model, 10, 32), Architecture(model, 10, 32))
        seen = set()
        subject.module.register_forward_pre_hook(lambda _module, given, seen=seen: seen.add(len(given[0])))
        engine.predict(subject, load("digits"), Work(model, "digits", images=pictures), engine.Hooks())
        assert seen - {1} == batches  # a single picture goes through to count its multiply-adds
    assert max(methods.TRAINING_BATCH, teachers.BATCH, training.WATCH_BATCH) <= 64
    assert checkpoints.settings("resnet50", 60_000)[2] <= 64 and checkpoints.settings("vgg16", 60_000)[2] <= 64


def test_the_watch_between_epochs_gives_way_too(subject, context):
    from core.methods.apply import apply
    from core.methods.finetune import Finetune

    seen = []
    hook = subject.module.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    apply(Finetune(images=200), subject, context)
    hook.remove()
    assert max(seen) == 64 and sum(seen) == 200 + 400
