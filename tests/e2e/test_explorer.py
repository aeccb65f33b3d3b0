"""The explorer as a person meets it: sliders that preview, a chart that remembers, links that restore, work that survives."""

from __future__ import annotations

import psutil
import pytest
from playwright.sync_api import expect

from core.jobs.connection import running_office
from tests.e2e.conftest import HERE, LIGHT, PATIENCE, eventually

# Recipes that no gallery holds, one a test, so that each is measured anew.
DISTILLED = LIGHT + "&step=magnitude_prune~sparsity~0.{share}~scope~layer&step=distill~epochs~{epochs}~images~4000"


def layered(share: int) -> str:
    return LIGHT + f"&step=magnitude_prune~sparsity~0.{share}~scope~layer"


def test_a_dragged_slider_previews_and_then_measures(explorer):
    explorer.open(layered(30))
    explorer.connected()
    explorer.until(f"{HERE}.y[0] != null")
    explorer.count_updates()
    drag, while_held = explorer.hold("sparsity"), []
    for step in range(150):  # half a minute, of which a quick machine takes two seconds
        drag(0.31 + 0.02 * (step % 30))
        explorer.page.wait_for_timeout(200)
        while_held = [entry for entry in explorer.seen() if entry["name"] == "Preview"]
        if step >= 11 and len({entry["x"] for entry in while_held}) >= 2:
            break
    explorer.let_go()
    assert len({entry["x"] for entry in while_held}) >= 2  # the hollow point followed
    assert all(entry["symbol"].endswith("-open") for entry in while_held)
    explorer.until(f"{HERE}.name === 'This run'")
    solid = explorer.here()
    assert not solid["symbol"].endswith("-open") and 5 < solid["y"] < 100
    share = int(explorer.value("sparsity").removesuffix(" %")) / 100
    explorer.until("share => location.search.includes(`step=magnitude_prune~sparsity~${share}~`)", share)


def test_the_keyboard_moves_sliders(explorer):
    explorer.open(layered(40))
    slider = explorer.slider("sparsity")
    slider.focus()
    for key, text in (("ArrowRight", "41 %"), ("ArrowLeft", "40 %"), ("End", "99 %"), ("Home", "0 %")):
        explorer.page.keyboard.press(key)
        explorer.shows("sparsity", text)
    assert slider.get_attribute("aria-valuetext") == "0 %"
    explorer.until("!location.search.includes('magnitude_prune')")  # nothing pruned is no step


def test_what_is_done_in_quick_succession_all_holds(explorer):
    """The browser sends with a click what it last knew of every widget: here, that the preset is still chosen."""
    explorer.open("?model=mobilenet_v3_small")
    explorer.connected()
    for number, (places, pause) in enumerate(((5, 0), (3, 250), (4, 700))):
        explorer.slider("sparsity").focus()
        for _ in range(places):
            explorer.page.keyboard.press("ArrowRight")
        explorer.page.wait_for_timeout(pause)
        explorer.page.locator("[class*=st-key-repair] label").click()
        explorer.until("repaired => location.search.includes('calibrate_batchnorm') === repaired", number % 2 == 1)
    explorer.shows("sparsity", "92 %")
    explorer.until("location.search.includes('sparsity~0.92')")


