"""The report as a person takes it: one click in the explorer, opened without a network, drawn, and printed."""

from __future__ import annotations

from tests.e2e.conftest import LIGHT, PATIENCE
from tests.e2e.test_downloads import taken


def test_the_report_is_drawn_without_a_network(explorer, chromium, tmp_path):
    explorer.open(LIGHT)
    name, content = taken(explorer, explorer.page.get_by_role("button", name="Report").click)
    assert name == "squeezenet1_1-fashion_mnist.html"
    (tmp_path / name).write_bytes(content)
    alone = chromium.new_context(viewport={"width": 1200, "height": 900}, offline=True)
    page, asked, faults = alone.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.goto((tmp_path / name).as_uri())
    page.wait_for_function("[...document.querySelectorAll('.chart')].every(chart => chart.querySelector('path.point'))", timeout=PATIENCE)
    drawn = page.evaluate("[...document.querySelectorAll('.chart')].map(chart => chart.querySelectorAll('path.point').length)")
    assert len(drawn) == 3 and drawn[0] >= 20 and min(drawn) > 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.pdf()[:4] == b"%PDF"
    alone.close()
    assert asked == [(tmp_path / name).as_uri()] and faults == []
