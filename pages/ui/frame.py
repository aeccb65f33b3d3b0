"""Every page's first call: page settings, styles, and the navigation in groups."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import streamlit as st

from core import device
from core.errors import ParetoscopeError
from pages.ui import state

ROOT = Path(__file__).resolve().parents[2]
STYLES = ROOT / "assets" / "styles" / "paretoscope.css"
ICON = ROOT / "assets" / "styles" / "icon.svg"
PAGES = {  # group → (file, title, icon); a page appears here when it exists
    "Explore": (
        ("dashboard.py", "Explorer", ":material/scatter_plot:"),
        ("pages/1_Layers.py", "Layers", ":material/layers:"),
        ("pages/2_Distill.py", "Distill", ":material/school:"),
        ("pages/7_Size.py", "Size", ":material/data_object:"),
    ),
    "Ship": (
        ("pages/4_Export.py", "Export", ":material/ios_share:"),
        ("pages/5_Latency.py", "Latency", ":material/timer:"),
        ("pages/6_Devices.py", "Devices", ":material/devices:"),
    ),
    "Tell": (("pages/3_Papers.py", "Papers", ":material/menu_book:"),),
}


def frame(title: str) -> None:
    """Set up the page named `title`. Must be the first Streamlit call of a page."""
    st.set_page_config(page_title=f"{title} · Paretoscope", page_icon=str(ICON), layout="wide", initial_sidebar_state="expanded")
    st.html(STYLES)
    state.enter(title)
    with st.sidebar:
        st.html('<div class="brand">Paretoscope</div>')
        for group, pages in PAGES.items():
            st.html(f'<div class="group">{group}</div>')
            for file, name, icon in pages:
                st.page_link(file, label=name, icon=icon)
        with guard():
            if device.chosen() != device.CPU:
                st.caption(f"Accuracy and training: {device.WORDS[device.chosen()]}. Latency: the processor.")


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """Turn an error that Paretoscope raises on purpose into a message box with its sentence; nothing already drawn is lost."""
    try:
        yield
    except ParetoscopeError as error:
        st.error(str(error), icon=":material/error:")
