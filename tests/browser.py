"""Finds the Chromium that the browser tests drive, and installs one where none is found.

    .venv/bin/python tests/browser.py     called by `make test`: silent when there is one, one sentence when none can be had

An installed Chromium or Chrome is taken first, then Debian's package, then the one that playwright downloads.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-quic"]
NONE = "The browser tests need Chromium and none could be installed here; install it (Debian: apt-get install chromium) and run make test again."


@functools.cache
def find() -> str | None:
    """The path of a Chromium that answers, or None."""
    for name in NAMES:
        path = shutil.which(name)
        if path and answers(path):
            return path
    own = playwrights_own()
    return own if own and answers(own) else None


def answers(path: str) -> bool:
    """Whether it starts at all: Ubuntu's chromium-browser may be an empty shell, and libraries may be missing."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def playwrights_own() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return playwright.chromium.executable_path or None


def install() -> None:
    """Try Debian's package where that is possible, then playwright's download."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say("Installing Debian's package chromium for the browser tests (about 100 MB to download).")
        quiet(["apt-get", "update", "-qq"])
        quiet(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"])
        find.cache_clear()
    if find() is None:
        say("Downloading playwright's Chromium for the browser tests (about 180 MB).")
        quiet([sys.executable, "-m", "playwright", "install", "chromium"])
        find.cache_clear()


def quiet(command: list[str]) -> None:
    """Run it without a word; whether a browser is there afterwards is what counts."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False)


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if find() is None:
        install()
    if find() is None:
        say(NONE)
        sys.exit(1)
