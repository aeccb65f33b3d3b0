"""How fast the explorer answers in a real browser: previews, known runs, and the second start. Wants a quiet machine of two cores."""

from __future__ import annotations

import os
import statistics
import time

import psutil
import pytest

from core.recipe import Recipe
from core.work import Work
from tests.e2e.conftest import HERE, Explorer, address, chromium, place, tab, tabs  # noqa: F401  (fixtures)

pytestmark = pytest.mark.benchmark
RELEASES, APART, WARM = 7, 4, 3  # places to let go at, how far they are from each other in percent, and how many go before that count
SHAPED_SECONDS = 2.0  # from letting go of a slider that changes shapes to a measured latency on the chart
LIMITS = {"squeezenet1_1": 0.4, "resnet18": 0.7}  # seconds from letting go to the preview on screen
STOLEN = 0.03  # of the processors' time, by other machines on the same host, above which a measurement does not count
DRAGGED_SECONDS, UPDATES_A_SECOND = 4.0, 4.0
ODD = "scope~layer"  # recipes that no gallery holds
QUANTIZE = {"step": "quantize", "weight_bits": 6}
POINTS_DRAWN = "document.querySelectorAll('.paretochart .scatterlayer .point').length"


def query(model: str, sparsity: float, bits: bool = False) -> str:
    return f"?model={model}&data=fashion_mnist&step=magnitude_prune~sparsity~{sparsity}~{ODD}" + ("&step=quantize~weight_bits~6" if bits else "")


def recipe(sparsity: float, bits: bool = False) -> Recipe:
    prune = {"step": "magnitude_prune", "sparsity": sparsity, "scope": "layer"}
    return Recipe.from_json({"steps": [prune, QUANTIZE] if bits else [prune]})


def listen(explorer: Explorer) -> None:
    """Write down when the slider was let go, and every drawing with the recipe that it shows."""
    explorer.page.evaluate(
        """() => {
            const chart = document.querySelector('.paretochart');
            window.draws = []; window.released = Infinity;
            for (const end of ['pointerup', 'mouseup']) addEventListener(end, () => { window.released = performance.now(); }, true);
            new MutationObserver(() => {
                const at = chart._fullData.at(-1);
                window.draws.push({ time: performance.now(), id: at.customdata?.[0]?.[0], name: at.name });
            }).observe(chart, { attributes: true, attributeFilter: ['data-drawn'] });
            window.shown = (id) => window.draws.find((draw) => draw.id === id)?.time; // may be before the slider was let go
            window.shownAfter = (id) => window.draws.find((draw) => draw.time > window.released && draw.id === id)?.time;
        }"""
    )


def stolen() -> tuple[int, int]:
    """Ticks of all processors so far, and those of them that the machine's host gave to others."""
    times = psutil.cpu_times()
    return sum(times), getattr(times, "steal", 0.0)


def stolen_since(before: tuple[int, int]) -> float:
    """The share of the processors' time that was given to others since `stolen()` was `before`."""
    after = stolen()
    return (after[1] - before[1]) / max(after[0] - before[0], 1e-9)


def quiet_median(releases: list[tuple[float, float]]) -> float:
    """The median of the seconds that were measured while the machine was ours; skips the benchmark where it hardly was."""
    ours = [seconds for seconds, share in releases if share <= STOLEN]
    print("\n" + ", ".join(f"{seconds:.2f} s ({share:.0%} stolen)" for seconds, share in releases))
    if len(ours) < len(releases) / 2:
        pytest.skip(f"others on the host took the processors in {len(releases) - len(ours)} of {len(releases)} measurements; try again when they are quiet")
    return statistics.median(ours)


def release_seconds(explorer: Explorer, model: str, first: int, bits: bool = False, count: int = RELEASES) -> list[tuple[float, float]]:
    """Seconds from letting go, at the end of a drag's last move, to the preview of a place that nobody has seen before.

    Beside each the share of the processors' time that was stolen meanwhile.
    """
    found, box = [], explorer.slider("sparsity").bounding_box()
    along = lambda at: box["x"] + 8 + at / 99 * (box["width"] - 16)
    middle = box["y"] + box["height"] / 2
    for number in range(count):
        explorer.page.evaluate("window.released = Infinity; window.draws = []")
        at = float(explorer.value("sparsity").removesuffix(" %"))
        aim = first + APART * number
        explorer.page.mouse.move(along(at), middle)
        explorer.page.mouse.down()
        for step in range(1, 21):
            explorer.page.wait_for_timeout(50)
            explorer.page.mouse.move(along(at + (aim - at) * step / 20 - (2 if step < 20 else 0)), middle)
        before = stolen()
        explorer.page.mouse.up()
        id = f"{model}/{recipe(round(float(explorer.value('sparsity').removesuffix(' %')) / 100, 2), bits).key()}"
        wait(explorer, "id => window.shown(id) !== undefined", id)
        share = stolen_since(before)
        found.append((explorer.page.evaluate("id => Math.max(0, window.shown(id) - window.released) / 1000", id), share))
        wait(explorer, f"{HERE}.name === 'This run'")  # the exact figure; then the next, as a person would
    return found


