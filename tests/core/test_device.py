"""Where accuracy and training are computed: how the device is chosen, and that all of a network goes along."""

import copy
import dataclasses
import json
import os
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core import device, device_check
from core.__main__ import main
from core.arithmetic import activations, grids
from core.commands.device import hint
from core.errors import BadField, NotHere
from core.exports import chosen
from core.home import folder
from core.jobs import office, tasks
from core.machine import machine
from core.methods.apply import apply
from core.metrics.accuracy import evaluate
from core.recipe import Recipe, step_from_json
from core.store import Store
from core.studies import gallery
from core.studies.known import Shelf
from core.weights import trainable
from core.work import Work
from tests import five_layers

PLAN = device_check.PLAN


def test_the_processor_is_chosen_where_nothing_else_was_checked(home, monkeypatch):
    monkeypatch.delenv("PARETOSCOPE_DEVICE", raising=False)
    assert device.chosen() == "cpu" == device.place().type


@pytest.fixture
def stand_in(home, monkeypatch):
    """A machine that seems to have CUDA, which is the processor under another name."""
    monkeypatch.delenv("PARETOSCOPE_DEVICE", raising=False)
    monkeypatch.setattr(device, "candidate", lambda: "cuda")
    monkeypatch.setattr(device, "place", lambda: torch.device("cpu"))
    monkeypatch.setattr(device_check, "PLAN", {"epochs": 1, "learning_rate": 0.05, "images": 100})
    return home


def test_a_device_that_computes_what_the_processor_computes_serves_from_then_on(stand_in, capsys):
    assert device.unchecked() == "cuda" and device.chosen() == "cpu"
    assert [sentence[:36] for sentence in hint()] == ["This machine seems to have CUDA: `py"]
    assert main(["device", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "cuda" == device.chosen() and found["alike"] == 1
    assert list(found["trainings"]) == ["plain", "with shared weights", "on 8-bit grids", "by a teacher"]
    assert all(each == {"loss": 0, "points": 0} for each in found["trainings"].values())
    assert found["sentence"].startswith(
        "CUDA answers 100.0 % of 256 pictures as the processor does, and 4 short trainings end within 0.00 % of the processor's"
    )
    assert device.unchecked() is None and hint() == []


@pytest.mark.parametrize("others", [256, 1])
def test_a_device_that_answers_something_else_does_not_serve(stand_in, monkeypatch, capsys, others):
    """One picture of 256 is more than exports may differ in."""

    def off(module, *arguments, **named):
        predictions = evaluate(module, *arguments, **named)
        different = (device.chosen() == "cuda") & (np.arange(len(predictions)) < others)
        return dataclasses.replace(predictions, predicted=(predictions.predicted + different) % 10)

    monkeypatch.setattr(device_check, "TRAININGS", {"plain": device_check.TRAININGS["plain"]})
    monkeypatch.setattr(device_check, "evaluate", off)
    assert main(["device"]) == 0
    assert capsys.readouterr().out.endswith(" of its time, so the processor goes on to serve accuracy and training.\n")
    assert device.chosen() == "cpu" and device.unchecked() is None and device.checked()["alike"] == 1 - others / 256


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "place", "name"), [("with shared weights", grids._Gather, "backward"), ("on 8-bit grids", torch, "fake_quantize_per_tensor_affine")]
)
def test_a_device_whose_gradients_are_wrong_does_not_serve(stand_in, monkeypatch, training, place, name):
    """A codebook's twice as large, or none through a rounding."""
    right = getattr(place, name)

    def wrong(*given):
        if device.chosen() == "cpu":
            return right(*given)
        return (2 * right(*given)[0], None) if place is grids._Gather else right(*given).detach()

    monkeypatch.setattr(place, name, staticmethod(wrong) if place is grids._Gather else wrong)
    monkeypatch.setattr(device_check, "TRAININGS", {training: device_check.TRAININGS[training]})
    monkeypatch.setattr(device_check, "PLAN", PLAN)
    found = device_check.check("cuda")
    assert found["device"] == "cpu" and found["alike"] == 1 and found["trainings"][training]["loss"] > 2 * device_check.LOSS
    assert f"(furthest: {training})" in found["sentence"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("CUDA error: out of memory\nmore lines"), "CUDA error: out of memory"), (AssertionError(), "AssertionError"),
        (TypeError("Cannot convert a MPS Tensor to float64 dtype."), "Cannot convert a MPS Tensor to float64 dtype"),
        (NotImplementedError("The operator is not implemented for the MPS device."), "The operator is not implemented for the MPS device"),
    ],
)  # fmt: skip
def test_a_device_that_torch_does_not_find_or_that_fails_does_not_serve(stand_in, monkeypatch, error, reason):
    def fails(*_arguments, **_named):
        raise error

    monkeypatch.setattr(device_check, "apply", fails)
    assert device_check.check("cuda")["sentence"] == f"CUDA cannot be used ({reason}), so the processor serves accuracy and training."
    assert device.chosen() == "cpu"
    monkeypatch.undo()
    monkeypatch.setenv("PARETOSCOPE_HOME", str(stand_in))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "PyTorch does not find it on this machine" in device_check.check("cuda")["sentence"] and device.chosen() == "cpu"


