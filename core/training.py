"""The one training loop. Checkpoints, fine-tuning, distillation and quantization-aware training all pass through `fit`.

A loop is deterministic for a seed and a thread count: the order of the pictures, their augmentation and dropout all
derive from the seed and the epoch, so a run that was killed goes on from its last whole epoch with the same numbers.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save

from core import device
from core.arithmetic.finite import check_finite
from core.datasets import Dataset
from core.errors import BadInput
from core.home import write_whole
from core.recipe import digest

# (logits (B, K), labels (B,), picture numbers (B,), mirrored (B,) bool) -> scalar loss
Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Report = Callable[[dict], None]
Turn = Callable[[], contextlib.AbstractContextManager]

WATCH_BATCH = 64  # small enough that a waiting preview gets its turn soon


@dataclass(frozen=True)
class Plan:
    """How to train: SGD with Nesterov momentum under a one-cycle rate (arXiv:1708.07120)."""

    epochs: int
    learning_rate: float  # the peak of the cycle
    images: int | None = None  # how many of the training pictures; None: all
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float = 5.0
    warm_up: float = 0.25  # share of all updates before the peak
    flip: bool = True
    shift: int = 0  # largest translation in pixels
    calibration_too: bool = False  # train on the calibration pictures as well (checkpoints only)
    seed: int = 0


def cross_entropy(smoothing: float = 0.0) -> Objective:
    return lambda logits, labels, _numbers, _mirrored: F.cross_entropy(logits, labels, label_smoothing=smoothing)


def fit(
    module: torch.nn.Module,
    dataset: Dataset,
    input_size: int,
    plan: Plan,
    objective: Objective,
    *,
    turn: Turn = contextlib.nullcontext,
    report: Report = lambda event: None,
    watch: int = 0,
    state: Path | None = None,
    clock: Callable[[float], None] = lambda fraction: None,
    beside: torch.nn.Module | None = None,
) -> None:
    """Train `module` in place on the dataset's train split.

    `turn` is entered around every update and may wait, or raise `Cancelled`. `report` receives a dict after every few
    updates: `fraction`, `epoch`, `loss`, `seconds_left`, and, where `watch` pictures of the validation split are
    evaluated after each epoch, `top1` (percent). `state` is a file that lets a killed training go on. `clock` is told before every
    update which share of them is done. `beside` is trained together with `module`: what the objective needs to learn, and
    the model does not keep.
    """
    images, labels = _training_pictures(dataset, plan)
    with device.moved(module) as where, torch.random.fork_rng(devices=[]):  # what the objective needs stays on the processor, and reads logits there
        steps = math.ceil(len(labels) / plan.batch_size)  # updates an epoch
        total = steps * plan.epochs
        parameters = [parameter for part in (module, beside) if part is not None for parameter in part.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=plan.learning_rate, momentum=plan.momentum, nesterov=True, weight_decay=plan.weight_decay)
        first = _restore(state, module, optimizer, parameters, plan) if state else 0
        started, done_before = time.monotonic(), first * steps
        for epoch in range(first, plan.epochs):
            generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + epoch)
            torch.manual_seed(plan.seed * 1_000_003 + epoch)
            order = torch.randperm(len(labels), generator=generator)
            module.train()
            running = 0.0
            for step in range(steps):
                numbers = order[step * plan.batch_size : (step + 1) * plan.batch_size]
                if len(numbers) < 2:  # batch norm has no variance of one picture
                    continue
                for group in optimizer.param_groups:
                    group["lr"] = one_cycle(epoch * steps + step, total, plan.learning_rate, plan.warm_up)
                clock((epoch * steps + step) / total)
                with turn():
                    x, mirrored = _augment(dataset.prepare(images[numbers.numpy()], input_size), plan, generator)
                    optimizer.zero_grad(set_to_none=True)
                    loss = objective(logits_of(module(x.to(where))).cpu(), labels[numbers], numbers, mirrored)
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(parameters, plan.clip_norm)
                    optimizer.step()
                running += (float(loss.detach()) - running) / (step + 1)
                _check_loss(running, plan)
                done = epoch * steps + step + 1
                if done % 5 == 0 and step + 1 < steps:
                    left = (time.monotonic() - started) / (done - done_before) * (total - done)
                    report({"fraction": done / total, "epoch": epoch + (step + 1) / steps, "epochs": plan.epochs, "loss": running, "seconds_left": left})
            check_finite(module.state_dict(), "The trained model", _calmer(plan))
            seen = {"top1": _watch(module, dataset, input_size, watch, turn)} if watch else {}
            if state:
                _save(state, module, optimizer, parameters, plan, epoch + 1)
            left = (time.monotonic() - started) / ((epoch + 1) * steps - done_before) * (total - (epoch + 1) * steps)
            report({"fraction": (epoch + 1) / plan.epochs, "epoch": epoch + 1, "epochs": plan.epochs, "loss": running, "seconds_left": left} | seen)
    module.eval()


def _check_loss(loss: float, plan: Plan) -> None:
    """Raises `BadInput` as soon as a training has come to numbers that lead nowhere."""
    if not math.isfinite(loss):
        raise BadInput(f"The loss became {loss} while training, and takes finite values only; {_calmer(plan)}.")


def _calmer(plan: Plan) -> str:
    return f"take a learning rate below {plan.learning_rate:g}"


def one_cycle(step: int, total: int, peak: float, warm_up: float) -> float:
    """Learning rate of one update: cosine from peak/25 up to `peak` over the `warm_up` share, then cosine down to 0."""
    rise = warm_up * total
    if step < rise:
        return peak / 25 + (peak - peak / 25) * (1 - math.cos(math.pi * step / rise)) / 2
    return peak * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise))) / 2


def logits_of(output) -> torch.Tensor:
    """A model's logits (B, K); models with auxiliary classifiers return them in a tuple while training."""
    return output if isinstance(output, torch.Tensor) else output[0]


