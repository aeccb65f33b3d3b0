"""A person makes a file of a measured run on the page, downloads it, and runs it without Paretoscope."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import numpy as np
from playwright.sync_api import expect

from core.datasets import load
from core.studies import gallery
from tests import clean
from tests.e2e.conftest import PATIENCE, Explorer

QUERY = "Export?model=squeezenet1_1&data=fashion_mnist&step="
INT8 = "quantize~weight_bits~8~activation_bits~8"
COUNT = 200


def test_a_file_is_made_measured_downloaded_and_runs_elsewhere(explorer: Explorer, tmp_path):
    page = explorer.page
    page.goto(explorer.address + QUERY + INT8)
    making = page.locator(".st-key-make-onnx-int8 button")
    making.wait_for()
    expect(page.locator(".st-key-download-onnx-int8")).to_have_count(0)
    making.click()
    taking = page.locator(".st-key-download-onnx-int8 button").first
    taking.wait_for(timeout=2 * PATIENCE)
    for told in ("the engine’s labels", "n = 5,000, in onnxruntime"):
        expect(page.locator(".st-key-format-onnx-int8")).to_contain_text(told)
    with page.expect_download(timeout=PATIENCE) as waiting:
        taking.click()
    assert waiting.value.suggested_filename.endswith(".onnx.zip")
    with zipfile.ZipFile(io.BytesIO(Path(waiting.value.path()).read_bytes())) as archive:
        archive.extractall(tmp_path)
    (script,) = (path for path in tmp_path.glob("*.onnx.py"))
    split = load("fashion_mnist").split("validation")
    np.save(tmp_path / "p.npy", split.images[:COUNT, 0])
    done = clean.run(clean.site(clean.PACKAGES["run_onnx.py"], tmp_path / "site"), script, tmp_path / "p.npy")
    assert done.returncode == 0, done.stderr
    (run,) = (row for row in gallery.runs() if row["model"] == "squeezenet1_1" and _is_int8(row["recipe"]["steps"]))
    classes, expected = load("fashion_mnist").source.classes, np.frombuffer(run["predicted"], "<u2")[:COUNT]
    assert np.mean([label == classes[best] for label, best in zip(done.stdout.strip().split(", "), expected, strict=True)]) >= 0.99
    page.reload()
    taking.wait_for()  # kept for whoever comes again


def _is_int8(steps: list[dict]) -> bool:
    return len(steps) == 1 and steps[0]["step"] == "quantize" and steps[0]["weight_bits"] == steps[0]["activation_bits"] == 8


def test_a_recipe_without_8_bit_grids_gets_them_as_a_new_run(explorer: Explorer):
    page = explorer.page
    page.goto(explorer.address + QUERY + "quantize~clipping~mse&step=calibrate_batchnorm")
    page.locator(".st-key-append-onnx-int8 button").first.click()
    page.locator(".st-key-measure button").wait_for()
    expect(page.get_by_role("combobox", name="Run", exact=True)).to_have_value(re.compile("not measured yet"), timeout=PATIENCE)
    explorer.until("location.search.includes('activation_bits')")
