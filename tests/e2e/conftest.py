"""A real browser on a real server with a cluster of its own, in a home that is thrown away.

One server serves the whole suite; every test has a page of its own. Waits are on conditions, never on time alone.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from playwright.sync_api import Error, Page, expect, sync_playwright

from core.errors import ClusterError
from core.store import Store
from tests import browser

ROOT = Path(__file__).parents[2]
PATIENCE = 120_000  # milliseconds: a busy machine may need long, a quiet one never does
MOST_SHOWN = 3000  # characters of a page or a log beside a failure
HERE = "document.querySelector('.paretochart')?._fullData?.at(-1)"  # the point at hand: the last trace
STATUS = "[...document.querySelectorAll('.st-key-status *')].map(host => host.shadowRoot?.querySelector('.text')?.textContent).find(Boolean)"
LIGHT = "?model=squeezenet1_1&data=fashion_mnist"


class Explorer:
    """The explorer in one tab, with the words that the tests use."""

    def __init__(self, page: Page, address: str):
        self.page, self.address, self.errors = page, address, []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, query: str = LIGHT) -> Explorer:
        self.page.goto(self.address + query)
        self.until("document.querySelector('.paretochart')?._fullLayout")
        self.settled()
        return self

    def until(self, condition: str, argument=None) -> None:
        """Wait until a JavaScript expression is truthy."""
        self.page.wait_for_function(condition, arg=argument)

    def settled(self) -> None:
        """Wait until the script stands still and every widget is drawn."""
        self.page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
        self.until("document.querySelectorAll('[data-testid=stSkeleton]').length === 0")

    def here(self) -> dict:
        """Name, symbol and place of the point at hand."""
        return self.page.evaluate(f"(() => {{ const at = {HERE}; return {{ name: at.name, symbol: at.marker.symbol, x: at.x[0], y: at.y[0] }}; }})()")

    def count_updates(self) -> None:
        """Begin to write down, with its time, every change of the point at hand."""
        self.page.evaluate(
            """() => {
                const chart = document.querySelector('.paretochart');
                window.seen = [];
                new MutationObserver(() => {
                    const at = chart._fullData.at(-1);
                    window.seen.push({ time: performance.now(), name: at.name, symbol: at.marker.symbol, x: at.x[0], y: at.y[0] });
                }).observe(chart, { attributes: true, attributeFilter: ['data-drawn'] });
            }"""
        )

    def seen(self) -> list[dict]:
        return self.page.evaluate("window.seen")

    def slider(self, key: str):
        return self.page.locator(f".st-key-{key} input[type=range]")

    def value(self, key: str) -> str:
        return self.page.locator(f".st-key-{key} output").inner_text()

    def shows(self, key: str, text: str) -> None:
        """Wait until a slider stands at a value: the chart is drawn first, the controls follow."""
        expect(self.page.locator(f".st-key-{key} output")).to_have_text(text, timeout=PATIENCE)

    def hold(self, key: str) -> Callable[[float], None]:
        """Press the mouse on a slider's thumb; the function returned drags it to a share of the track."""
        slider = self.slider(key)
        box = slider.bounding_box()
        middle = box["y"] + box["height"] / 2
        share = slider.evaluate("input => (input.value - input.min) / (input.max - input.min)")
        along = lambda at: box["x"] + 8 + at * (box["width"] - 16)
        self.page.mouse.move(along(share), middle)
        self.page.mouse.down()
        return lambda at: self.page.mouse.move(along(at), middle, steps=3)

    def let_go(self) -> None:
        self.page.mouse.up()

    def status(self) -> str:
        return self.page.locator(".st-key-status .text").inner_text()

    def connected(self) -> None:
        """Wait until the cluster answers."""
        self.until(f"({STATUS})?.startsWith('starting') === false")

    def at_rest(self) -> None:
        """Wait until the page is not about to be drawn anew, as it is when its baseline has been timed on this machine: that closes dialogs."""
        self.until(f"document.querySelector('.baseline')?.textContent.includes('this machine') || ({STATUS}) === 'idle'")
        self.settled()


def eventually(answer: Callable, seconds: float = PATIENCE / 1000):
    """The first truthy answer."""
    end = time.monotonic() + seconds
    while not (found := answer()):
        if time.monotonic() > end:
            raise TimeoutError(f"nothing within {seconds:g} seconds")
        time.sleep(0.05)
    return found


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """The suite's PARETOSCOPE_HOME."""
    return tmp_path_factory.mktemp("e2e") / "home"


@pytest.fixture(scope="session")
def address(place) -> Iterator[str]:
    """The address of a running dashboard. Its cluster is ended with it."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = os.environ | {"PARETOSCOPE_HOME": str(place)}
    log = (place.parent / "server.log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "dashboard.py", "--server.port", str(port), "--server.headless", "true"],
        cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        _answering(f"http://127.0.0.1:{port}/_stcore/health", server)
        yield f"http://127.0.0.1:{port}/"
    finally:
        _end(place, server)
        log.close()


def _answering(url: str, server: subprocess.Popen) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy for the package index is none for 127.0.0.1
    end, why = time.monotonic() + 120, None
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the dashboard ended with status {server.returncode}")
        try:
            with direct.open(url, timeout=5):
                return
        except OSError as error:
            why = error
        time.sleep(0.1)
    raise TimeoutError(f"the dashboard did not answer within two minutes: {why}")


def _end(place: Path, server: subprocess.Popen) -> None:
    from core.jobs.connection import stop_office

    os.environ["PARETOSCOPE_HOME"], before = str(place), os.environ["PARETOSCOPE_HOME"]
    try:
        with suppress(ClusterError, ProcessLookupError):
            stop_office()
    finally:
        os.environ["PARETOSCOPE_HOME"] = before
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(60)
    server.kill()
    server.wait()


@pytest.fixture(scope="session")
def chromium():
    path = browser.find()
    if path is None:
        pytest.fail(browser.NONE)
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=browser.ARGUMENTS)
        yield made
        made.close()


@pytest.fixture
def tabs() -> list[Explorer]:
    """The tabs of a test, in the order of their opening."""
    return []


@pytest.fixture
def tab(chromium, address, tabs) -> Iterator[Callable[[], Explorer]]:
    """Opens tabs; a page error in any of them fails the test."""

    def more() -> Explorer:
        explorer = Explorer(chromium.new_page(viewport={"width": 1440, "height": 900}), address)
        tabs.append(explorer)
        return explorer

    yield more
    errors = [error for explorer in tabs for error in explorer.errors]
    for explorer in tabs:
        explorer.page.close()
    assert not errors


@pytest.fixture
def explorer(tab) -> Explorer:
    return tab()


@pytest.fixture
def store(place, address) -> Iterator[Store]:
    """What the suite's cluster writes, to look at."""
    made = Store(f"sqlite:///{place / 'paretoscope.sqlite'}")
    yield made
    made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Beside the traceback of a failed test: what its tabs showed, and what its server and its cluster said last."""
    report = yield
    if report.failed and call.when == "call":
        for explorer in item.funcargs.get("tabs", []):
            with suppress(Error):
                shown = explorer.page.locator("body").inner_text(timeout=2000)
                report.sections.append((f"shown at {explorer.page.url}", shown[:MOST_SHOWN]))
        where = item.funcargs.get("place")
        for log in (where.parent / "server.log", where / "cluster.log") if where else ():
            if log.exists():
                report.sections.append((log.name, log.read_text(errors="replace")[-MOST_SHOWN:]))
    return report
