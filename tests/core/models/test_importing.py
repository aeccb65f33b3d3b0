"""A checkpoint that plain torch made outside the project: the same accuracy here, and what does not fit is refused by name."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from core import artifact, engine, zoo
from core.datasets import DATASETS
from core.datasets.preparation import Preparation
from core.errors import BadCheckpoint, BadField, BadInput, NotHere
from core.exports import Export, make
from core.home import home
from core.metrics.accuracy import evaluate
from core.models import importing, matching
from core.models.importing import Import, bring, class_names
from core.recipe import Recipe
from core.work import Work
from tests import own_pictures
from tests.own_pictures import MEAN, STD

MODEL = "shufflenet_v2_x0_5"
PREPARED = Preparation(MEAN, STD, 36, 32)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Pictures in train, val and test; the model that a plain loop trained on them; and its weights as a wrapped model's are saved."""
    root = own_pictures.write_folder(tmp_path_factory.mktemp("own") / "my_digits", 40, {"train": 60, "val": 40, "test": 40})
    model = own_pictures.trained(root, 36, 32)
    weights = root.parent / "mine.safetensors"
    save_file({f"module.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()} | {"steps_done": torch.zeros(1)}, weights)
    return root, model, weights


@pytest.fixture(scope="module")
def brought(own):
    """The import, in the session's home."""
    root, _model, weights = own
    yield bring(Import(MODEL, str(weights), str(root), preparation=PREPARED))
    for place in ("imports", "checkpoints"):
        shutil.rmtree(home() / place / "my_digits")


def test_the_accuracy_is_plain_torchs(own, brought):
    root, model, _weights = own
    for split, folder in (("validation", "val"), ("test", "test")):
        known = own_pictures.accuracy(model, root / folder, 36, 32)
        assert brought[split]["top1"] == known and brought[split]["images"] == 120 and 40 < known < 100
    assert brought["imported"]["unmatched"] == ["steps_done"] and "'module.' was taken off the names." in brought["imported"]["notes"]
    assert any("'fc.1' was taken as 'fc'" in note for note in brought["imported"]["notes"])
    loaded = zoo.checkpoint(MODEL, "my_digits").load().state_dict()
    assert all(torch.equal(loaded[name.replace("fc.1", "fc")], tensor) for name, tensor in model.state_dict().items())


def test_an_imported_pair_is_exported_and_its_script_reads_the_owners_own_files(own, brought, tmp_path):
    root, model, _weights = own
    made = make(Export(Work(MODEL, "my_digits", latency=False), "onnx"))
    for name, data in made.files("mine.onnx").items():
        (tmp_path / name).write_bytes(data)
    assert made.record.agreement == 1 and made.record.images == 120
    card = (tmp_path / "mine.onnx.md").read_text()
    assert (
        f"core import --model {MODEL} --weights FILE.safetensors --data FOLDER --name my_digits --mean 0.3,0.3,0.3 --std 0.4,0.4,0.4 --resize 36 --crop 32"
        in card
    )
    pictures = [str(path) for path in sorted((root / "val").rglob("*.png"))]
    done = subprocess.run([sys.executable, str(tmp_path / "mine.onnx.py"), *pictures], capture_output=True, text=True, check=True)
    folders = [Path(path).parent.name for path in pictures]
    right = 100 * np.mean([said == folder for said, folder in zip(done.stdout.split("\n"), folders, strict=False)])
    assert len(done.stdout.splitlines()) == 120 and right == pytest.approx(own_pictures.accuracy(model, root / "val", 36, 32), abs=0.9)  # one of 120
    with pytest.raises(NotHere, match=r"A checkpoint of squeezenet1_1 on my_digits is not here: .*`python -m core import --model squeezenet1_1 "):
        zoo.checkpoint("squeezenet1_1", "my_digits")


def test_an_imported_pair_stands_beside_the_shipped_ones(brought):
    assert "my_digits" in DATASETS and (MODEL, "my_digits") in {(found.model, found.family) for found in zoo.checkpoints()}
    assert Work(MODEL, "my_digits").check().input_size == 32


def test_an_imported_pair_goes_through_a_recipe_and_is_read_back(brought, tmp_path):
    steps = [
        {"step": "magnitude_prune", "sparsity": 0.5}, {"step": "finetune", "images": 100, "epochs": 1}, {"step": "quantize", "weight_bits": 6},
        {"step": "calibrate_batchnorm", "images": 50},
    ]  # fmt: skip
    work = Work(MODEL, "my_digits", Recipe.from_json({"steps": steps}), latency=False)
    result = engine.run(work, artifact=tmp_path / "small.psc")
    assert result.baseline["top1"] == brought["validation"]["top1"] and 0 < result.metrics["artifact_bytes"] < result.baseline["artifact_bytes"] / 3
    back = artifact.read(tmp_path / "small.psc")
    again = evaluate(back.module, engine.load("my_digits"), 32)
    assert again.predicted.astype("<u2").tobytes() == result.predicted
    assert artifact.describe(tmp_path / "small.psc")["about"]["classes"] == ["digit-0", "digit-1", "digit-6"]


def test_classes_in_another_order_are_other_labels(own, home):
    root, model, weights = own
    state = model.state_dict()
    order = [2, 0, 1]
    turned = state | {name: state[name][order] for name in ("fc.1.weight", "fc.1.bias")}
    save_file({name: tensor.contiguous() for name, tensor in turned.items()}, weights.parent / "turned.safetensors")
    asked = Import(MODEL, str(weights.parent / "turned.safetensors"), str(root), ("digit-6", "digit-0", "digit-1"), PREPARED, name="turned")
    assert bring(asked)["validation"]["top1"] == own_pictures.accuracy(model, root / "val", 36, 32)


def test_pictures_without_a_test_split_are_measured_on_validation_alone(own, home, tmp_path):
    root, _model, weights = own
    shutil.copytree(root, tmp_path / "no_test", ignore=shutil.ignore_patterns("test"))
    card = bring(Import(MODEL, str(weights), str(tmp_path / "no_test"), preparation=PREPARED))
    assert card["test"] is None and card["validation"]["images"] == 120
    with pytest.raises(NotHere, match=r"^The test split of no_test is not here: its folder has none\. Measure on the validation split\.$"):
        Work(MODEL, "no_test", split="test").check()


def test_nothing_is_kept_of_what_is_refused_or_cancelled(own, home):
    root, _model, weights = own
    asked = Import(MODEL, str(weights), str(root), preparation=PREPARED, name="mine")

    class Enough(Exception):
        pass

    def report(event):
        if event["fraction"] > 0.1:
            raise Enough

    with pytest.raises(Enough):
        bring(asked, report=report)
    assert "mine" not in DATASETS and list((home / "imports").iterdir()) == []


def test_a_checkpoint_that_was_trained_here_is_not_written_over(own, home):
    root, _model, weights = own
    asked = Import(MODEL, str(weights), str(root), preparation=PREPARED, name="mine")
    bring(asked)
    card = zoo.checkpoint(MODEL, "mine").path.with_suffix(".json")
    bring(asked)  # of what was imported, another import takes the place
    card.write_text(card.read_text().replace('"imported"', '"trained"'))
    card.with_suffix(".safetensors").write_bytes(b"trained here")
    with pytest.raises(BadInput, match="A checkpoint of shufflenet_v2_x0_5 on 'mine' was trained here already; choose another name"):
        bring(asked)


def state_of(model: str, classes: int = 3) -> dict:
    return dict(zoo.construct(model, classes, 32).state_dict())


def names(count: int) -> tuple[str, ...]:
    return tuple(f"class-{number}" for number in range(count))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (lambda: state_of("resnet34"), "^The checkpoint does not fit resnet18: 96 have no place in it .*; by its names it may be of resnet34"),
        (lambda: state_of("squeezenet1_1"), "^The checkpoint does not fit resnet18: 102 of its 122 tensors are missing .*by its names it may be of squeezenet"),
        (lambda: {"a": torch.zeros(3)}, r"^The checkpoint does not fit resnet18: .* tensors are missing \(conv1\.weight, bn1\.weight, bn1\.bias, …\)\.$"),
        (lambda: state_of("resnet18", 12), r"^The checkpoint tells 12 classes apart, and the pictures are of 3 \(class-0, class-1, class-2\); it takes as m"),
        (lambda: state_of("resnet18") | {"layer1.0.conv1.weight": torch.full((64, 64, 3, 3), torch.nan)}, r"^The tensor layer1\.0\.conv1\.weight holds NaN"),
        (lambda: state_of("resnet18") | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, r"1 tensors have other shapes \(conv1\.weight is 64×3×3×3, and would"),
        (lambda: state_of("resnet18") | {"conv1.weight": torch.zeros(64, 3, 7, 7, dtype=torch.int8)}, r"^The tensor conv1\.weight holds whole numbers"),
        (
            lambda: {name: tensor for name, tensor in state_of("resnet18").items() if not name.startswith("fc")}
            | {"fc.0.weight": torch.zeros(64, 512), "fc.2.weight": torch.zeros(3, 64)},
            r"^The checkpoint's head has 2 layers \(fc\.0\.weight, fc\.2\.weight\); it takes a head of one Linear layer",
        ),
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_one_sentence(tensors, said):
    with pytest.raises(BadInput, match=said):
        matching.fit(tensors(), "resnet18", names(3), 32)


@pytest.mark.parametrize(
    ("tensors", "count", "listed"),
    [
        (lambda: {f"module.{name}": tensor for name, tensor in state_of("resnet34").items()}, 96, "no place: module.layer1.2.bn1.bias"),
        (lambda: {"a": torch.zeros(3)}, None, "no place: a"),
        (lambda: {"a": torch.zeros(3)}, None, "missing: layer4.1.conv2.weight"),
        (lambda: state_of("resnet18") | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, 1, "other shape: conv1.weight is 64×3×3×3, and would be 64×3×7×7"),
    ],
)
def test_every_tensor_that_does_not_fit_is_named_behind_the_sentence(tensors, count, listed):
    with pytest.raises(BadCheckpoint) as refused:
        matching.fit(tensors(), "resnet18", names(3), 32)
    assert listed in refused.value.names and count in (None, len(refused.value.names))


@pytest.mark.parametrize(
    ("model", "head", "theirs"),
    [
        ("mobilenet_v2", "classifier.1", lambda: nn.Sequential(nn.Dropout(), nn.Identity(), nn.Linear(1280, 3))),
        ("mobilenet_v2", "classifier.1", lambda: nn.Linear(1280, 3, bias=False)),
        ("mobilenet_v3_small", "classifier.3", lambda: nn.Sequential(nn.Dropout(), nn.Linear(1024, 3))),
        ("densenet121", "classifier", lambda: nn.Sequential(nn.Dropout(), nn.Linear(1024, 3))),
        ("resnet18", "fc", lambda: nn.Sequential(nn.Dropout(), nn.Linear(512, 3))),
    ],
)
def test_heads_of_dropout_and_one_linear_layer_are_recognised(model, head, theirs):
    """The same logits as the person's own module."""
    torch.manual_seed(0)
    module = torchvision.models.get_model(model, num_classes=3)
    place = head if head.count(".") and model != "mobilenet_v2" else head.partition(".")[0]
    parent, _, name = place.rpartition(".")
    setattr(module.get_submodule(parent), name, theirs())
    fitted = matching.fit({f"state_dict.model.{name}": tensor for name, tensor in module.state_dict().items()}, model, names(3), 32)
    own = zoo.construct(model, 3, 32)
    own.load_state_dict(fitted.state)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(own.eval()(x), module.eval()(x))
    assert fitted.unmatched == []


def test_half_precision_auxiliary_heads_and_missing_counters_are_read():
    tensors = {name: tensor.half() for name, tensor in state_of("googlenet").items() if "num_batches" not in name} | {"aux1.fc1.weight": torch.zeros(2, 2)}
    fitted = matching.fit(tensors, "googlenet", names(3), 32)
    assert fitted.unmatched == ["aux1.fc1.weight"] and fitted.state["conv1.conv.weight"].dtype == torch.float32 and "auxiliary" in fitted.notes[0]


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: data[:5], lambda data: b"", lambda data: b"\xff" * 8 + data[8:]])
def test_a_truncated_safetensors_file_is_one_sentence(tmp_path, damage):
    save_file({"a": torch.zeros(1000)}, tmp_path / "mine.safetensors")
    (tmp_path / "mine.safetensors").write_bytes(damage((tmp_path / "mine.safetensors").read_bytes()))
    with pytest.raises(BadInput, match=r"^mine\.safetensors is not a whole safetensors file \(.*\); save the checkpoint again, or convert it first\.$"):
        matching.read(tmp_path / "mine.safetensors")