def timed_seconds(explorer: Explorer, share: float) -> tuple[float, float]:
    """Seconds from letting go of the channels' slider at a share of its track to the point on a chart over latency, and the share of time stolen meanwhile.

    Over that axis a preview has no place: its point appears when its run's latency is measured.
    """
    explorer.page.evaluate("window.released = Infinity; window.draws = []")
    drag = explorer.hold("sparsity")
    drag(share)
    explorer.page.wait_for_timeout(500)
    before = stolen()
    explorer.let_go()
    step = {"step": "channel_prune", "sparsity": round(float(explorer.value("sparsity").removesuffix(" %")) / 100, 2)}
    id = f"resnet18/{Recipe.from_json({'steps': [step]}).key()}"
    wait(explorer, "id => window.shownAfter(id) !== undefined", id)
    share = stolen_since(before)
    seconds = explorer.page.evaluate("id => (window.shownAfter(id) - window.released) / 1000", id)
    wait(explorer, f"{HERE}.name === 'This run'")
    idle(explorer)
    return seconds, share


def updates_a_second(explorer: Explorer, first: float) -> float:
    """Previews of other places a second while the thumb moves on, a percent at a time, over places that nobody has seen before."""
    slider = explorer.slider("sparsity")
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    explorer.page.mouse.move(box["x"] + first * box["width"], middle)
    explorer.page.mouse.down()
    explorer.page.wait_for_timeout(500)
    explorer.page.evaluate("window.draws = []")
    started, step = time.monotonic(), 0
    while time.monotonic() - started < DRAGGED_SECONDS:
        explorer.page.mouse.move(box["x"] + (first + 0.01 * step) * box["width"], middle)
        explorer.page.wait_for_timeout(25)
        step += 1
    shown = explorer.page.evaluate("new Set(window.draws.filter((draw) => draw.name === 'Preview').map((draw) => draw.id)).size")
    rate = shown / (time.monotonic() - started)
    explorer.page.mouse.up()
    return rate


def wait(explorer: Explorer, condition: str, argument=None) -> None:
    """As `Explorer.until`, looking twenty times a second: looking at every frame makes the browser draw frames."""
    explorer.page.wait_for_function(condition, arg=argument, polling=50)


def idle(explorer: Explorer, seconds: float = 2.0, patience: float = 600.0) -> None:
    """Wait until nothing was under way for so long: a page that is new to a machine times the shipped runs one after another."""
    quiet_since = started = time.monotonic()
    while time.monotonic() - quiet_since < seconds:
        assert time.monotonic() - started < patience, "something is always under way"
        time.sleep(0.2)
        if explorer.status() != "idle":
            quiet_since = time.monotonic()


def opened(tab, model: str, bits: bool = False, more: str = "", alone: bool = True) -> Explorer:  # noqa: F811
    explorer = tab().open(query(model, 0.1, bits) + more)
    explorer.connected()
    explorer.until(f"{HERE}.name === 'This run'")
    if alone:
        idle(explorer)
    listen(explorer)
    return explorer


@pytest.mark.parametrize("model", list(LIMITS))
def test_previews_are_quick_alone_and_beside_a_distillation(tab, place, model, monkeypatch):  # noqa: F811
    from core import cluster

    explorer = opened(tab, model)
    release_seconds(explorer, model, 12, count=WARM)
    alone = quiet_median(release_seconds(explorer, model, 40))
    explorer.page.close()
    rate = updates_a_second(opened(tab, model, more="~layers~inner"), 0.12)

    monkeypatch.setenv("PARETOSCOPE_HOME", str(place))
    client = cluster.connect(start=False)
    long = Recipe.from_json({"steps": [{"step": "distill", "epochs": 50, "images": 10000}]})
    identity = client.submit(Work("squeezenet1_1", "fashion_mnist", long))["identity"]
    try:
        until(lambda: (client.find(identity) or {}).get("stage") == "train")
        explorer = opened(tab, model, bits=True, alone=False)
        release_seconds(explorer, model, 12, bits=True, count=WARM)
        beside = quiet_median(release_seconds(explorer, model, 40, bits=True))
        rate_beside = updates_a_second(opened(tab, model, bits=True, more="~granularity~tensor", alone=False), 0.12)
        assert client.find(identity)["state"] == "RUNNING", "the distillation ended too soon"
    finally:
        client.cancel(identity)
        until(lambda: client.store.find(identity)["state"] == "CANCELLED")
        client.close()
    print(f"\n{model}: release to preview {alone:.2f} s, beside a distillation {beside:.2f} s; {rate:.1f} and {rate_beside:.1f} updates a second")
    assert alone < LIMITS[model]
    assert beside < 2 * LIMITS[model]
    if model == "squeezenet1_1":
        assert rate >= UPDATES_A_SECOND
        assert rate_beside >= UPDATES_A_SECOND / 2


