"""The sensitivity of layers against whole runs of the engine, one a cell; and the graph that runs in part against the network that runs whole."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest
import torch
from torch import nn

from core import engine, zoo
from core.errors import BadField, BadInput, BadRecipe, Cancelled
from core.layers import sensitivity
from core.layers.sensitivity import Sensitivity, layers_of, measurable, measure, usual_values
from core.layers.suffixes import Suffixes
from core.models.architecture import Architecture
from core.recipe import STEPS, TRAIN
from core.weights import clone
from tests import five_layers

IMAGES = 200


def asked(name: str, *values, **fields) -> Sensitivity:
    return Sensitivity(five_layers.NAME, "digits", STEPS.get(name)(**fields), values, IMAGES)


def run_of(question: Sensitivity, layer: str, value) -> engine.Result | str:
    """What a whole run of that one cell measures, or the sentence that refuses it."""
    try:
        return engine.run(question.work(layer, value))
    except BadInput as error:
        return str(error)


@pytest.mark.parametrize(
    ("name", "values", "fields"),
    [
        ("magnitude_prune", (0.5, 0.9), {}), ("random_prune", (0.7,), {}), ("gradient_prune", (0.8,), {"images": 64}), ("nm_prune", (1,), {}),
        ("share_weights", (4,), {}), ("quantize", (3, 2), {"granularity": "tensor"}), ("quantize", (4,), {"activation_bits": 4}),
        ("quantize", (4, 3), {"activation_bits": 5, "activation_scale": "dynamic"}), ("binarize", ("channel",), {"activations": True}),
        ("binarize", ("tensor",), {}), ("factorize", (0.6,), {}), ("channel_prune", (0.5,), {"importance": "l2", "round_to": 1}),
        ("entropy_prune", (0.6,), {"granularity": "filter", "images": 64}), ("entropy_prune", (0.8,), {"granularity": "weight"}),
        ("contribution_prune", (0.5,), {"images": 64}), ("ternarize", ("channel",), {}), ("cast", ("float8",), {}), ("mixed_precision", (3.0,), {"images": 40}),
    ],
)  # fmt: skip
def test_every_cell_is_what_a_run_of_its_own_measures(five_layer_checkpoint, name, values, fields):
    question = asked(name, *values, **fields)
    found = measure(question)
    assert found["layers"] == layers_of(five_layers.NAME) and found["values"] == list(values)
    assert found["whole"] == ""
    baseline = engine.run(question.baseline()).metrics
    assert found["baseline"] == {"top1": pytest.approx(baseline["top1"]), "images": IMAGES}
    changed = 0
    for layer, cells in zip(found["layers"], found["cells"]):
        for value, cell in zip(values, cells):
            whole = run_of(question, layer, value)
            if isinstance(whole, str):
                assert cell == {"refused": whole}
                continue
            assert cell["top1"] == whole.metrics["top1"] and cell["difference"] == whole.difference and cell["images"] == IMAGES
            changed += cell["difference"]["top1"] != 0
    assert changed


@pytest.mark.parametrize("scale", ["static", "dynamic"])
def test_what_rounds_values_between_layers_runs_again_from_there(scale, monkeypatch):
    """With sums, means and a batch norm behind each convolution before the changed layer."""
    step = STEPS.get("quantize")(activation_bits=8, activation_scale=scale)
    question = Sensitivity("mobilenet_v3_small", "digits", step, (4,), 64)
    chosen = [question.layers[at] for at in (20, 40, -2, -1)]
    monkeypatch.setattr(Sensitivity, "layers", chosen)
    changes, change = [], Suffixes.change

    def noted(*arguments):
        changes.append(change(*arguments))
        return changes[-1]

    monkeypatch.setattr(Suffixes, "change", noted)
    found = measure(question)
    assert [len(change.order) for change in changes] == sorted((len(change.order) for change in changes), reverse=True)
    assert all(len(change.order) < 12 and change.bytes < 2.5e6 for change in changes[-2:])
    for layer, (cell,) in zip(chosen, found["cells"]):
        assert cell["top1"] == engine.run(question.work(layer, 4)).metrics["top1"]


def test_of_a_changed_network_only_what_changed_is_kept(five_layer_checkpoint, monkeypatch):
    question, networks, measurable_ = asked("quantize", 4, activation_bits=4), [], engine.measurable

    def noted(subject):
        network = measurable_(subject)
        networks.append(weakref.ref(network))
        return network

    monkeypatch.setattr(engine, "measurable", noted)
    table = sensitivity._Table(question, contextlib.nullcontext, lambda event: None)
    piece = table._piece(question.layers[1], 4)
    gc.collect()
    assert piece.bytes > 0 and [network() is None for network in networks] == [False, True]  # the first is what all cells are held against


def test_what_cannot_be_traced_is_measured_whole_and_said(five_layer_checkpoint, monkeypatch):
    plain = measure(asked("magnitude_prune", 0.9))

    def refuse(_module):
        raise BadInput("no graph")

    monkeypatch.setattr("core.layers.suffixes.trace", refuse)
    whole = measure(asked("magnitude_prune", 0.9))
    assert "took a whole evaluation" in whole["whole"] and whole["cells"] == plain["cells"] and whole["baseline"] == plain["baseline"]


def test_few_pieces_at_a_time_and_small_batches_give_the_same(five_layer_checkpoint, monkeypatch):
    monkeypatch.setattr(engine, "batch_size", lambda subject: 64)
    plain = measure(asked("quantize", 3, 2))
    monkeypatch.setattr(sensitivity, "PIECES_BYTES", 1)
    again = measure(asked("quantize", 3, 2))
    assert again["cells"] == plain["cells"] and again["baseline"] == plain["baseline"]


def test_progress_ends_at_one_tells_results_so_far_and_can_be_cancelled(five_layer_checkpoint, monkeypatch):
    monkeypatch.setattr(sensitivity, "SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(engine, "batch_size", lambda subject: 64)
    events = []
    found = measure(asked("magnitude_prune", 0.5, 0.9), report=events.append)
    fractions = [event["fraction"] for event in events]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1.0)
    first, last = (events[at]["metrics"] for at in (next(at for at, event in enumerate(events) if "metrics" in event), -1))
    assert first["cells"][0][0]["images"] == 64 and first["cells"][-1][-1] is None and last["cells"] == found["cells"]

    def stop(event):
        if event["stage"] == "evaluate":
            raise Cancelled("The work was cancelled.")

    with pytest.raises(Cancelled):
        measure(asked("magnitude_prune", 0.5), report=stop)


@pytest.mark.parametrize("name", measurable())
def test_every_step_that_takes_layers_has_a_field_and_settings(name):
    step = STEPS.get(name)()
    values = usual_values(step)
    assert 1 <= len(values) <= 5 and len(set(values)) == len(values)
    question = Sensitivity("resnet18", "digits", step)
    assert question.values == values and Sensitivity.from_json(question.to_json()) == question


def test_the_identity_depends_on_what_decides_the_figures(five_layer_checkpoint):
    plain = asked("quantize", 4)
    others = [asked("quantize", 3), asked("quantize", 4, clipping="mse"), asked("share_weights", 4), Sensitivity(plain.model, "digits", plain.step, (4,), 100)]
    assert len({question.identity() for question in (plain, *others)}) == 5
    assert asked("quantize", 4, layers="fc", weight_bits=8).identity() == plain.identity()  # the field is varied, the layers are all
    assert asked("magnitude_prune", 0.5, threshold=0.1).step.threshold is None


def test_bad_questions_are_one_sentence(five_layer_checkpoint):
    trains = next(name for name, kind in STEPS.items() if kind.kind == TRAIN)
    with pytest.raises(BadRecipe, match=f"{trains} cannot be measured layer by layer, because it takes no layers; "):
        asked(trains)
    with pytest.raises(BadField, match=r"quantize\.weight_bits cannot be 9"):
        asked("quantize", 9)
    with pytest.raises(BadField, match=r"magnitude_prune\.sparsity cannot be 1\.5"):
        asked("magnitude_prune", 0.5, 1.5)


DEAF = ("googlenet", "vit_b_32")  # with their first weights, they answer alike whatever they see


@pytest.mark.parametrize(
    "model",
    [
        "resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("densenet121", "googlenet", "vit_b_32", "swin_t")),
    ],
)  # fmt: skip
def test_a_suffix_gives_the_very_bits_of_the_whole_network(model):
    """Residuals, activations written in place, splits, concatenations, attention: each with some layer changed."""
    size = zoo.input_size(model, 32)
    torch.manual_seed(0)
    module = zoo.build(model, 10, size)
    suffixes = Suffixes(module)
    x = torch.randn(2, 3, size, size).contiguous(memory_format=torch.channels_last)
    names = [f"{layer}.weight" for layer in layers_of(model)]
    names = [name for name in names if isinstance(module.get_submodule(name.removesuffix(".weight")), (nn.Conv2d, nn.Linear))]
    others = {}
    for name in (names[0], names[len(names) // 3], names[len(names) // 2], names[-1]):
        others[name] = clone(module)
        with torch.no_grad():
            others[name].get_parameter(name).add_(0.01)
    changes = {name: suffixes.change(other, {name}) for name, other in others.items()}
    assert all(change.parts.keys() == suffixes.change(others[name]).parts.keys() for name, change in changes.items())  # as a look at every tensor finds it
    suffixes.keep_for(changes.values())
    with torch.inference_mode():
        for _ in range(2):  # what is kept was not written over
            assert torch.equal(suffixes.run(x), module(x))
            for name, change in changes.items():
                moved = suffixes.run_changed(change)
                assert torch.equal(moved, others[name](x))
                assert model in DEAF or not torch.equal(moved, module(x))
    assert len(changes[names[-1]].order) < len(changes[names[0]].order) / 4


def test_a_change_takes_the_memory_of_what_changed():
    module = Architecture.plain("resnet18", 10, 32).build()
    change = Suffixes(module).change(clone(module), {"fc.weight"})
    assert change.bytes == 4 * (512 * 10 + 10)
