"""The page Papers in a real browser: charts are drawn, and a recipe opens in the explorer."""

import csv
import io

from tests.e2e.test_downloads import taken


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
