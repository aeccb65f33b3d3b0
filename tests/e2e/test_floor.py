"""The floor of a slider, as a person asks for it: two clicks, and the slider stands where the accuracy still holds."""

from __future__ import annotations

from playwright.sync_api import expect

from core.methods.nm_prune import NmPrune
from core.studies.points import step_words
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


def test_the_floor_below_a_field_of_a_chip_moves_that_field(explorer):
    page = explorer.open("?model=mobilenet_v3_small&data=digits&step=nm_prune~n~7~m~8&step=calibrate_batchnorm").page
    explorer.connected()
    page.locator(".st-key-chip-0 button").locator("visible=true").first.click()
    page.locator(".st-key-floor-field-0-n button").locator("visible=true").first.click()
    page.get_by_label("Keep at least, % top-1").fill("90")
    page.get_by_label("Keep at least, % top-1").press("Enter")
    explorer.settled()
    page.locator(".st-key-floor-start-0-n button").click()
    expect(page.locator(".answer")).to_contain_text("The floor for at least 90 % top-1 is", timeout=PATIENCE)
    found = page.locator(".answer").inner_text().split(" is ")[1].split(",")[0]  # "3 weights"
    explorer.until("n => location.search.includes(`step=nm_prune~n~${n}~m~8`)", found.split()[0])
    expect(page.locator(".st-key-chip-0")).to_contain_text(step_words(NmPrune(n=int(found.split()[0]), m=8)), timeout=PATIENCE)
    expect(page.locator(".st-key-floor-start-0-n")).to_have_count(0, timeout=PATIENCE)
