"""Pictures of 224 pixels and resnet18: an estimate in the place of previews, short turns, and figures like those of plain torch."""

import contextlib

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from core import engine
from core.datasets.base import fitting
from core.datasets.preparation import Preparation
from core.models.importing import Import, bring
from core.recipe import TRAIN, Recipe
from core.timing import pace
from core.work import Work
from tests import five_layers, own_pictures

AT_ONCE = 20  # pictures of 224 pixels that are read at a time, so that no turn takes long


def test_a_preview_gives_way_to_an_estimate_where_64_pictures_would_take_too_long(five_layer_checkpoint, monkeypatch):
    work = Work(five_layers.NAME, "digits", Recipe.from_json({"steps": [{"step": "calibrate_batchnorm", "images": 90}, {"step": "finetune", "images": 300}]}))
    assert "metrics" in engine.preview(work), "64 small pictures always fit"
    monkeypatch.setattr(pace, "SURELY_FIT", 0)
    monkeypatch.setattr(pace, "LONGEST", 1e-9)
    monkeypatch.setattr(pace, "seconds_a_picture", lambda *_: 0.1)
    epochs = next(step.epochs for step in work.recipe.steps if step.kind == TRAIN)
    seen = engine.preview(work)
    assert seen["estimate"] == pytest.approx(0.1 * (400 + 90 + 3 * 300 * epochs) + pace.LATENCY_SECONDS) and "metrics" not in seen
    monkeypatch.setattr(pace, "LONGEST", 60.0)
    assert "metrics" in engine.preview(work)


def test_of_large_pictures_fewer_are_read_at_a_time():
    assert [fitting(250, size) for size in (32, 64, 96, 224, 512)] == [250, 250, 111, 20, 8] and fitting(64, 224) == 8 and fitting(4, 512) == 4


@pytest.mark.slow
def test_resnet18_at_224_is_imported_estimated_and_run(home, tmp_path, request):
    root = own_pictures.write_folder(tmp_path / "large", 224, {"train": 10, "val": 8})
    torch.manual_seed(0)
    module = torchvision.models.resnet18(num_classes=3)
    with torch.no_grad():  # statistics of these pictures, so that the answers differ
        for x, _labels in own_pictures.loader(root / "val", 256, 224):
            module.train()(x)
    save_file({name: tensor.contiguous() for name, tensor in module.eval().state_dict().items()}, tmp_path / "mine.safetensors")
    prepared = Preparation(own_pictures.MEAN, own_pictures.STD)
    card = bring(Import("resnet18", str(tmp_path / "mine.safetensors"), str(root), preparation=prepared))
    assert card["validation"]["top1"] == own_pictures.accuracy(module, root / "val", 256, 224) and card["input_size"] == 224

    turns, seen = [], [0]

    @contextlib.contextmanager
    def turn():
        before = sum(seen)
        yield
        turns.append(sum(seen) - before)

    def count(module, given):
        if isinstance(module, torch.nn.Conv2d) and given[0].shape[1:] == (3, 224, 224):
            seen.append(len(given[0]))

    counting = torch.nn.modules.module.register_module_forward_pre_hook(count)
    request.addfinalizer(counting.remove)
    steps = [{"step": "magnitude_prune", "sparsity": 0.8}, {"step": "quantize", "weight_bits": 4}, {"step": "calibrate_batchnorm", "images": 50}]
    work = Work("resnet18", "large", Recipe.from_json({"steps": steps}), latency=False)
    asked = engine.preview(work, turn=turn)
    assert 0 < asked["estimate"] < 3600 and 0 < max(turns) <= AT_ONCE
    turns.clear()
    result = engine.run(work, turn=turn)
    assert result.baseline["top1"] == card["validation"]["top1"] and result.metrics["images"] == 24 > AT_ONCE
    assert result.metrics["macs"] > 1.7e9 and result.metrics["artifact_bytes"] < 3_000_000
    assert sum(turns) > 24 and max(turns) <= AT_ONCE
