"""Pictures of 224 pixels and resnet18: an estimate in the place of previews, short turns, and figures like those of plain torch."""

import contextlib
import time

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from core import engine, pace
from core.datasets.base import fitting
from core.datasets.preparation import Preparation
from core.importing import Import, bring
from core.recipe import TRAIN, Recipe
from core.work import Work
from tests import five_layers, own_pictures

LONGEST_TURN = 3.0  # seconds of the processor, on a slow one


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
def test_resnet18_at_224_is_imported_estimated_and_run(home, tmp_path):
    root = own_pictures.write_folder(tmp_path / "large", 224, {"train": 10, "val": 5})
    torch.manual_seed(0)
    module = torchvision.models.resnet18(num_classes=3)
    with torch.no_grad():  # statistics of these pictures, so that the answers differ
        for x, _labels in own_pictures.loader(root / "val", 256, 224):
            module.train()(x)
    save_file({name: tensor.contiguous() for name, tensor in module.eval().state_dict().items()}, tmp_path / "mine.safetensors")
    prepared = Preparation(own_pictures.MEAN, own_pictures.STD)
    card = bring(Import("resnet18", str(tmp_path / "mine.safetensors"), str(root), preparation=prepared))
    assert card["validation"]["top1"] == own_pictures.accuracy(module, root / "val", 256, 224) and card["input_size"] == 224

    turns = []

    @contextlib.contextmanager
    def turn():
        started = time.process_time()
        yield
        turns.append(time.process_time() - started)

    steps = [{"step": "magnitude_prune", "sparsity": 0.8}, {"step": "quantize", "weight_bits": 4}, {"step": "calibrate_batchnorm", "images": 50}]
    work = Work("resnet18", "large", Recipe.from_json({"steps": steps}), latency=False)
    asked = engine.preview(work, turn=turn)
    assert 0 < asked["estimate"] < 600 and max(turns) < LONGEST_TURN
    turns.clear()
    result = engine.run(work, turn=turn)
    assert result.baseline["top1"] == card["validation"]["top1"] and result.metrics["images"] == 15
    assert result.metrics["macs"] > 1.7e9 and result.metrics["artifact_bytes"] < 3_000_000
    assert max(turns) < LONGEST_TURN
