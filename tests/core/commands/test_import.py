"""`python -m core import` and `convert`: what a person is told, the same accuracy by safetensors and by .pth, and every refusal one sentence."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from core import zoo
from core.__main__ import main
from core.models.importing import QUESTION
from tests import own_pictures

MODEL = "shufflenet_v2_x0_5"
PREPARED = ("--mean", "0.3", "--std", "0.4,0.4,0.4", "--resize", "36", "--crop", "32")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Pictures, an untrained model, and its weights as a training script leaves them."""
    root = own_pictures.write_folder(tmp_path_factory.mktemp("own") / "Some Digits", 40, {"train": 10, "val": 10})
    torch.manual_seed(1)
    module = zoo.construct(MODEL, 3, 32)
    with torch.no_grad():
        module.train()
        for x, _labels in own_pictures.loader(root / "train", 36, 32):
            module(x)
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in module.state_dict().items()}}, root.parent / "mine.pth")
    return root, module.eval(), root.parent / "mine.pth"


@pytest.fixture
def call(capsys, home):
    def run(*arguments) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_an_import_ends_with_its_accuracy_and_a_question(own, call):
    root, module, weights = own
    known = own_pictures.accuracy(module, root / "val", 36, 32)
    status, out, err = call("import", "--model", MODEL, "--weights", weights, "--data", root, *PREPARED)
    lines = out.splitlines()
    assert status == 0 and "Traceback" not in err
    assert lines[0] == f"{MODEL} on some_digits: 3 classes, pictures: 27 train, 3 calibration, 30 validation, 0 test"
    assert lines[1] == "'state_dict.module.' was taken off the names."
    assert lines[2].startswith(f"validation: {known:.2f} % (") and lines[2].endswith("n = 30, measured") and lines[3:] == [QUESTION]
    listed = {facts["name"]: facts for facts in json.loads(call("datasets", "--json")[1])["datasets"]}
    assert listed["some_digits"]["here"] and listed["some_digits"]["imported"] and not listed["digits"]["imported"]
    models = {facts["name"]: facts for facts in json.loads(call("models", "--json")[1])["models"]}
    assert "some_digits" in models[MODEL]["checkpoints"]
    card = json.loads(call("import", "--model", MODEL, "--weights", weights, "--data", root, *PREPARED, "--json")[1])
    assert card["validation"]["top1"] == known and card["class_names"] == ["digit-0", "digit-1", "digit-6"]


def test_a_pth_file_is_converted_by_its_owner(own, call, tmp_path):
    root, module, weights = own
    status, out, _err = call("convert", "--weights", weights, "--output", tmp_path / "mine.safetensors")
    assert status == 0 and out.startswith(f"{len(module.state_dict())} tensors written to ")
    assert torch.equal(load_file(tmp_path / "mine.safetensors")["state_dict.module.fc.weight"], module.fc.weight)
    card = json.loads(call("import", "--model", MODEL, "--weights", tmp_path / "mine.safetensors", "--data", root, *PREPARED, "--name", "mine", "--json")[1])
    assert card["validation"]["top1"] == own_pictures.accuracy(module, root / "val", 36, 32)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("/nowhere/mine.safetensors", "The folder /nowhere does not exist; --output takes a file in one that does."),
        ("/proc/mine.safetensors", "The folder /proc cannot be written ("),
        ("mine.pth", "--output cannot be 'mine.pth'; it takes the name of a .safetensors file."),
    ],
)
def test_what_was_converted_needs_a_place(own, call, output, said):
    status, out, err = call("convert", "--weights", own[2], "--output", output)
    assert (status, out) == (2, "") and err.startswith(said) and err.count("\n") == 1


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_a_pth_file_is_never_executed(own, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Harm()}, tmp_path / "bad.pth")
    status, out, err = call("import", "--model", MODEL, "--weights", "bad.pth", "--data", own[0])
    assert (status, out) == (
        2,
        "",
    ) and err == "bad.pth cannot be read as weights alone: it is damaged, or holds a whole model; save model.state_dict() instead.\n"
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "resnet"], "There is no model named 'resnet'; "),
        (["--weights", "nowhere.safetensors"], "There is no file 'nowhere.safetensors'; "),
        (["--weights", "nowhere.pth"], "There is no file 'nowhere.pth'; "),
        (["--data", "nowhere"], "There is no folder 'nowhere'; it takes a folder with one folder of pictures for each class, "),
        (["--classes", "nowhere.txt"], "The list of classes 'nowhere.txt' cannot be read; "),
        (["--mean", "0.5,x"], "mean cannot be '0.5,x'; it takes one number for all colours, or three with commas, "),
        (["--std", "0"], "std cannot be (0.0,); it takes one number for all colours, or three for red, green and blue, above 0."),
        (["--crop", "4"], "crop cannot be '4'; "), (["--resize", "20"], "resize cannot be 20; "),
        (["--name", "fashion_mnist"], "name cannot be 'fashion_mnist'; it takes a name that no dataset of Paretoscope's own has."),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_sentence(own, call, tmp_path, monkeypatch, options, said):
    root, module, _weights = own
    monkeypatch.chdir(tmp_path)
    save_file(dict(module.state_dict()), tmp_path / "mine.safetensors")
    usual = {"--model": MODEL, "--weights": "mine.safetensors", "--data": root, "--crop": "32"} | dict(zip(options[::2], options[1::2]))
    status, out, err = call("import", *(part for pair in usual.items() for part in pair))
    assert (status, out) == (2, "") and err.startswith(said) and err.count("\n") == 1 and err.endswith(".\n")


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_behind_the_sentence_stands_every_tensor_that_does_not_fit(own, call, tmp_path, flags):
    root, module, _weights = own
    save_file(dict(module.state_dict()), tmp_path / "mine.safetensors")
    status, out, err = call("import", "--model", "resnet18", "--weights", tmp_path / "mine.safetensors", "--data", root, "--crop", "32", *flags)
    sentence, *names = err.splitlines()
    wanted, given = zoo.construct("resnet18", 3, 32).state_dict(), module.state_dict()
    assert (status, out) == (2, "") and sentence.startswith("The checkpoint does not fit resnet18: ") and sentence.endswith(".")
    assert {name.removeprefix("no place: ") for name in names if name.startswith("no place: ")} == set(given) - set(wanted)
    missing = {name for name in set(wanted) - set(given) if not name.endswith("num_batches_tracked")}
    assert {name.removeprefix("missing: ") for name in names if name.startswith("missing: ")} == missing and f" {len(missing)} of its " in sentence
