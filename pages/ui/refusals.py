"""What a button would not do: its sentence is kept by the session until the page is drawn again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import streamlit as st

from core.errors import ParetoscopeError
from pages.ui import state


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Around what a button does: an error that Paretoscope raises on purpose is kept for `say`."""
    try:
        yield
    except ParetoscopeError as error:
        state.session()["refused"] = str(error)


def say(icon: str | None = None) -> None:
    """The sentence in a message box, once."""
    refused = state.session().pop("refused", "")
    if refused:
        st.error(refused, icon=icon)
