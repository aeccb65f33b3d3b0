"""The page "Size" as a person meets it: the bytes of the recipe at hand, a bar a layer, and the layer that is clicked."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.e2e.conftest import PATIENCE

QUERY = "?model=squeezenet1_1&data=digits&step=magnitude_prune~sparsity~0.9&step=quantize~weight_bits~4"
CHART = "document.querySelector('.st-key-size-chart .paretochart')"


def test_a_layer_is_followed_from_the_bars(explorer):
    explorer.open(QUERY)
    page = explorer.page
    page.get_by_role("link", name="Size").click()
    explorer.until(f"{CHART}?._fullData?.length")
    explorer.settled()
    assert page.evaluate("(() => { const main = document.querySelector('[data-testid=stMain]'); return main.scrollHeight - main.clientHeight })()") <= 0
    total = page.evaluate(f"{CHART}.data.filter(trace => trace.type === 'bar').flatMap(trace => trace.x).reduce((a, b) => a + b)")
    expect(page.locator(".st-key-size-bars .sentence")).to_contain_text(f"{total:,} bytes in place of")
    place = page.evaluate(
        f"""(() => {{ const chart = {CHART}, box = chart.getBoundingClientRect(), {{ xaxis, yaxis }} = chart._fullLayout;
            return [box.x + xaxis._offset + 3, box.y + yaxis._offset + yaxis.c2p(13)]; }})()"""
    )
    page.mouse.move(*place)
    page.mouse.click(*place)
    name = page.evaluate(f"{CHART}._fullData[0].y[13]")
    expect(page.get_by_role("combobox", name="Layer", exact=True)).to_have_value(name, timeout=PATIENCE)
    expect(page.locator(".stage").last).to_contain_text("In the file", timeout=PATIENCE)
