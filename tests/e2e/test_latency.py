"""The Latency page as a person meets it: boxes appear run after run, with the reason beside them, and a reload finds what is kept."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.e2e.conftest import PATIENCE

QUERY = "?model=squeezenet1_1&data=digits&step=magnitude_prune~sparsity~0.9"
CHART = "document.querySelector('.st-key-latency-chart .paretochart')"
DRAWN = f"{CHART}?._fullData?.length === 2 && {CHART}._fullData.every(trace => trace.type === 'box' && trace.y.length >= 12)"
SELDOM = 500  # milliseconds: to look at every frame makes the browser draw frames, which disturbs what is measured


def test_runs_are_timed_one_after_the_other(explorer):
    explorer.open(QUERY)
    page = explorer.page
    page.get_by_role("link", name="Latency").click()
    page.wait_for_function(DRAWN, polling=SELDOM, timeout=2 * PATIENCE)
    explorer.settled()
    assert page.evaluate("(() => { const main = document.querySelector('[data-testid=stMain]'); return main.scrollHeight - main.clientHeight })()") <= 0
    expect(page.locator(".st-key-latency-one")).to_contain_text("zeros scattered among the weights run on dense kernels", timeout=PATIENCE)
    expect(page.locator(".latencies tbody tr").last).to_contain_text("not distinguishable")
    explorer.until("document.querySelector('.st-key-operators-chart .paretochart')?._fullData?.[0]?.y?.includes('Conv')")
    page.reload()
    explorer.until(DRAWN)
    expect(page.locator(".st-key-cancel-latency")).to_have_count(0)
