"""What a person takes away from the page: the chart as a picture and as numbers, and the table of runs. The files themselves are looked at."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.e2e.conftest import HERE, Explorer

NAME = "squeezenet1_1-fashion_mnist"
POINTS = """() => document.querySelector('.paretochart').data.filter(trace => trace.customdata).flatMap(trace =>
    trace.x.flatMap((x, at) => x == null ? [] : [[trace.name, trace.customdata[at]?.[0] ?? '', x, trace.y[at]]]))"""


def taken(explorer: Explorer, act: Callable[[], None]) -> tuple[str, bytes]:
    """Name and content of the file that is downloaded by doing it."""
    with explorer.page.expect_download() as waiting:
        act()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def by_button(explorer: Explorer, title: str) -> tuple[str, bytes]:
    return taken(explorer, explorer.page.locator(f'.paretochart .modebar-btn[data-title="{title}"]').click)


def test_the_chart_comes_as_numbers_as_a_drawing_and_as_a_picture(explorer):
    explorer.open()
    explorer.connected()
    explorer.until(f"{HERE}.name === 'This run'")
    explorer.page.locator(".paretochart .nsewdrag").first.hover()
    shown = explorer.page.evaluate(POINTS)
    size = explorer.page.evaluate("(() => { const at = document.querySelector('.paretochart'); return [at.clientWidth, at.clientHeight]; })()")

    name, content = by_button(explorer, "Download the points as CSV")
    head, *rows = csv.reader(io.StringIO(content.decode()))
    assert name == f"{NAME}.csv" and head[:2] == ["series", "run"] and head[2].startswith("Download") and head[3:] == ["top1_percent", "description"]
    assert [[series, run, float(x), float(y)] for series, run, x, y, _said in rows] == shown and len(rows) >= 20
    assert {"Baseline", "Weights pruned", "Distilled"} <= {row[0] for row in rows}
    assert all("<" not in row[4] and "%" in row[4] for row in rows if row[0] != "You are here")

    name, content = by_button(explorer, "Download as SVG")
    drawing = xml.etree.ElementTree.fromstring(content)
    assert name == f"{NAME}.svg" and drawing.tag == "{http://www.w3.org/2000/svg}svg" and float(drawing.get("width")) > 400
    points = [part for part in drawing.iter("{http://www.w3.org/2000/svg}path") if "point" in (part.get("class") or "").split()]
    text = " ".join(drawing.itertext())
    assert len(points) >= len(shown) and "Top-1 accuracy" in text and "Weights pruned" in text and "$ink" not in content.decode()

    name, content = by_button(explorer, "Download plot as a PNG")
    picture = Image.open(io.BytesIO(content))
    assert name == f"{NAME}.png" and picture.format == "PNG" and picture.size == (2 * size[0], 2 * size[1])
    assert len(picture.convert("RGB").getcolors(2**24)) > 100  # something is drawn


def test_the_table_of_runs_is_filtered_and_taken(explorer):
    page = explorer.open().page
    explorer.at_rest()
    page.locator(".st-key-runs button").click()
    page.locator(".st-key-runs-filter input").fill("distill 95")
    page.keyboard.press("Enter")
    page.get_by_text("1 of ").filter(has_text="runs, fashion_mnist, validation split.").wait_for()
    name, content = taken(explorer, page.locator("[role=dialog] [data-testid=stDownloadButton] button").click)
    (row,) = csv.DictReader(io.StringIO(content.decode(), newline=""))
    assert name == f"{NAME}.csv" and row["Recipe"].startswith("Prune weights 95 % → Distill") and 0 < float(row["Top-1, %"]) < 100
    assert float(row["low"]) < float(row["Against baseline"]) < float(row["high"]) and len(row["Key"]) == 16