def test_a_device_that_has_gone_does_not_serve(stand_in, monkeypatch):
    device.keep({"device": "cuda", "sentence": "It did."})
    assert device.chosen() == "cuda"
    monkeypatch.setattr(device, "candidate", lambda: None)
    assert device.chosen() == "cpu" and device.checked() is None


def test_a_check_of_another_machine_and_a_broken_file_count_for_nothing(stand_in):
    path = folder() / device.FILE
    earlier = json.dumps({"device": "cuda", "sentence": "", "machine": machine()["id"]})  # by a check that trained nothing behind a grid
    for written in ('{"device": "cuda", "sentence": "", "machine": "another", "edition": 2}', earlier, '{"device": "tpu"}', "[]", "{"):
        path.write_text(written)
        os.utime(path, ns=(0, len(written)))  # the clock of the file system is coarse
        assert device.checked() is None and device.chosen() == "cpu"


def test_the_cluster_process_checks_what_nobody_has_checked(stand_in, monkeypatch):
    asked = []
    done = subprocess.CompletedProcess([], -11, "", "It begins.\nIt broke.\n")
    monkeypatch.setattr(office.subprocess, "run", lambda command, **_options: asked.append(command) or done)
    office._check_device()
    assert device.checked()["sentence"] == "CUDA cannot be used (It broke), so the processor serves accuracy and training."
    office._check_device()  # once is enough
    (folder() / device.FILE).unlink()
    monkeypatch.setenv("PARETOSCOPE_DEVICE", "cpu")
    office._check_device()
    assert [command[1:] for command in asked] == [["-m", "core", "device"]]


def test_a_machine_without_another_device_says_so(monkeypatch, capsys):
    monkeypatch.setattr(device, "candidate", lambda: None)
    monkeypatch.delenv("PARETOSCOPE_DEVICE", raising=False)
    assert main(["device"]) == 0 and "neither CUDA nor Apple's MPS" in capsys.readouterr().out
    monkeypatch.setenv("PARETOSCOPE_DEVICE", "mps")
    assert main(["device"]) == 0 and capsys.readouterr().out == "PARETOSCOPE_DEVICE has Apple's MPS serve accuracy and training.\n"


