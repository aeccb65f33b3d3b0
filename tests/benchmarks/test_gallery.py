"""What the shipped recipes reach, by the files and the clocks of this machine."""

from __future__ import annotations

import json

import pytest

from core.home import ASSETS
from core.recipe import TRAIN, Recipe
from core.studies.gallery import runs
from core.work import Work

pytestmark = pytest.mark.benchmark


def test_a_shipped_preset_brings_resnet18_to_a_fiftieth_at_half_a_point(tmp_path):
    """The real packed file against 4 bytes × stored numbers; accuracy lost, paired, on the validation split. Presets that train are in the gallery."""
    from core import engine

    best = None
    for preset in json.loads((ASSETS / "presets.json").read_text()):
        recipe = Recipe.from_json(preset["recipe"])
        if any(step.kind == TRAIN for step in recipe.steps):
            continue
        result = engine.run(Work("resnet18", "fashion_mnist", recipe, latency=False), artifact=tmp_path / "model.psc")
        ratio = result.baseline["parameters"] * 4 / (tmp_path / "model.psc").stat().st_size
        lost = result.difference
        print(f"\n{preset['name']}: {ratio:.1f} × smaller to download, {lost['top1']:+.2f} points ({lost['low']:+.2f} … {lost['high']:+.2f})")
        if ratio >= 50 and lost["top1"] >= -0.5:
            best = preset["name"]
    assert best


def test_a_gallery_run_is_distinguishably_faster_by_channels_and_one_by_int8():
    """Channels: the float32 graph's own ratio. int8: against the baseline's float32 in the same runtime."""
    faster = {"onnxruntime-float32": 0, "onnxruntime-int8": 0}
    for row in runs():
        for latency in row["metrics"]["latencies"]:
            faster[latency["runtime"]] = faster.get(latency["runtime"], 0) + (latency["ratio_high"] < 1)
    print(f"\ndistinguishably faster gallery rows: {faster}")
    assert faster["onnxruntime-float32"] and faster["onnxruntime-int8"]
