"""The Devices page in a browser: a device is chosen, a run that nobody measured has its operators counted, nothing scrolls."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.e2e.conftest import PATIENCE

SEEN = "document.querySelector('.st-key-device-chart .paretochart')?._fullData?.length"


def test_a_run_is_estimated_and_another_is_counted(explorer):
    page = explorer.page
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"{explorer.address}Devices?model=squeezenet1_1&data=fashion_mnist&step=none")
    explorer.until(SEEN)
    explorer.settled()
    latency = page.locator(".st-key-device-one .card-value").first
    before = latency.inner_text()
    assert "ms" in before and "unvalidated on this device" in page.locator(".st-key-device-one").inner_text()
    heights = page.evaluate("(() => { const main = document.querySelector('[data-testid=stMain]'); return [main.scrollHeight, main.clientHeight]; })()")
    assert heights[0] <= heights[1]
    page.locator(".st-key-device input").click()
    page.get_by_role("option", name="Raspberry Pi 5").click()
    expect(latency).not_to_have_text(before, timeout=PATIENCE)
    expect(page).to_have_url(re.compile("device=raspberry_pi_5"), timeout=PATIENCE)
    page.goto(f"{explorer.address}Devices?model=squeezenet1_1&data=fashion_mnist&step=channel_prune~sparsity~0.25")
    explorer.until(SEEN)
    expect(page.locator(".st-key-device-one")).to_contain_text("weights alone, counted", timeout=PATIENCE)
    assert explorer.errors == []