def test_an_unknown_device_and_one_that_is_not_here_are_sentences(monkeypatch):
    monkeypatch.setenv("PARETOSCOPE_DEVICE", "tpu")
    with pytest.raises(BadField, match=r"^PARETOSCOPE_DEVICE cannot be 'tpu'; it takes one of cpu, cuda, mps\.$"):
        device.chosen()
    monkeypatch.setenv("PARETOSCOPE_DEVICE", "mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(NotHere, match=r"^The device mps is not here: PyTorch does not find it on this machine\. Set PARETOSCOPE_DEVICE=cpu\.$"):
        device.place()


def test_a_run_on_another_device_is_another_run(five_layer_checkpoint, monkeypatch):
    recipe = Recipe.from_json({"steps": [{"step": "magnitude_prune"}]})
    monkeypatch.setenv("PARETOSCOPE_DEVICE", "cpu")
    here = Work(five_layers.NAME, "digits", recipe).identity()
    monkeypatch.setenv("PARETOSCOPE_DEVICE", "cuda")
    there = Work(five_layers.NAME, "digits", recipe)
    assert there.identity() != here == there.identity_on("cpu") and there.is_identity(here) and there.is_identity(there.identity())
    assert not there.is_identity(Work(five_layers.NAME, "digits").identity())
    assert (there.device_of(here), there.device_of(there.identity()), there.device_of("0" * 16)) == ("cpu", "cuda", None)


def test_a_worker_computes_on_the_device_of_the_identity(five_layer_checkpoint, monkeypatch):
    """Also where another one was chosen since the work was submitted."""
    work, seen = Work(five_layers.NAME, "digits", Recipe()), []
    monkeypatch.setattr(tasks, "_engaged", lambda request, job: (job, work, {}))
    result = SimpleNamespace(to_json=dict, predicted=b"")
    job = SimpleNamespace(identity=work.identity_on("mps"), run=lambda work, **_hooks: seen.append(device.chosen()) or result)
    tasks._run({}, job)
    assert seen == ["mps"] and device.chosen() == "cpu"


def test_what_the_processor_measured_stays_known_where_another_device_computes(home, monkeypatch):
    """Shipped runs among it: their checkpoint and data are those that are here."""
    before = Shelf.of(Store()).known("resnet18", "fashion_mnist")
    monkeypatch.setenv("PARETOSCOPE_DEVICE", "cuda")
    after = Shelf.of(Store()).known("resnet18", "fashion_mnist")
    assert before.rows and [row["id"] for row in after.rows] == [row["id"] for row in before.rows] and after.baseline["id"] == before.baseline["id"]
    shipped = next(run for run in gallery.runs() if run["model"] == "resnet18" and run["recipe"]["steps"])
    own, store = shipped | {"identity": Work("resnet18", "fashion_mnist", Recipe.from_json(shipped["recipe"])).identity()}, Store()
    store.complete(own["identity"], own, shipped["predicted"], origin="here")
    both = Shelf.of(store).known("resnet18", "fashion_mnist")
    assert sorted(row["id"] for row in both.rows) == sorted(row["id"] for row in before.rows)  # one row a recipe: that of the device that computes
    assert both.find(f"resnet18/{shipped['key']}")["identity"] == own["identity"]
    monkeypatch.setenv("PARETOSCOPE_DEVICE", "cpu")
    assert Shelf.of(store).known("resnet18", "fashion_mnist").find(f"resnet18/{shipped['key']}")["identity"] == shipped["identity"]
    assert chosen.run(shipped["identity"], Store()).recipe.key() == shipped["key"]


@pytest.mark.parametrize(
    "step",
    [
        {"step": "quantize", "weight_bits": 4}, {"step": "quantize", "weight_bits": 4, "symmetric": False, "granularity": "group"},
        {"step": "share_weights", "clusters": 8}, {"step": "ternarize"}, {"step": "cast", "dtype": "float16"},
    ],
    ids=lambda step: step["step"],
)  # fmt: skip
def test_all_that_training_reads_moves_with_the_network(step, subject, context):
    """On torch's "meta" device, which computes shapes alone and refuses tensors of the processor beside its own."""
    apply(step_from_json({"step": "magnitude_prune", "sparsity": 0.5}), subject, context)
    apply(step_from_json(step), subject, context)
    with trainable(subject) as module:
        there = copy.deepcopy(module).to("meta")
        assert there(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2, 10)
        held = {tensor.device.type for layer in there.modules() for tensor in vars(layer).values() if isinstance(tensor, torch.Tensor)}
        grids = [layer.grid for layer in there.modules() if hasattr(layer, "grid")]
        held |= {tensor.device.type for grid in grids for tensor in vars(grid).values() if isinstance(tensor, torch.Tensor)}
        assert held <= {"meta"} and all(tensor.device.type == "meta" for tensor in (*there.parameters(), *there.buffers()))


class _Pretended(TorchDispatchMode):
    """torch's "meta" device, taken for one that computes: what comes back to the processor is ones. Like MPS it has no float64 and no `fake_quantize`, and like
    CUDA it takes no tensor of the processor beside its own."""

    def __init__(self):
        super().__init__()
        self.called = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if not any(tensor.is_meta for tensor in given):
            return func(*args, **kwargs)
        if func._can_decompose() and torch.is_inference_mode_enabled():  # where no gradient is kept, torch does not take operations apart by itself
            with self:
                return func.decompose(*args, **kwargs)
        self.called.add(name)
        if name == "_to_copy" and str(kwargs.get("device")) == "cpu":
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if name == "_local_scalar_dense":
            return torch.ones((), dtype=args[0].dtype).item()
        if name != "copy_" and any(not tensor.is_meta and tensor.dim() for tensor in given):
            raise RuntimeError(f"Expected all tensors to be on the same device ({name})")
        made = func(*args, **kwargs)
        if any(leaf.dtype == torch.float64 for leaf in (*given, *tree_leaves(made)) if isinstance(leaf, torch.Tensor) and leaf.is_meta):
            raise TypeError(f"Cannot convert a tensor to float64, which the device does not have ({name})")
        return made


EIGHT = {"step": "quantize", "weight_bits": 8, "activation_bits": 8}


@pytest.mark.parametrize(
    "steps",
    [
        [{"step": "magnitude_prune"}], [{"step": "share_weights", "clusters": 8}], [EIGHT], [EIGHT | {"layers": "inner"}],
        [EIGHT | {"activation_scale": "dynamic"}], [{"step": "quantize", "weight_bits": 4, "symmetric": False, "granularity": "group", "activation_bits": 4}],
        [{"step": "share_weights", "clusters": 8}, EIGHT | {"layers": "fc.weight"}], [{"step": "ternarize"}], [{"step": "binarize"}],
        [{"step": "cast", "dtype": "float16"}],
    ],
    ids=lambda steps: " ".join(step["step"] for step in steps),
)  # fmt: skip
@pytest.mark.parametrize("last", [{"step": "finetune"}, {"step": "distill", "hints": 1.0}, {"step": "finetune", "checkpoint_activations": True}], ids=str)
def test_training_takes_nothing_that_a_device_may_lack(steps, last, subject, context, monkeypatch):
    """Forward, backward, updates and the answers in between, by the whole loop and behind every kind of grid."""
    for step in steps:
        apply(step_from_json(step), subject, context)
    context.teacher_answers("self", 100), context.teacher_features("self", 100)
    monkeypatch.setattr(device, "place", lambda: torch.device("meta"))
    with _Pretended() as pretended:
        apply(step_from_json(last | {"images": 100}), subject, context)
        evaluate(activations.measured(subject), context.dataset, context.input_size, "validation", 64)
    assert {"convolution", "convolution_backward", "native_batch_norm_backward", "_to_copy"} <= pretended.called
    assert all(not parameter.is_meta for parameter in subject.module.parameters())


def test_a_device_without_float64_and_with_a_kernel_missing_is_seen_by_the_stand_in(subject):
    with _Pretended(), pytest.raises(TypeError, match="float64"):
        torch.zeros(3, device="meta").double()
    with pytest.raises(NotImplementedError, match="fake_quantize"):
        torch.fake_quantize_per_tensor_affine(torch.zeros(3, device="meta"), 0.1, 0, 0, 255)


def test_cuda_computes_in_whole_float32(monkeypatch):
    """Of TF32, torch's default in convolutions, a factor has ten bits."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark
    cudnn.allow_tf32 = matmul.allow_tf32 = cudnn.benchmark = True
    monkeypatch.setenv("PARETOSCOPE_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    try:
        assert device.place() == torch.device("cuda")
        assert (cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (False, False, True, False)
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
