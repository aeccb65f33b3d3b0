"""The page Papers in a real browser: charts are drawn, and a recipe opens in the explorer."""

import csv
import io
import shutil

import pytest
from playwright.sync_api import expect

from core.datasets import load
from core.papers.classics import PAPERS
from core.papers.reproduced import work
from tests import small_mnist
from tests.e2e.conftest import PATIENCE
from tests.e2e.test_downloads import taken

DEEP = "deep_compression_lenet_300_100"


def test_a_papers_recipe_opens_in_the_explorer(explorer):
    page = explorer.page
    page.goto(explorer.address + "Papers")
    explorer.until("document.querySelectorAll('.paretochart').length >= 5 && [...document.querySelectorAll('.paretochart')].every((c) => c._fullLayout)")
    explorer.settled()
    assert page.locator("table.paper").count() == 5
    page.locator(".st-key-chart-slimming .nsewdrag").hover()
    _name, content = taken(explorer, page.locator(".st-key-chart-slimming .modebar-btn[data-title='Download the points as CSV']").click)
    head, *rows = csv.reader(io.StringIO(content.decode()))
    assert head == ["series", "x", "value"] and len(rows) == 14 and ["50 %, fine-tuned"] == [x for _series, x, _y in rows if x.startswith("50 %, ")][:1]
    page.locator(".st-key-paper-deep_compression_lenet_300_100 [data-testid=stPageLink] a:visible").filter(has_text="Compressed").click()
    explorer.until("location.search.includes('lenet_300_100') && location.search.includes('share_weights')")


@pytest.fixture
def mnist(place, address, monkeypatch):
    """A MNIST of a few pictures and a LeNet that saw them for a moment, in the server's home while the test lasts."""
    from core.models import checkpoints

    monkeypatch.setenv("PARETOSCOPE_HOME", str(place))
    small_mnist.put(place)
    load.cache_clear()
    checkpoints.train("lenet_300_100", "mnist", epochs=3, learning_rate=0.05)
    yield
    (place / "datasets" / "mnist.npz").unlink()
    shutil.rmtree(place / "checkpoints" / "mnist")
    load.cache_clear()


def test_a_paper_is_measured_on_this_machine_from_its_block(explorer, mnist, store):
    page = explorer.page
    page.goto(explorer.address + "Papers")
    explorer.connected()
    explorer.settled()
    page.locator(f".st-key-again-{DEEP} button").locator("visible=true").first.click()
    button = page.locator(f".st-key-run-{DEEP} button").locator("visible=true").first
    expect(button).to_contain_text("Measure here: 4 runs", timeout=PATIENCE)
    button.click()
    page.get_by_text("All of it is measured on this machine.").wait_for()
    for row in PAPERS.get(DEEP).rows:
        measured = store.find(work(row, "mnist", "test").identity())["metrics"]
        assert measured["images"] == 200
        expect(page.locator(f".st-key-paper-{DEEP} table.paper")).to_contain_text(f"{100 - measured['top1']:.2f} % wrong", timeout=PATIENCE)
