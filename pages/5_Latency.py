"""Latency: the run at hand, the pinned ones and the uncompressed model in every runtime, timed in turns on this machine; and why it is what it is."""

from __future__ import annotations

from pages.ui import absent, header, latency, services, state
from pages.ui.chart import load as load_plotly
from pages.ui.frame import frame, guard


def main() -> None:
    frame("Latency")
    load_plotly()
    with guard():
        services.cluster()
        view = state.view()
        header.header(view)
        if absent.anything(view):
            return
        header.baseline(view)
        latency.latency()


main()
