"""Where accuracy and training are computed: how the device is chosen, and that all of a network goes along."""

import copy

import pytest
import torch

from core import device
from core.errors import BadField, NotHere
from core.exports import chosen
from core.methods.apply import apply
from core.recipe import Recipe, step_from_json
from core.store import Store
from core.studies import gallery
from core.studies.known import Shelf
from core.weights import trainable
from core.work import Work
from tests import five_layers


def test_the_processor_is_chosen_unless_a_person_says_otherwise(monkeypatch):
    monkeypatch.delenv("PARETOSCOPE_DEVICE", raising=False)
    assert device.chosen() == "cpu" == device.place().type


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