def test_zoom_and_hidden_traces_survive_updates(explorer):
    explorer.open()
    explorer.connected()
    explorer.until(f"{HERE}.y[0] != null")
    explorer.page.evaluate(
        """async () => {
            const chart = document.querySelector('.paretochart');
            const { l, t } = chart._fullLayout._size;
            const box = chart.getBoundingClientRect();
            window.plot = { x: box.x + l, y: box.y + t, w: chart._fullLayout._size.w, h: chart._fullLayout._size.h };
        }"""
    )
    plot = explorer.page.evaluate("window.plot")
    ranges = "(() => { const { xaxis, yaxis } = document.querySelector('.paretochart')._fullLayout; return [...xaxis.range, ...yaxis.range]; })()"
    whole = explorer.page.evaluate(ranges)
    mouse = explorer.page.mouse
    mouse.move(plot["x"] + 0.2 * plot["w"], plot["y"] + 0.1 * plot["h"])
    mouse.down()
    mouse.move(plot["x"] + 0.9 * plot["w"], plot["y"] + 0.6 * plot["h"], steps=8)
    mouse.up()
    explorer.until(f"whole => {ranges}.every((end, at) => end !== whole[at])", whole)
    hidden = "document.querySelector('.paretochart')._fullData.find(trace => trace.uid === 'baseline')?.visible === 'legendonly'"
    zoomed = explorer.page.evaluate(ranges)
    explorer.page.locator(".paretochart .legend .traces", has_text="Baseline").locator(".legendtoggle").click()
    explorer.until(hidden)
    explorer.count_updates()
    explorer.slider("bits").focus()
    for _ in range(3):
        explorer.page.keyboard.press("ArrowLeft")
        explorer.settled()
    explorer.until("window.seen.length >= 2")
    assert explorer.page.evaluate(ranges) == pytest.approx(zoomed)
    assert explorer.page.evaluate(hidden)


def test_a_chart_taken_away_first_ends_what_it_began(explorer):
    explorer.open()
    taken = """async () => {
        const chart = document.querySelector('.paretochart');
        Plotly.relayout(chart, { 'xaxis.tickmode': 'auto' });
        chart.chart.remove();
        chart.chart.draw = () => {};  // nothing brings it back
        for (let waits = 0; chart._fullLayout && waits < 100; waits++) await new Promise(done => setTimeout(done, 100));
        return chart._fullLayout === undefined;
    }"""
    assert explorer.page.evaluate(taken)  # and a page error fails the test


def test_three_dimensions_and_back(explorer):
    """The whole of plotly.js comes with the first chart that needs it, and draws the flat one from then on."""
    drawn = "document.querySelector('.paretochart')._fullData"
    explorer.open()
    explorer.connected()
    assert not explorer.page.evaluate("Boolean(window.PlotlyWhole)")
    explorer.page.locator(".st-key-view button").locator("visible=true").first.click()
    explorer.page.locator(".st-key-three_d label").click()
    explorer.until(f"window.PlotlyWhole && {drawn}?.some(trace => trace.type === 'scatter3d' && trace.x.length > 3)")
    explorer.page.locator(".st-key-three_d label").click()
    explorer.until(f"{drawn}?.length && {drawn}.every(trace => trace.type === 'scatter') && document.querySelectorAll('.paretochart .point').length > 20")
    explorer.slider("bits").focus()
    explorer.page.keyboard.press("ArrowLeft")
    explorer.until(f"{HERE}.name === 'This run'")


def test_a_reloaded_link_restores_everything(explorer):
    query = LIGHT + "&step=magnitude_prune~sparsity~0.55&step=quantize~weight_bits~6~clipping~mse&x=on-paper&size=macs&accuracy=85&kilobytes=500"
    explorer.open(query)
    explorer.page.reload()
    explorer.until("document.querySelector('.paretochart')?._fullLayout")
    explorer.settled()
    explorer.shows("sparsity", "55 %")
    explorer.shows("bits", "6 bits")
    explorer.until("document.querySelector('.paretochart')._fullLayout.xaxis.title.text.includes('On paper')")
    expect(explorer.page.locator(".st-key-budget-accuracy input")).to_have_value("85", timeout=PATIENCE)
    expect(explorer.page.locator(".st-key-budget-kilobytes input")).to_have_value("500", timeout=PATIENCE)


def test_back_returns_to_the_last_resting_place(explorer):
    explorer.open(layered(60))
    explorer.slider("sparsity").focus()
    explorer.page.keyboard.press("ArrowRight")
    explorer.until("location.search.includes('0.61')")
    explorer.settled()
    explorer.page.go_back()
    explorer.shows("sparsity", "60 %")