def test_a_measured_latency_follows_a_move_that_changes_shapes(tab):  # noqa: F811
    explorer = tab().open("?model=resnet18&data=fashion_mnist&step=channel_prune~sparsity~0.1&x=latency")
    explorer.connected()
    explorer.until(f"{HERE}.name === 'This run'")
    idle(explorer)
    listen(explorer)
    places = [0.2, 0.4, 0.55, 0.35, 0.7, 0.45, 0.6, 0.3, 0.65, 0.5][: WARM + RELEASES]
    found = [timed_seconds(explorer, share) for share in places]
    seconds = quiet_median(found[WARM:])
    print(f"\nresnet18, channels: {seconds:.2f} s from letting go to a measured latency")
    assert seconds < SHAPED_SECONDS


def until(true, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"nothing within {seconds:g} seconds"
        time.sleep(0.05)


def test_a_known_run_is_on_screen_at_once(tab):  # noqa: F811
    """Between two recipes that were measured before, by the switch that repairs batch norm."""
    explorer = tab().open("?model=mobilenet_v3_small")
    explorer.connected()
    explorer.until(f"{HERE}.name === 'This run'")
    idle(explorer)
    listen(explorer)
    found = []
    for _ in range(12):
        former = explorer.page.evaluate(f"{HERE}.customdata[0][0]")
        explorer.page.evaluate("window.released = Infinity; window.draws = []")
        before = stolen()
        explorer.page.locator("[class*=st-key-repair] label").click()
        wait(explorer, f"former => {HERE}.name === 'This run' && {HERE}.customdata[0][0] !== former", former)
        now = explorer.page.evaluate(f"{HERE}.customdata[0][0]")
        wait(explorer, "id => window.shownAfter(id) !== undefined", now)
        share = stolen_since(before)
        found.append((explorer.page.evaluate("id => (window.shownAfter(id) - window.released) / 1000", now), share))
    known = quiet_median(found[2:])  # the first two were measured first
    print(f"\na known run: {known:.2f} s from the click to the screen")
    assert known < 0.2


def test_the_second_start_is_quick(tmp_path, chromium):  # noqa: F811
    """From `make dashboard` to the gallery's points on the chart, and on to a slider that was moved and answered."""
    import signal
    import subprocess
    from contextlib import suppress

    from tests.e2e.conftest import ROOT, _answering, _end

    home, port = tmp_path / "home", "8765"
    of_make = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS")  # of the run around this one
    variables = {name: value for name, value in os.environ.items() if name not in of_make}
    variables |= {"PARETOSCOPE_HOME": str(home), "STREAMLIT_SERVER_HEADLESS": "true"}
    unpruned = Recipe.from_json({"steps": [{"step": "magnitude_prune", "sparsity": 0.8}, {"step": "calibrate_batchnorm"}]})
    full, answered = [], []
    for _ in range(2):
        started = time.monotonic()
        server = subprocess.Popen(
            ["make", "dashboard", f"PORT={port}"], cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        page = chromium.new_page(viewport={"width": 1440, "height": 900})
        try:
            _answering(f"http://127.0.0.1:{port}/_stcore/health", server)
            explorer = Explorer(page, f"http://127.0.0.1:{port}/")
            page.goto(explorer.address)
            wait(explorer, f"{POINTS_DRAWN} >= 20 && {HERE}?.name === 'This run'")
            full.append(time.monotonic() - started)
            explorer.slider("bits").focus()
            page.keyboard.press("End")  # off: a recipe that the gallery holds
            wait(explorer, f"id => {HERE}.customdata[0][0] === id && {HERE}.name === 'This run'", f"resnet18/{unpruned.key()}")
            answered.append(time.monotonic() - started)
        finally:
            page.close()
            with suppress(ProcessLookupError):
                _end(home, server)
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)  # whom make started
    print(f"\nfrom `make dashboard` to a full chart: first {full[0]:.1f} s, second {full[1]:.1f} s; to an answered slider {answered[1]:.1f} s")
    assert answered[1] < 8
