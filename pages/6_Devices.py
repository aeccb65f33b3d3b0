"""Devices: what a phone, a board or a microcontroller would make of the run at hand, by roofline, and whether it fits there."""

from __future__ import annotations

from pages.ui.devices import devices
from pages.ui.page import page

page("Devices", devices)