def test_an_off_step_link_is_snapped_and_said(explorer):
    explorer.open(LIGHT + "&step=magnitude_prune~sparsity~0.8034")
    expect(explorer.page.locator(".st-key-messages")).to_contain_text("0.8 is used instead", timeout=PATIENCE)
    explorer.shows("sparsity", "80 %")
    explorer.page.locator(".st-key-close-messages button").click()
    explorer.page.locator(".st-key-messages").wait_for(state="detached")


def test_a_click_on_a_point_takes_its_recipe_back(explorer):
    explorer.open(layered(30))
    explorer.connected()
    explorer.until(f"{HERE}.name === 'This run'")
    explorer.slider("sparsity").focus()
    explorer.page.keyboard.press("ArrowRight")
    explorer.until(f"{HERE}.name === 'This run' && location.search.includes('0.31')")
    target = explorer.page.evaluate(
        """() => {
            const chart = document.querySelector('.paretochart'), { xaxis, yaxis } = chart._fullLayout, box = chart.getBoundingClientRect();
            const trace = chart._fullData.find(trace => trace.uid === 'weights-pruned'), here = chart._fullData.at(-1);
            const at = trace.x.findIndex((x, at) => Math.hypot(xaxis.c2p(x) - xaxis.c2p(here.x[0]), yaxis.c2p(trace.y[at]) - yaxis.c2p(here.y[0])) > 12);
            return { x: box.x + xaxis._offset + xaxis.c2p(trace.x[at]), y: box.y + yaxis._offset + yaxis.c2p(trace.y[at]), id: trace.customdata[at][0] };
        }"""
    )
    explorer.page.mouse.move(target["x"], target["y"], steps=4)
    explorer.page.locator(".paretochart .hoverlayer .hovertext").first.wait_for()
    explorer.page.mouse.click(target["x"], target["y"])
    explorer.until(f"{HERE}.customdata?.[0]?.[0] === '{target['id']}'")


def test_a_distillation_can_be_cancelled(explorer, store):
    explorer.open(DISTILLED.format(share=91, epochs=50))
    explorer.connected()
    explorer.page.locator(".st-key-train-now button").click()
    explorer.page.locator(".st-key-cancel button").wait_for()
    running = eventually(lambda: [row for row in store.rows(states=["RUNNING"]) if row["stage"] == "train"])
    explorer.page.locator(".st-key-cancel button").click()
    eventually(lambda: store.find(running[0]["identity"])["state"] == "CANCELLED")
    explorer.page.locator(".st-key-run-again button").wait_for()


def test_a_killed_worker_is_replaced_and_the_run_is_done(explorer, store, place, monkeypatch):
    explorer.open(DISTILLED.format(share=92, epochs=2))
    explorer.connected()
    button = explorer.page.locator(".st-key-train-now button")
    cancel = explorer.page.locator(".st-key-cancel button")
    button.or_(cancel).first.wait_for()
    if button.count():
        button.click()
    running = eventually(lambda: [row for row in store.rows(states=["RUNNING"]) if row["stage"] == "train"])[0]
    monkeypatch.setenv("PARETOSCOPE_HOME", str(place))
    workers = [child for child in psutil.Process(running_office()["pid"]).children(recursive=True) if child.num_threads() > 3]
    max(workers, key=lambda child: child.cpu_times().user).kill()
    eventually(lambda: store.find(running["identity"])["state"] == "COMPLETE", seconds=240)
    explorer.until(f"{HERE}.name === 'This run'")


def test_a_reload_finds_its_run_again(explorer):
    explorer.open(DISTILLED.format(share=93, epochs=50))
    explorer.connected()
    explorer.page.locator(".st-key-train-now button").click()
    explorer.page.locator(".st-key-cancel button").wait_for()
    explorer.page.wait_for_function("location.search.includes('distill')")
    explorer.page.reload()
    explorer.page.locator(".st-key-cancel button").click()
    explorer.page.locator(".st-key-run-again button").wait_for()


