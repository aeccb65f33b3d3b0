"""Devices: what a phone, a board or a microcontroller would make of the run at hand, by roofline, and whether it fits there."""

from __future__ import annotations

from pages.ui import absent, devices, header, services, state
from pages.ui.chart import load as load_plotly
from pages.ui.frame import frame, guard


def main() -> None:
    frame("Devices")
    load_plotly()
    with guard():
        services.cluster()
        view = state.view()
        header.header(view)
        if absent.anything(view):
            return
        header.baseline(view)
        devices.devices()


main()
