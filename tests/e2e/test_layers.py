"""The Layers page as a person meets it: a heat map fills, a layer is looked at, and chosen layers are in the explorer's recipe."""

from __future__ import annotations

import csv
import io

from playwright.sync_api import expect

from tests.e2e.conftest import PATIENCE
from tests.e2e.test_downloads import taken

QUERY = "?model=squeezenet1_1&data=digits&step=magnitude_prune~sparsity~0.8&step=calibrate_batchnorm"
MAP = "document.querySelector('.st-key-layers-chart .paretochart')"
FILLED = f"{MAP}?._fullData?.[0]?.z.flat().every(z => z != null)"


def begin(explorer):
    """See to it that the heat map is measured: it starts by itself only where it is expected to be quick."""
    explorer.until(f"{FILLED} || document.querySelector('.st-key-measure-map button, .st-key-cancel-map button')")
    asks = explorer.page.locator(".st-key-measure-map button")
    if asks.count():
        asks.click()


def open_layers(explorer):
    explorer.open(QUERY)
    explorer.page.get_by_role("link", name="Layers").click()
    begin(explorer)
    explorer.until(FILLED)
    explorer.settled()
    return explorer.page


def test_from_the_heat_map_to_the_explorers_recipe(explorer):
    page = open_layers(explorer)
    assert "step=magnitude_prune" in page.url and "model=squeezenet1_1" in page.url  # what the explorer showed came along
    assert page.evaluate(f"{MAP}._fullData[0].y.length") == 26
    assert page.evaluate("(() => { const main = document.querySelector('[data-testid=stMain]'); return main.scrollHeight - main.clientHeight })()") <= 0
    place = page.evaluate(
        f"""(() => {{ const chart = {MAP}, box = chart.getBoundingClientRect(), {{ xaxis, yaxis }} = chart._fullLayout;
            return [box.x + xaxis._offset + xaxis.c2p(4), box.y + yaxis._offset + yaxis.c2p(13)]; }})()"""
    )
    page.mouse.move(*place)
    page.mouse.click(*place)
    name = page.evaluate(f"{MAP}._fullData[0].y[13]")
    expect(page.get_by_role("combobox", name="Layer", exact=True)).to_have_value(name, timeout=PATIENCE)
    explorer.until("document.querySelector('.st-key-layer-histogram-chart .paretochart')?._fullData?.some(trace => trace.name === 'After')")
    explorer.until("document.querySelector('.st-key-layer-picture-chart .paretochart')?._fullLayout")
    page.locator(".st-key-layer-picture-chart .nsewdrag").hover()
    _name, content = taken(explorer, page.locator(".st-key-layer-picture-chart .modebar-btn[data-title='Download the points as CSV']").click)
    shares = [[float(cell) for cell in row] for row in csv.reader(io.StringIO(content.decode()))]
    assert len(shares) > 1 and len({len(row) for row in shares}) == 1 and 0 <= min(map(min, shares)) < max(map(max, shares)) <= 1
    canvas = page.locator("[data-testid=stDataFrame] canvas").first
    box = canvas.bounding_box()
    for row in (1, 2):
        page.mouse.click(box["x"] + 14, box["y"] + 35 * row + 17)
        expect(page.locator(".st-key-use")).to_contain_text(f"{row} of 26 layers checked", timeout=PATIENCE)
    page.get_by_role("button", name="Use these layers").click()
    expect(page.locator(".st-key-chips")).to_be_visible(timeout=PATIENCE)
    explorer.until("location.search.includes('layers') && location.search.includes('features.0')")
    assert "calibrate_batchnorm" in page.url


def test_a_measurement_is_cancelled_and_a_reload_finds_what_is_kept(explorer):
    page = open_layers(explorer)
    page.reload()
    explorer.until(FILLED)
    page.locator(".st-key-method").click()
    page.get_by_role("option", name="Prune by gradient").click()
    explorer.until(f"!({FILLED})")
    begin(explorer)
    page.locator(".st-key-cancel-map button").click()
    expect(page.locator(".st-key-measure-map button")).to_be_visible(timeout=PATIENCE)
    expect(page.locator(".st-key-layers-map")).to_contain_text("Cancelled.")