def test_another_page_opens_while_work_is_under_way(explorer):
    """What the page asks for by itself after the click, and before the server has heard of it, must not take the person back."""
    line, held = {"slow": False}, []

    def carry(socket):
        server = socket.connect_to_server()
        line["send"] = server.send
        socket.on_message(lambda message: held.append(message) if line["slow"] else server.send(message))

    explorer.page.route_web_socket("**/_stcore/stream", carry)
    explorer.open(DISTILLED.format(share=94, epochs=50))
    explorer.connected()
    explorer.page.locator(".st-key-train-now button").click()
    explorer.page.locator(".st-key-cancel button").wait_for()
    line["slow"] = True
    explorer.page.get_by_role("link", name="Devices").click()
    explorer.page.wait_for_timeout(2000)  # the slowness that is tried: several beats of the pulse
    line["slow"] = False
    for message in held:
        line["send"](message)
    explorer.page.locator(".st-key-devices").first.wait_for()
    explorer.page.get_by_role("link", name="Explorer").click()
    explorer.page.locator(".st-key-cancel button").click()
    explorer.page.locator(".st-key-run-again button").wait_for()


def test_two_tabs_do_not_disturb_each_other(tab):
    first, second = tab().open(layered(35)), tab().open(layered(45))
    for explorer, text in ((first, "36 %"), (second, "46 %")):
        explorer.slider("sparsity").focus()
        explorer.page.keyboard.press("ArrowRight")
        explorer.shows("sparsity", text)
    for explorer, share in ((first, "0.36"), (second, "0.46")):
        explorer.until("share => location.search.includes(share)", share)
        explorer.until(f"{HERE}.name === 'This run'")
    assert first.here()["x"] != second.here()["x"]


def test_a_missing_dataset_is_a_sentence(explorer):
    explorer.page.goto(explorer.address + "?data=cifar10")
    explorer.page.get_by_text("python -m core datasets --fetch cifar10").wait_for(timeout=PATIENCE)


def test_budgets_grey_out_and_answer(explorer):
    explorer.open(layered(30))
    explorer.connected()
    explorer.until(f"{HERE}.name === 'This run'")
    explorer.page.locator(".st-key-budget-kilobytes input").fill("1")
    explorer.page.keyboard.press("Enter")
    explorer.page.get_by_text("No measured run has at most 1.00 kB to download").wait_for()
    explorer.until("location.search.includes('kilobytes=1')")


def test_a_step_is_edited_in_its_chip(explorer):
    explorer.open(LIGHT + "&step=magnitude_prune~sparsity~0.3")
    explorer.page.locator(".st-key-chip-0 button").first.click()
    explorer.page.locator(".st-key-step-0-magnitude_prune-scope").get_by_text("layer").click()
    explorer.until("location.search.includes('scope~layer')")


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1920, 1080)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_scrolls(chromium, address, width, height, scheme):
    from tests.e2e.conftest import Explorer

    page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    explorer = Explorer(page, address).open("?accuracy=90&kilobytes=800")
    for selector in ("[data-testid=stMain]", "[data-testid=stSidebarContent]"):
        assert page.evaluate(f"(() => {{ const at = document.querySelector('{selector}'); return at.scrollHeight - at.clientHeight; }})()") <= 0
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0 and not explorer.errors
    page.locator(".st-key-chip-1 button").first.click()  # the step with most fields
    page.locator("[data-testid=stPopoverBody] .st-key-remove-1 button").wait_for()
    explorer.settled()
    explorer.until(
        """() => { const at = document.querySelector('[data-testid=stPopoverBody]'), box = at.getBoundingClientRect();
            return at.scrollHeight <= at.clientHeight && box.top >= 0 && box.bottom <= document.querySelector('.st-key-chips').getBoundingClientRect().top; }"""
    )
    page.close()
