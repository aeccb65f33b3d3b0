"""ImageNet weights: taken from torchvision's own cache as torchvision reads them, all but the head, or one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torchvision

from core import zoo
from core.__main__ import main
from core.errors import NotHere

HEADS = {
    "squeezenet1_1": {"classifier.1.weight", "classifier.1.bias"}, "mobilenet_v3_small": {"classifier.3.weight", "classifier.3.bias"},
    "mnasnet0_5": {"classifier.1.weight", "classifier.1.bias"}, "densenet121": {"classifier.weight", "classifier.bias"},
}  # fmt: skip


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """torchvision's cache, empty, and no way to the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def place(cache: Path, model: str) -> Path:
    """Where torchvision keeps the download."""
    return cache / torchvision.models.get_model_weights(model).DEFAULT.url.rpartition("/")[2]


def stand_in(cache: Path, model: str) -> dict[str, torch.Tensor]:
    """A state dict of random numbers for 1,000 classes, where torchvision would keep the real one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        stored = torchvision.models.get_model(model, weights=None).state_dict()
    kept = dict(stored)
    if model.startswith("densenet"):  # the real file is older than today's names, and than the counters of batch norm
        kept = {name: tensor for name, tensor in kept.items() if not name.endswith("num_batches_tracked")}
        for name in kept:
            del stored[name]
        stored |= {re.sub(r"(denselayer\d+\.)(norm|conv)([12])\.", r"\1\2.\3.", name): tensor for name, tensor in kept.items()}
        for name in [name for name in stored if name.endswith("num_batches_tracked")]:
            del stored[name]
        del stored._metadata
    torch.save(stored, place(cache, model))
    return kept


@pytest.mark.parametrize("model", ["squeezenet1_1", "mobilenet_v3_small", "mnasnet0_5", "densenet121"])
def test_all_but_the_head_is_what_the_file_holds(cache, model):
    stored = stand_in(cache, model)
    found = zoo.build(model, 7, 32, imagenet=True).state_dict()
    assert {name.rpartition(".")[2] for name in set(found) ^ set(stored)} <= {"num_batches_tracked"}
    assert {name for name, tensor in stored.items() if tensor.shape != found[name].shape} == HEADS[model]
    assert all(torch.equal(found[name], tensor) for name, tensor in stored.items() if name not in HEADS[model])


def test_the_positions_of_a_vision_transformer_are_interpolated(monkeypatch):
    """On a small one, since the smallest of torchvision's has 88 million parameters."""

    def small(_model, weights=None, progress=True, num_classes=1000, image_size=56):
        torch.manual_seed(num_classes)
        made = torchvision.models.VisionTransformer(image_size, 8, 1, 2, 16, 16, num_classes=num_classes)
        torch.nn.init.normal_(made.heads.head.weight)
        return made

    monkeypatch.setattr(torchvision.models, "get_model", small)
    stored, found = small("", image_size=56).state_dict(), zoo.build("vit_b_32", 10, 16, imagenet=True).state_dict()
    unlike = {name for name, tensor in found.items() if tensor.shape != stored[name].shape or not torch.equal(tensor, stored[name])}
    assert unlike == {"encoder.pos_embedding", "heads.head.weight", "heads.head.bias"}
    positions = stored["encoder.pos_embedding"]
    grid = positions[:, 1:].permute(0, 2, 1).reshape(1, 16, 7, 7)
    wanted = torch.nn.functional.interpolate(grid, size=2, mode="bicubic", align_corners=True).reshape(1, 16, 4).permute(0, 2, 1)
    assert torch.allclose(found["encoder.pos_embedding"], torch.cat([positions[:, :1], wanted], 1), atol=1e-6)


def test_the_head_is_the_one_of_a_fresh_network(cache):
    stand_in(cache, "squeezenet1_1")
    torch.manual_seed(3)
    fresh = zoo.build("squeezenet1_1", 7, 32).get_parameter("classifier.1.weight")
    torch.manual_seed(3)
    assert torch.equal(zoo.build("squeezenet1_1", 7, 32, imagenet=True).get_parameter("classifier.1.weight"), fresh)


def test_offline_it_is_a_sentence_and_nothing_is_trained(cache, home, capsys):
    assert main(["train", "--model", "squeezenet1_1", "--dataset", "digits", "--weights", "imagenet", "--epochs", "1"]) == 2
    printed = capsys.readouterr()
    said = printed.err.splitlines()[-1]
    assert said.startswith("ImageNet weights of squeezenet1_1 is not here: torchvision could not fetch them (")
    assert said.endswith(". Train from scratch with --weights none, or run once while online.")
    assert printed.out == "" and "Traceback" not in printed.err and not list((home / "checkpoints").rglob("*")) and not list(cache.iterdir())


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"<html>not here</html>"], ids=["empty", "half", "other"]
)
def test_a_damaged_file_is_named(cache, damage):
    stand_in(cache, "squeezenet1_1")
    path = place(cache, "squeezenet1_1")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(NotHere, match=f"{re.escape(str(path))} cannot be read. .* or delete it and run again while online"):
        zoo.build("squeezenet1_1", 7, 32, imagenet=True)


def test_a_training_from_them_says_so_on_its_card(cache, home):
    from core.models import checkpoints

    stand_in(cache, "squeezenet1_1")
    made = checkpoints.train("squeezenet1_1", "digits", epochs=1, start="imagenet", learning_rate=1e-6, command="-")
    assert made.card["start"] == "ImageNet weights" and made.card["command"] == "-"
    trained = made.load().state_dict()
    stored = torch.load(place(cache, "squeezenet1_1"), weights_only=True)
    assert torch.allclose(trained["features.0.weight"], stored["features.0.weight"], atol=1e-3)  # hardly moved, and kept as float16