def classifier(module: torch.nn.Module, factored: Collection[str] = ()) -> torch.nn.Conv2d | torch.nn.Linear:
    """The layer that reads the features: the last convolution or linear layer, or, where its path is in `factored`, its first factor."""
    *_, (path, last) = ((path, layer) for path, layer in module.named_modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)))
    whole = path.rpartition(".")[0]
    return module.get_submodule(f"{whole}.0") if whole in factored else last


def features_read(layer: torch.nn.Conv2d | torch.nn.Linear) -> int:
    """How many features a classifier reads of each picture."""
    return layer.in_channels if isinstance(layer, torch.nn.Conv2d) else layer.in_features


@contextlib.contextmanager
def penultimate(layer: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """While inside, the list holds what a classifier read last: features (B, W), averaged over positions where it is a convolution."""
    seen: list[torch.Tensor] = []

    def look(_layer, inputs: tuple) -> None:
        seen[:] = [(inputs[0].mean((2, 3)) if inputs[0].dim() == 4 else inputs[0]).cpu()]

    hook = layer.register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        hook.remove()


class Joined:
    """Two arrays of pictures (N, C, H, W) as one, for numbers (B,) alone: what is not asked for is not read."""

    def __init__(self, first: np.ndarray, second: np.ndarray):
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        picked = np.empty((len(numbers), *self.first.shape[1:]), self.first.dtype)
        early = numbers < len(self.first)
        picked[early], picked[~early] = self.first[numbers[early]], self.second[numbers[~early] - len(self.first)]
        return picked


def _training_pictures(dataset: Dataset, plan: Plan):
    train = dataset.split("train")
    images, labels = train.images, train.labels
    if plan.calibration_too:
        extra = dataset.split("calibration")
        images, labels = Joined(images, extra.images), np.concatenate([labels, extra.labels])
        return images, torch.from_numpy(labels[: plan.images])
    return images[: plan.images], torch.from_numpy(labels[: plan.images])


def _augment(x: torch.Tensor, plan: Plan, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """x (B, 3, S, S) → mirrored at random and moved by up to `shift` pixels, with the flags (B,) of what was mirrored."""
    mirrored = torch.zeros(len(x), dtype=torch.bool)
    if plan.flip:
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
    if plan.shift:
        size, span = x.shape[2], 2 * plan.shift + 1
        rows = torch.randint(span, (len(x), 1), generator=generator) + torch.arange(size)  # (B, S)
        columns = torch.randint(span, (len(x), 1), generator=generator) + torch.arange(size)
        padded = F.pad(x, (plan.shift,) * 4)
        picked = padded.permute(0, 2, 3, 1)[torch.arange(len(x)).view(-1, 1, 1), rows[:, :, None], columns[:, None, :]]  # (B, S, S, 3)
        x = picked.permute(0, 3, 1, 2)
    return x, mirrored


def _watch(module, dataset: Dataset, input_size: int, count: int, turn: Turn) -> float:
    module.eval()
    where, right, seen = device.place(), 0, 0
    with torch.inference_mode():
        for x, labels in dataset.batches("validation", input_size, WATCH_BATCH, count):
            with turn():
                right += int((logits_of(module(x.to(where))).cpu().argmax(1) == labels).sum())
            seen += len(labels)
    return 100 * right / seen


def _save(path: Path, module, optimizer, parameters, plan: Plan, epoch: int) -> None:
    tensors = {f"module.{name}": tensor.contiguous() for name, tensor in module.state_dict().items()}
    for number, parameter in enumerate(parameters):
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{number}"] = buffer.contiguous()
    write_whole(path, save(tensors, {"epoch": str(epoch), "plan": _plan_key(plan)}))


def whole_epochs(path: Path, plan: Plan) -> int:
    """How many a training of this plan has kept in its `state` file, and goes on from."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as stored:
        facts = stored.metadata()
    return int(facts["epoch"]) if facts.get("plan") == _plan_key(plan) else 0


def _restore(path: Path, module, optimizer, parameters, plan: Plan) -> int:
    """The number of whole epochs already done by the same plan; 0 when there is nothing to go on from."""
    done = whole_epochs(path, plan)
    if not done:
        return 0
    with safe_open(path, "pt") as stored:
        names = list(stored.keys())
        module.load_state_dict({name.removeprefix("module."): stored.get_tensor(name) for name in names if name.startswith("module.")})
        for number, parameter in enumerate(parameters):
            if f"momentum.{number}" in names:
                order = torch.channels_last if parameter.dim() == 4 else torch.contiguous_format
                optimizer.state[parameter]["momentum_buffer"] = stored.get_tensor(f"momentum.{number}").to(parameter.device, memory_format=order)
    return done


def _plan_key(plan: Plan) -> str:
    return digest(json.dumps(asdict(plan), sort_keys=True))
