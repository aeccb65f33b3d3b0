"""Distill as a person meets it: bars that move with the temperature, two trainings side by side, and a way to stop them."""

from __future__ import annotations

from playwright.sync_api import expect

from core.store import CANCELLED
from tests.e2e.conftest import PATIENCE, eventually

DIGITS = "Distill?model=mobilenet_v3_small&data=digits&student=squeezenet1_1&width=0.5"
CURVES = "document.querySelector('.st-key-curves .paretochart')?._fullData"


def shares(page) -> list[float]:
    return [float(text.removesuffix(" %")) for text in page.locator(".st-key-answers .share").all_inner_texts()]


def test_bars_move_while_the_temperature_is_dragged(explorer):
    page = explorer.open("Distill?model=resnet18&data=fashion_mnist").page
    page.locator(".st-key-answers .share").first.wait_for()
    before = shares(page)
    assert abs(sum(before) - 100) < 1
    drag = explorer.hold("distill-temperature")
    drag(0.9)
    expect(page.locator(".st-key-answers .softened")).to_have_attribute("data-temperature", explorer.value("distill-temperature"))
    held = shares(page)
    page.wait_for_timeout(400)  # time to ask the server, if it were asked
    assert max(held) < max(before) and min(held) > min(before)  # softer
    assert "temperature=" not in page.url  # the server was not asked
    explorer.let_go()
    explorer.until("location.search.includes('temperature=')")
    explorer.settled()
    assert max(shares(page)) < max(before)
    page.locator(".st-key-answers .pictures button").nth(1).click()
    explorer.until("location.search.includes('picture=1')")


def test_the_shipped_curve_is_there_at_once(explorer):
    page = explorer.open("Distill").page
    explorer.until("document.querySelector('.st-key-temperatures .paretochart')?._fullData?.find(trace => trace.uid === 'mean')?.x.length >= 5")
    explorer.until(f"{CURVES}?.find(trace => trace.uid === 'taught')?.x.length >= 5")
    assert "points" in page.locator(".sentence").inner_text()
    assert page.evaluate("(() => { const main = document.querySelector('[data-testid=stMain]'); return main.scrollHeight - main.clientHeight; })()") <= 0


def test_both_curves_appear_and_a_reload_finds_them(explorer):
    page = explorer.open(DIGITS + "&epochs=3&images=300").page
    explorer.connected()
    page.locator(".st-key-train-pair button").click()
    for side in ("taught", "alone"):
        explorer.until(f"{CURVES}?.find(trace => trace.uid === '{side}')?.x.length === 3")
        explorer.until(f"{CURVES}?.find(trace => trace.uid === '{side}-end')")
    expect(page.locator(".pair")).to_contain_text("Measured here", timeout=PATIENCE)
    page.reload()
    explorer.until(f"{CURVES}?.find(trace => trace.uid === 'taught')?.x.length === 3")
    page.get_by_text("Open this student in the explorer").click()
    explorer.until("location.search.includes('step=student') && !location.pathname.includes('Distill')")


def test_trainings_can_be_cancelled(explorer, store):
    page = explorer.open(DIGITS + "&width=1&epochs=50&images=900").page
    explorer.connected()
    page.locator(".st-key-train-pair button").click()
    explorer.until(f"{CURVES}?.find(trace => trace.uid === 'alone')?.x.length >= 1")
    page.locator(".st-key-cancel-pair button").click()
    expect(page.locator(".pair")).to_contain_text("cancelled", timeout=PATIENCE)
    states = lambda: [row["state"] for row in store.rows("mobilenet_v3_small", "digits") if row["recipe"]["steps"][1].get("epochs") == 50]
    eventually(lambda: states() == [CANCELLED] * 2)
