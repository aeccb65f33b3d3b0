"""The one training loop: it learns, repeats itself to the bit, and goes on after a kill as if nothing had happened."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core import training
from core.datasets import load
from core.errors import Cancelled
from core.training import Plan, cross_entropy, fit, logits_of, one_cycle

ROOT = Path(__file__).resolve().parents[2]
SHORT = Plan(epochs=3, learning_rate=0.1, images=192, batch_size=32, flip=False)


def small_model(seed: int = 0) -> nn.Module:
    """One convolution with batch norm and dropout, 16×16 pictures to ten classes."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.1), nn.Linear(128, 10)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def train(plan: Plan = SHORT, module: nn.Module | None = None, **options) -> nn.Module:
    module = module or small_model()
    fit(module, load("digits"), 16, plan, cross_entropy(), **options)
    return module


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether every parameter and buffer is equal to the bit."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_loss_falls_and_accuracy_rises_on_a_small_problem():
    events: list[dict] = []
    module = train(dataclasses.replace(SHORT, epochs=8, images=None), report=events.append, watch=400)
    watched = [event for event in events if "top1" in event]
    assert [event["epoch"] for event in watched] == list(range(1, 9))
    assert watched[-1]["loss"] < watched[0]["loss"] / 3 and watched[-1]["top1"] > 85
    assert not module.training


def test_same_seed_same_weights_other_seed_other_weights():
    flipped = dataclasses.replace(SHORT, flip=True, shift=2)
    assert same(train(flipped), train(flipped))
    assert not same(train(flipped), train(dataclasses.replace(flipped, seed=1)))


def test_the_global_random_state_neither_matters_nor_changes():
    first, second = small_model(), small_model()
    torch.manual_seed(1)
    train(module=first)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    train(module=second)
    assert same(first, second) and torch.equal(torch.get_rng_state(), before)


def test_a_training_stopped_between_two_updates_goes_on_to_the_same_bits(tmp_path):
    state = tmp_path / "state.safetensors"
    updates = 0

    def turn():
        nonlocal updates
        updates += 1
        if updates == 16:  # in the third of three epochs of six updates
            raise Cancelled("stopped")
        return torch.enable_grad()

    with pytest.raises(Cancelled):
        train(turn=turn, state=state)
    assert state.exists()
    fresh = small_model(seed=5)  # what it starts from no longer matters
    events: list[dict] = []
    resumed = train(module=fresh, state=state, report=events.append)
    assert events[0]["epoch"] > 2
    assert same(resumed, train())


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path):
    """The same, with the process killed by the kernel in the middle of the last epoch."""
    state = tmp_path / "state.safetensors"
    script = f"""
import os
from pathlib import Path
from tests.core.test_training import train

def report(event):
    if event["epoch"] > 2.5:
        os.kill(os.getpid(), {int(signal.SIGKILL)})

train(report=report, state=Path({str(state)!r}))
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert ended.returncode == -signal.SIGKILL and state.exists()
    assert same(train(module=small_model(seed=5), state=state), train())


def test_the_state_of_another_plan_is_not_gone_on_from(tmp_path):
    state = tmp_path / "state.safetensors"
    train(dataclasses.replace(SHORT, seed=3), state=state)
    assert same(train(state=state), train())


@pytest.mark.parametrize(("total", "warm_up"), [(20, 0.25), (100, 0.1), (90, 0.3)])
def test_one_cycle_is_torchs_own(total, warm_up):
    """torch's OneCycleLR peaks one update earlier and ends at peak/25/10⁴; between those the curves are the same cosines."""
    rise = warm_up * total
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.4, total_steps=total + 1, pct_start=(rise + 1) / (total + 1), anneal_strategy="cos", div_factor=25, final_div_factor=1e9
    )
    expected = []
    for _ in range(total):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert [one_cycle(step, total, 0.4, warm_up) for step in range(total)] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_one_cycle_of_few_updates_stays_between_zero_and_the_peak(total):
    rates = [one_cycle(step, total, 0.1, 0.25) for step in range(total)]
    assert all(0 < rate <= 0.1 and math.isfinite(rate) for rate in rates)


def test_cross_entropy_is_torchs_with_smoothing():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.equal(cross_entropy(0.1)(logits, labels, torch.arange(6), torch.zeros(6, dtype=torch.bool)), expected)


