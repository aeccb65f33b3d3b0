"""The floor of a slider, as a person asks for it: two clicks, and the slider stands where the accuracy still holds."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.e2e.conftest import PATIENCE


def test_the_floor_button_moves_the_slider(explorer):
    page = explorer.open("?model=mobilenet_v3_small&data=digits&step=none").page
    explorer.connected()
    page.locator(".st-key-floor-bits button").locator("visible=true").first.click()
    page.get_by_label("Keep at least, % top-1").fill("90")
    page.get_by_label("Keep at least, % top-1").press("Enter")
    explorer.settled()
    page.locator(".st-key-floor-start-bits button").click()
    expect(page.locator(".answer")).to_contain_text("The floor for at least 90 % top-1 is", timeout=PATIENCE)
    said = page.locator(".answer").inner_text()
    explorer.shows("bits", said.split(" is ")[1].split(",")[0])
    explorer.until("location.search.includes('step=quantize')")
    explorer.until("document.querySelector('.paretochart')._fullData.find(trace => trace.uid === 'fewer-bits')?.x.length >= 2")
