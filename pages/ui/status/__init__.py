"""The status line, which is also the page's pulse: while something runs, it asks for the next look at it.

A fragment's `run_every` is fixed when the fragment is made; this pulse starts and stops with the work itself, and waits
until the last look was drawn.
"""

from __future__ import annotations

import time
from pathlib import Path

import streamlit as st

IDLE, BUSY, WRONG = "idle", "busy", "wrong"
_HERE = Path(__file__).parent
_HTML = (
    '<div class="status" role="status"><div class="line"><span class="dot"></span><span class="text"></span></div>'
    '<div class="track"><div class="bar"></div></div></div>'
)
_component = st.components.v2.component("paretoscope_status", html=_HTML, css=(_HERE / "status.css").read_text(), js=(_HERE / "status.js").read_text())


def status(text: str, mood: str = IDLE, *, fraction: float | None = None, detail: str = "", again: float | None = None, key: str = "status") -> None:
    """One line. With `again`, the fragment that draws this runs anew after so many seconds."""
    _component(
        key=key,
        data={
            "text": text, "mood": mood, "fraction": fraction, "detail": detail, "again_ms": round(1000 * again) if again else None,
            "turn": time.time() if again else 0,  # differs every time, so that the component sees each look
        },
        on_beat_change=lambda: None,
    )  # fmt: skip
