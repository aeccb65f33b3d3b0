"""Latency: the run at hand, the pinned ones and the uncompressed model in every runtime, timed in turns on this machine; and why it is what it is."""

from __future__ import annotations

from pages.ui.latency import latency
from pages.ui.page import page

page("Latency", latency)
