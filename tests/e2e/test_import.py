"""A person's own checkpoint and pictures, brought in by the page: the figure that plain torch knows, then a run on the chart."""

import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path

from playwright.sync_api import expect
from safetensors.torch import save_file

from core.store import Store
from tests import own_pictures
from tests.e2e.conftest import PATIENCE, eventually

MODEL = "shufflenet_v2_x0_5"


def test_ones_own_checkpoint_is_imported_and_compressed(explorer, place, tmp_path):
    root = own_pictures.write_folder(tmp_path / "my_digits", 40, {"train": 60, "val": 40})
    module = own_pictures.trained(root, 36, 32)
    known = own_pictures.accuracy(module, root / "val", 36, 32)
    save_file({f"module.{name}": tensor.contiguous() for name, tensor in module.state_dict().items()}, tmp_path / "mine.safetensors")
    page = explorer.open(f"?model={MODEL}&data=fashion_mnist&step=none").page
    explorer.connected()
    page.get_by_role("button", name="Use my own").click()
    dialog = page.get_by_role("dialog")
    dialog.locator(".st-key-own-weights input[type=file]").set_input_files(tmp_path / "mine.safetensors")
    expect(dialog.get_by_text("mine.safetensors")).to_be_visible(timeout=PATIENCE)
    dialog.get_by_label("Folder", exact=True).fill(str(root / "nowhere"))
    dialog.locator(".st-key-own-import button").click()
    expect(dialog.get_by_text(f"There is no folder '{root / 'nowhere'}'; it takes")).to_be_visible(timeout=PATIENCE)
    dialog.get_by_label("Folder", exact=True).fill(str(root))
    dialog.get_by_text("Classes and preparation").click()
    for label, value in (("Crop", "32"), ("Resize", "36"), ("Mean", "0.3"), ("Standard deviation", "0.4")):
        dialog.get_by_label(label, exact=True).fill(value)
    dialog.locator(".st-key-own-import button").click()
    expect(dialog.get_by_text("Is this the figure you know?")).to_be_visible(timeout=PATIENCE)
    expect(dialog.locator("[data-testid=stMetricValue]")).to_have_text(f"{known:.2f} %")
    dialog.get_by_role("button", name="Yes, compress it").click()
    expect(page.locator(".baseline")).to_contain_text(f"{known:.2f} %", timeout=PATIENCE)
    explorer.until("new URLSearchParams(location.search).get('data') === 'my_digits'")
    page.wait_for_function("document.querySelector('.sentence')?.textContent.includes('latency')", timeout=PATIENCE)
    with closing(Store(f"sqlite:///{place / 'paretoscope.sqlite'}")) as store:
        (row,) = eventually(lambda: store.rows(MODEL, "my_digits", states=["COMPLETE"]))  # the sentence comes with the accuracy; the latency takes longer
    assert row["metrics"]["top1"] == known and row["metrics"]["images"] == 120
    pictures = sorted((root / "val").rglob("*.png"))[::10]
    exported(explorer, pictures, own_pictures.labels(module, pictures, 36, 32), known, tmp_path / "away")


def exported(explorer, pictures: list[Path], labels: list[str], known: float, place: Path) -> None:
    """The pair's own ONNX file, made on the page, downloaded, and run by its script on the person's own files."""
    page = explorer.page
    page.goto(f"{explorer.address}Export?model={MODEL}&data=my_digits&step=none")
    page.locator(".st-key-make-onnx button").click()
    taking = page.locator(".st-key-download-onnx button").first
    taking.wait_for(timeout=2 * PATIENCE)
    expect(page.locator(".st-key-format-onnx")).to_contain_text(f"{known:.2f} %")
    with page.expect_download(timeout=PATIENCE) as waiting:
        taking.click()
    with zipfile.ZipFile(waiting.value.path()) as archive:
        archive.extractall(place)
    (script,) = place.glob("*.onnx.py")
    done = subprocess.run([sys.executable, str(script), *map(str, pictures)], capture_output=True, text=True, check=True)
    assert done.stdout.replace(",", " ").split() == labels, "as plain torch answers"
