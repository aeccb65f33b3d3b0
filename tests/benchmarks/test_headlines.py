"""What the shipped rows of presets promise, trained and measured again: the real packed file, and the accuracy on the validation split."""

from __future__ import annotations

import pytest
import torch

from core import engine
from core.datasets import DATASETS
from core.studies import gallery
from core.work import Work

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize(
    ("preset", "model", "dataset", "share", "points"),
    [
        ("smallest", "resnet18", gallery.DATASET, 150, 1), ("fastest", "resnet18", gallery.DATASET, 40, 1),
        ("thirtieth", "mobilenet_v3_small", gallery.DATASET, 30, 1), ("three_bits", "squeezenet1_1", gallery.DATASET, 8, 1),
        ("deep_compression", "lenet_300_100", gallery.FULL, 40, None), ("deep_compression", "lenet_5", gallery.FULL, 39, None),
    ],
)  # fmt: skip
def test_a_preset_is_as_small_as_it_says_at_so_much_lost(preset, model, dataset, share, points, home, tmp_path):
    """`share`: float32 bytes over the file's. The difference is paired, and itself within `points`, as of the shipped rows: `tests/core/test_shipped.py`;
    with None, its interval holds 0 or better."""
    torch.set_num_threads(1)
    if DATASETS.get(dataset).missing():
        DATASETS.get(dataset).fetch()
    work = Work(model, dataset, gallery.preset(preset), latency=False)
    row = next(row for row in gallery.runs() if row["identity"] == Work(model, dataset, work.recipe).identity())
    result = engine.run(work, artifact=tmp_path / "model.psc")
    size, lost = (tmp_path / "model.psc").stat().st_size, result.difference
    print(f"\n{preset} of {model}: {size:,} bytes, {4 * result.baseline['parameters'] / size:.1f} × smaller than float32, {result.metrics['top1']:.2f} %, "
          f"{lost['top1']:+.2f} points ({lost['low']:+.2f} … {lost['high']:+.2f}), {result.seconds['total']:.0f} s; "
          f"shipped {row['metrics']['artifact_bytes']:,} bytes, {row['difference']['top1']:+.2f} points")  # fmt: skip
    assert size == result.metrics["artifact_bytes"]
    assert share * size <= 4 * result.baseline["parameters"] and (lost["high"] >= 0 if points is None else lost["top1"] >= -points)
