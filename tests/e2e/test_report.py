"""The report as a person takes it: one click in the explorer, opened without a network, drawn, and printed."""

from __future__ import annotations

from tests.e2e.conftest import LIGHT, PATIENCE
from tests.e2e.test_downloads import taken

PAPER = 680  # pixels between the margins of A4


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
    _check_print(page)
    alone.close()
    assert asked == [(tmp_path / name).as_uri()] and faults == []


def _check_print(page) -> None:
    """On paper nothing is cut off at the side, nothing is left that only a screen can use, and no chart or run is torn apart; afterwards all is as before."""
    width = page.evaluate("document.querySelector('.chart svg').getBoundingClientRect().width")
    page.set_viewport_size({"width": PAPER, "height": 1000})
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(f"[...document.querySelectorAll('.chart svg')].every(drawn => drawn.getBoundingClientRect().right <= {PAPER})", timeout=PATIENCE)
    wide = "[...document.querySelectorAll('body *')].filter(part => !part.closest('svg, script') && part.getBoundingClientRect().right > innerWidth + 1)"
    assert page.evaluate(f"{wide}.map(part => part.outerHTML.slice(0, 80))") == []
    over = "figure => figure.querySelector('svg').getBoundingClientRect().bottom > figure.querySelector('figcaption').getBoundingClientRect().top + 1"
    assert not page.evaluate(f"[...document.querySelectorAll('figure')].some({over})")
    assert page.evaluate("[...document.querySelectorAll('.modebar')].every(bar => getComputedStyle(bar).display === 'none')")
    assert page.evaluate("[...document.querySelectorAll('figure, .run')].every(part => getComputedStyle(part).breakInside === 'avoid')")
    assert page.evaluate("[...document.querySelectorAll('thead')].every(head => getComputedStyle(head).display === 'table-header-group')")
    paper = page.pdf(format="A4", prefer_css_page_size=True)
    assert paper[:4] == b"%PDF" and paper.count(b"/Type /Page\n") >= 3
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 1200, "height": 900})
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.wait_for_function(f"Math.abs(document.querySelector('.chart svg').getBoundingClientRect().width - {width}) < 2", timeout=PATIENCE)