def test_auxiliary_answers_are_left_out():
    logits = torch.zeros(2, 3)
    assert logits_of(logits) is logits and logits_of((logits, torch.ones(2, 3))) is logits


def test_the_objective_is_told_which_pictures_and_which_are_mirrored():
    """A distillation looks its teacher's answers up by number and mirroring, so both must fit the pictures it is given."""
    dataset = load("digits")
    prepared = dataset.prepare(dataset.split("train").images[:192], 16)
    seen: list[int] = []
    pictures = []
    module = small_model()
    module.register_forward_pre_hook(lambda _module, given: pictures.append(given[0]))

    def objective(logits, labels, numbers, mirrored):
        expected = torch.where(mirrored.view(-1, 1, 1, 1), prepared[numbers].flip(3), prepared[numbers])
        assert torch.equal(pictures[-1], expected)
        assert torch.equal(labels, torch.from_numpy(dataset.split("train").labels[numbers.numpy()]))
        seen.extend(numbers.tolist())
        return F.cross_entropy(logits, labels)

    fit(module, dataset, 16, dataclasses.replace(SHORT, epochs=1, flip=True), objective)
    assert sorted(seen) == list(range(192))


def test_shifted_pictures_are_moved_by_at_most_so_many_pixels():
    plan = dataclasses.replace(SHORT, shift=2)
    x = torch.zeros(200, 3, 9, 9)
    x[:, :, 4, 4] = 1
    moved, mirrored = training._augment(x, plan, torch.Generator().manual_seed(0))
    rows, columns = (moved[:, 0] == 1).nonzero()[:, 1], (moved[:, 0] == 1).nonzero()[:, 2]
    assert len(rows) == 200 and not mirrored.any()
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3, 4, 5, 6}
    assert (moved[:, 0] == moved[:, 2]).all()


def test_a_single_left_over_picture_is_left_out():
    """Batch norm has no variance of one picture; 65 pictures in batches of 32 are trained like the first 64 of their order."""
    module = train(dataclasses.replace(SHORT, images=65, epochs=1))
    assert module[1].num_batches_tracked == 2
    assert all(tensor.isfinite().all() for tensor in module.state_dict().values())


def test_progress_counts_up_to_one_and_knows_the_time_left():
    events: list[dict] = []
    train(report=events.append)
    fractions = [event["fraction"] for event in events]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert all(event["epochs"] == 3 and event["seconds_left"] >= 0 for event in events)


def test_the_held_out_pictures_are_never_trained_on(monkeypatch):
    dataset = load("digits")
    read = []
    monkeypatch.setattr(dataset, "split", lambda name, split=dataset.split: read.append(name) or split(name))
    images, labels = training._training_pictures(dataset, Plan(1, 0.1, calibration_too=True))
    assert set(read) == {"train", "calibration"} and len(images) == len(labels) == 900 + 97
    held_out = {picture.tobytes() for name in ("validation", "test") for picture in dataset.splits[name].images}
    trained = {picture.tobytes() for picture in images[np.arange(len(images))]}
    assert not trained & held_out and np.asarray(labels).max() == 9


def test_the_clock_runs_evenly_over_all_updates():
    told: list[float] = []
    train(clock=told.append)
    assert told == [update / 18 for update in range(18)]  # three epochs of six updates


def test_what_is_trained_beside_learns_too_and_leaves_the_rest_alone():
    beside, module = nn.Linear(10, 10), small_model()
    before = beside.weight.clone()
    fit(module, load("digits"), 16, SHORT, lambda logits, labels, _numbers, _mirrored: F.cross_entropy(beside(logits), labels), beside=beside)
    assert not torch.equal(beside.weight, before)
    assert same(train(beside=nn.Linear(2, 2)), train())  # no gradient reaches it


def test_features_are_what_the_last_layer_reads():
    module, x = small_model().eval(), torch.randn(4, 3, 16, 16)
    with training.penultimate(training.classifier(module)) as seen:
        module(x)
    assert torch.equal(seen[0], module[:-1](x)) and training.features_read(training.classifier(module)) == 128
    maps = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with training.penultimate(training.classifier(maps)) as seen:
        maps(x)
    torch.testing.assert_close(seen[0], maps[0](x).flatten(2).mean(2))


def test_a_classifier_in_factors_reads_its_features_by_the_first():
    module = nn.Sequential()
    module.fc = nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 10))
    assert training.classifier(module) is module.fc[1] and training.classifier(module, {"fc": ["svd", 2]}) is module.fc[0]
