"""What the shipped rows of three presets promise, trained and measured again: the real packed file, and the accuracy on the validation split."""

from __future__ import annotations

import pytest
import torch

from core import engine
from core.studies import gallery
from core.work import Work

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize(
    ("preset", "model", "share", "points"),
    [("smallest", "resnet18", 150, 1), ("thirtieth", "mobilenet_v3_small", 30, 1), ("three_bits", "squeezenet1_1", 8, 1)],
)
def test_a_preset_is_as_small_as_it_says_at_a_point_lost(preset, model, share, points, home, tmp_path):
    """`share`: float32 bytes over the file's. The difference is paired, and itself within `points`, as of the shipped rows: `tests/core/test_shipped.py`."""
    torch.set_num_threads(1)
    work = Work(model, gallery.DATASET, gallery.preset(preset), latency=False)
    row = next(row for row in gallery.runs() if row["identity"] == Work(model, gallery.DATASET, work.recipe).identity())
    result = engine.run(work, artifact=tmp_path / "model.psc")
    size, lost = (tmp_path / "model.psc").stat().st_size, result.difference
    print(f"\n{preset} of {model}: {size:,} bytes, {4 * result.baseline['parameters'] / size:.1f} × smaller than float32, {result.metrics['top1']:.2f} %, "
          f"{lost['top1']:+.2f} points ({lost['low']:+.2f} … {lost['high']:+.2f}), {result.seconds['total']:.0f} s; "
          f"shipped {row['metrics']['artifact_bytes']:,} bytes, {row['difference']['top1']:+.2f} points")  # fmt: skip
    assert size == result.metrics["artifact_bytes"]
    assert share * size <= 4 * result.baseline["parameters"] and lost["top1"] >= -points
