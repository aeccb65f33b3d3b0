"""Where accuracy and training are computed: how the device is chosen, and that all of a network goes along."""

import copy
import dataclasses
import json
import os
import subprocess
from types import SimpleNamespace

import pytest
import torch

from core import device, device_check
from core.__main__ import main
from core.commands.device import hint
from core.errors import BadField, NotHere
from core.exports import chosen
from core.home import folder
from core.jobs import office, tasks
from core.methods.apply import apply
from core.metrics.accuracy import evaluate
from core.recipe import Recipe, step_from_json
from core.store import Store
from core.studies import gallery
from core.studies.known import Shelf
from core.training import Plan
from core.weights import trainable
from core.work import Work
from tests import five_layers


def test_the_processor_is_chosen_where_nothing_else_was_checked(home, monkeypatch):
    monkeypatch.delenv("PARETOSCOPE_DEVICE", raising=False)
    assert device.chosen() == "cpu" == device.place().type


@pytest.fixture
def stand_in(home, monkeypatch):
    """A machine that seems to have CUDA, which is the processor under another name."""
    monkeypatch.delenv("PARETOSCOPE_DEVICE", raising=False)
    monkeypatch.setattr(device, "candidate", lambda: "cuda")
    monkeypatch.setattr(device, "place", lambda: torch.device("cpu"))
    monkeypatch.setattr(device_check, "PLAN", Plan(epochs=1, learning_rate=0.05, images=128, batch_size=64, flip=False, seed=0))
    return home


def test_a_device_that_computes_what_the_processor_computes_serves_from_then_on(stand_in, capsys):
    assert device.unchecked() == "cuda" and device.chosen() == "cpu"
    assert [sentence[:36] for sentence in hint()] == ["This machine seems to have CUDA: `py"]
    assert main(["device", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "cuda" == device.chosen() and found["alike"] == 1 and found["top1"] == found["top1_of_the_processor"] > 20
    assert found["sentence"].startswith("CUDA answers 100.0 % of 256 pictures as the processor does, and a short training ends at ")
    assert device.unchecked() is None and hint() == []


def test_a_device_that_computes_something_else_does_not_serve(stand_in, monkeypatch, capsys):
    def off(module, *arguments, **named):
        predictions = evaluate(module, *arguments, **named)
        return dataclasses.replace(predictions, predicted=(predictions.predicted + (device.chosen() == "cuda")) % 10)

    monkeypatch.setattr(device_check, "evaluate", off)
    assert main(["device"]) == 0
    assert capsys.readouterr().out.endswith(" of its time, so the processor goes on to serve accuracy and training.\n")
    assert device.chosen() == "cpu" and device.unchecked() is None and device.checked()["alike"] == 0


def test_a_device_that_torch_does_not_find_or_that_fails_does_not_serve(stand_in, monkeypatch):
    def fails(*_arguments, **_named):
        raise RuntimeError("CUDA error: out of memory\nmore lines")

    monkeypatch.setattr(device_check, "fit", fails)
    assert device_check.check("cuda")["sentence"] == "CUDA cannot be used (CUDA error: out of memory), so the processor serves accuracy and training."
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
    for written in ('{"device": "cuda", "sentence": "", "machine": "another"}', '{"device": "tpu"}', "[]", "{"):
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