def test_what_cannot_be_is_refused_before_any_work(tmp_path):
    with pytest.raises(BadField, match=r"^crop cannot be 40; it takes a size that vit_b_16 reads; 48 is the nearest"):
        Import("vit_b_16", "a.safetensors", "b", preparation=Preparation(crop=40))
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(BadInput, match=r"^a\.pth is not safetensors; convert it on the command line: `python -m core convert "):
        Import(MODEL, str(tmp_path / "a.pth"), "b").check()
    asked = Import(MODEL, "a", "b", ("x", "y"), PREPARED, "c", False, True)
    assert Import.from_json(asked.to_json()) == asked


@pytest.mark.parametrize(("data", "found"), [(b"cat\n dog \n\n", ("cat", "dog")), (b'["dog", "cat"]', ("dog", "cat"))])
def test_lists_of_classes(data, found):
    assert class_names(data) == found
    for bad in (b"", b"[1, 2]", b"\xff\xfe\x00", b"[", b"{}"[:0]):
        with pytest.raises(BadInput, match=r"^The list of classes cannot be read; it takes the names of the class folders"):
            class_names(bad)


def test_uploads_are_kept_by_their_content_until_they_are_imported(home):
    one, same = importing.upload("a.ZIP", b"x"), importing.upload("b.zip", b"x")
    assert one == same and one.suffix == ".zip" and one.read_bytes() == b"x"
    outside = home / "outside.safetensors"
    outside.write_bytes(b"mine")
    importing.forget_uploads(Import(MODEL, str(outside), str(one), name="x", preparation=PREPARED))
    assert not one.exists() and outside.exists()


def test_pictures_for_training_are_joined_without_being_copied():
    from core.training import Joined

    first, second = np.arange(10).reshape(5, 2), 100 + np.arange(6).reshape(3, 2)
    numbers = np.array([7, 0, 4, 5, 5])
    assert np.array_equal(Joined(first, second)[numbers], np.concatenate([first, second])[numbers])
